"""The headline run: Resnet-20 on 50,000 colour images, with the ModelMix paper's settings and with
advised ones.

    python tests/bench/resnet.py OUT --device cuda     # glyphs, epsilon 8 and 3, three runs each
    ... --data cifar10:FOLDER                          # CIFAR-10, from the folder cifar-10-batches-py
    ... --gpu-all                                      # before that, python -m trainer --bench
    python tests/bench/resnet.py OUT --steps 200 --runs 1    # a seventeenth: 20 minutes a run, one core
    python tests/bench/resnet.py OUT --smoke           # all of it in small, on CPU; means nothing

OUT gets results.json, table.md, curves.png, the plans, and a folder for every run; the same command
goes on where it was interrupted. Every run draws its randomness from the operating system, initial
weights too, unless --seed is given: then run number r uses seed + r, and is repeatable and not
private. Advice is from gradients of held-out records, taken as public.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import mmaccount as mm
from mmaccount.records import metrics
from mmaccount.records.bound import up
from trainer import data, memory, probe
from trainer.bench import measure
from trainer.loop import Options, losses, train
from trainer.gradients.precision import DTYPE

DELTA = 1e-5
STEPS, SAMPLE_RATE, NOISE = (
    3400,
    0.03,
    0.335,
)  # arXiv 2210.03843, Resnet-20 on CIFAR-10; learning rate from its appendix
PAPER = {"clip_norm": 20.0, "gap": 0.15, "truncation": 100.0, "learning_rate": 0.15}
BATCH = 1500


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is done."""

    data: str
    steps: int = STEPS
    probed: int = 1000
    runs: int = 3
    batch: int = BATCH


SMOKE = Size(data="glyphs:200", steps=2, probed=24, runs=1, batch=4)


def paper(records: data.Dataset, epsilon: float, size: Size) -> mm.Plan:
    """The paper's plan; its noise where it is of the paper's length and meets the target, else what
    the target takes."""
    n = len(records.x)
    phase = mm.Phase(steps=size.steps, noise_multiplier=NOISE, **PAPER)
    batch = SAMPLE_RATE * n
    plan = mm.Plan(
        dataset_size=n, sample_rate=SAMPLE_RATE, batch_size=batch, phases=(phase,), delta=DELTA
    )
    (settings,) = plan.settings()
    if size.steps != STEPS or mm.epsilon(settings, delta=DELTA).upper > epsilon:
        noise = mm.solve(
            settings, "noise_multiplier", epsilon=epsilon, delta=DELTA
        ).noise_multiplier
        plan = replace(plan, phases=(replace(phase, noise_multiplier=noise),))
    return replace(plan, target_epsilon=epsilon)


def plans(
    records: data.Dataset, epsilons: list[float], size: Size, device: str, out: Path
) -> Iterator[tuple[str, mm.Plan]]:
    """Names and plans; those of an earlier call are read from their files."""
    seen = None
    for epsilon in epsilons:
        for kind in ("paper", "advised"):
            path = out / f"{kind}-{epsilon:g}.json"
            if not path.exists() and kind == "paper":
                paper(records, epsilon, size).save(path)
            if not path.exists():
                rows = size.probed
                seen = seen or probe.public(
                    records, losses, model="resnet20", rows=rows, device=device, seed=0
                )
                target = {"dataset_size": len(records.x), "epsilon": epsilon, "delta": DELTA}
                mm.advise(seen, **target, epochs=SAMPLE_RATE * size.steps).plan.save(path)
            yield path.stem, mm.Plan.load(path)


def one_run(
    plan: mm.Plan, records: data.Dataset, options: Options, out: Path, seed: int | None
) -> dict:
    """A run, or the rest of it: its accuracy, seconds and curve."""
    start = time.monotonic()
    made = train(plan, records, out, options, seed=seed, resume=(out / "checkpoint.pt").exists())
    seconds = time.monotonic() - start
    curve = [[row["step"], row["accuracy"]] for row in metrics.load(out)]
    kept = (
        "epsilon",
        "held_out_accuracy",
        "seeded",
        "charged_steps",
        "gradients",
        "precision",
        "convolutions",
    )
    return {"run": out.name, "seconds": seconds, "curve": curve} | {key: made[key] for key in kept}


