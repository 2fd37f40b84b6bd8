"""What a run leaves behind for others: report.json, model.pt and curve.png.

Everything here is public.
"""

import hashlib
from pathlib import Path

import torch

from mmaccount.records import files, metrics
from trainer.data import Dataset
from trainer.engine import PrivateTrainer


def code_hash() -> str:
    """SHA-256 over the source of the trainer."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def finish(trainer: PrivateTrainer, data: Dataset, accuracy: float) -> dict[str, object]:
    """Write the released model, the report and the picture; returns the report."""
    bound, plan, ledger = trainer.epsilon(), trainer.plan, trainer.ledger
    trainer.layout.load(trainer.module, trainer.released())
    state = {name: value.cpu() for name, value in trainer.module.state_dict().items()}
    torch.save(state, trainer.out / "model.pt")
    rows = metrics.load(trainer.out)
    released = "all iterates" + (" and their exponential average" if trainer.update.ema else "")
    released += ", clip norms" if trainer.plan.adaptive else ""
    report: dict[str, object] = {
        "epsilon": bound.upper,
        "delta": plan.delta,
        "method": bound.method,
        "neighbours": plan.neighbours,
        "unit": "one training record, in all its augmented views",
        "planned_steps": plan.steps,
        "charged_steps": ledger.charged,
        "plan_fingerprint": plan.fingerprint,
        "seeded": "seeded: not private" if ledger.seeded else False,
        "released": released,
        "gradients": "same bits in every place of a batch"
        if trainer.exact
        else "may round differently by place in a batch",
        "precision": f"{trainer.precision} forward and backward",
        "norms_and_sums": trainer.passes_are,
        "convolutions": {str(shape): kernel for shape, kernel in trainer.kernels.items()},
        "data": data.name,
        "held_out_accuracy": accuracy,
        "evaluations_on_held_out_data": len(rows),
        "not_covered": "choice of settings or of this run among several by their results",
        "code": code_hash(),
    }
    files.write(trainer.out / "report.json", report)
    picture(trainer.out / "curve.png", rows)
    return report


def picture(path: Path, rows: list[dict[str, float]]) -> None:
    """Held-out accuracy and epsilon against steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    steps = [row["step"] for row in rows]
    axes.plot(steps, [row["accuracy"] for row in rows], "C0.-")
    axes.set_xlabel("step")
    axes.set_ylabel("held-out accuracy", color="C0")
    other = axes.twinx()
    other.plot(steps, [row["epsilon"] for row in rows], "C1-")
    other.set_ylabel("epsilon spent", color="C1")
    figure.savefig(path, dpi=120)