def summary(name: str, plan: mm.Plan, runs: list[dict]) -> dict:
    """What the table shows of the runs of a plan."""
    (phase,) = plan.phases
    shown = ("noise_multiplier", "clip_norm", "learning_rate", "gap", "truncation", "steps")
    found = [run["held_out_accuracy"] for run in runs]
    return {
        "plan": name,
        "batch_size": plan.batch_size,
        **{key: getattr(phase, key) for key in shown},
        "target_epsilon": plan.target_epsilon,
        "epsilon": runs[0]["epsilon"],
        "accuracy": statistics.mean(found),
        "accuracies": found,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "runs": runs,
    }


def table(made: dict) -> str:
    """Markdown."""
    lines = [f"{key}: {value}  " for key, value in made["about"].items()]
    lines += [
        "",
        "| plan | batch | steps | noise multiplier | clip norm | learning rate | gap | epsilon <= | "
        "accuracy (all) | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in made["plans"]:
        found = ", ".join(f"{100 * each:.1f}" for each in row["accuracies"])
        numbers = (
            row[key]
            for key in (
                "batch_size",
                "steps",
                "noise_multiplier",
                "clip_norm",
                "learning_rate",
                "gap",
            )
        )
        shown = " | ".join(f"{number:.4g}" for number in numbers)
        accuracy = f"{100 * row['accuracy']:.1f} ({found})"
        lines.append(
            f"| {row['plan']} | {shown} | {up(row['epsilon'])} | {accuracy} | {row['seconds']:.0f} "
            "|"
        )
    return "\n".join(lines) + "\n"


def picture(made: dict, path: Path) -> None:
    """Held-out accuracy against steps, every run."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, row in enumerate(made["plans"]):
        for run in row["runs"]:
            label = (
                f"{row['plan']}, epsilon {row['epsilon']:.3g}" if run is row["runs"][0] else None
            )
            axes.plot(*zip(*run["curve"], strict=True), f"C{number}", marker=".", label=label)
    axes.set(xlabel="step", ylabel="held-out accuracy", title=f"Resnet-20, {made['about']['data']}")
    axes.legend()
    figure.savefig(path, dpi=120)


def about(records: data.Dataset, device: str, precision: str) -> dict[str, str]:
    """What the numbers depend on beside the plans."""
    card = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    versions = {
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "numpy": np.__version__,
    }
    shown = {
        "data": (
            f"{records.name}, {len(records.x)} training, {len(records.held_out_x)} held-out records"
        )
    }
    return (
        shown
        | {"device": card, "precision": precision, "python": platform.python_version()}
        | versions
    )


def timed(size: Size, device: str, out: Path) -> None:
    """python -m trainer --bench in every precision."""
    for precision in DTYPE:
        rounds = 1 if size is SMOKE else 10
        made = measure.measure(
            batch_size=size.batch, device=device, precision=precision, rounds=rounds
        )
        (out / f"bench-{precision}.json").write_text(json.dumps(made, indent=1))
        print(measure.table(made), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Run, and write what came out after every run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--data", default="glyphs", help="as of python -m trainer, images of 3 x 32 x 32"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=tuple(DTYPE), default="float32")
    parser.add_argument("--epsilon", type=float, nargs="+", default=[8.0, 3.0])
    parser.add_argument(
        "--steps",
        type=int,
        default=STEPS,
        help="of the paper's plan; advised ones take as many passes",
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--gpu-all", action="store_true")
    given = parser.parse_args(argv)
    size = SMOKE if given.smoke else Size(data=given.data, steps=given.steps, runs=given.runs)
    memory.keep_freed()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.gpu_all:
        timed(size, given.device, given.out)
    records = data.load(size.data)
    options = Options(
        model="resnet20", device=given.device, precision=given.precision, checkpoint_every=20
    )
    made = {"about": about(records, given.device, given.precision), "plans": []}
    for name, plan in plans(records, given.epsilon, size, given.device, given.out):
        seeds = [None if given.seed is None else given.seed + number for number in range(size.runs)]
        folders = [given.out / f"{name}-run-{number}" for number in range(size.runs)]
        runs = [one_run(plan, records, options, *each) for each in zip(folders, seeds, strict=True)]
        made["plans"].append(summary(name, plan, runs))
        (given.out / "results.json").write_text(json.dumps(made, indent=1, allow_nan=False))
        (given.out / "table.md").write_text(table(made))
        picture(made, given.out / "curves.png")
    sys.stdout.write(table(made))


if __name__ == "__main__":
    main()
