"""The training loop: what `python -m trainer` does, from plan to report."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmaccount.records import metrics
from mmaccount.records.bound import Bound, up
from mmaccount.records.plan import Plan
from trainer import models, processes, run_report
from trainer.attacks.canaries import Canaries
from trainer.augment import Augmentation
from trainer.data import Dataset
from trainer.engine import PrivateTrainer
from trainer.pricing import progress, within_target
from trainer.update import Update

EVALUATIONS = 20  # over a run, on held-out data
EVALUATED_ROWS = 1000  # records evaluated at a time
PAUSE = 2.0  # seconds between lines of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What changes accuracy or speed, not the guarantee."""

    model: str = "linear"
    update: Update = field(default_factory=Update)
    augmentation: Augmentation = field(default_factory=Augmentation)
    device: str = "cpu"
    max_physical_batch_size: int | None = None
    checkpoint_every: int = 1
    precision: str = "float32"


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every record."""
    return cross_entropy(outputs, targets, reduction="none")


def accuracy(model: nn.Module, data: Dataset, device: str) -> float:
    """Share of held-out records that are classified correctly."""
    right = 0
    with torch.no_grad():
        parts = (part.split(EVALUATED_ROWS) for part in (data.held_out_x, data.held_out_y))
        for x, y in zip(*parts, strict=True):
            right += int((model(data.prepare(x.to(device))).argmax(1) == y.to(device)).sum())
    return right / max(1, len(data.held_out_y))


def train(
    plan: Plan,
    data: Dataset,
    out: Path,
    options: Options,
    *,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    canaries: int = 0,
) -> dict[str, object]:
    """Carry out the plan in folder `out`; returns the report that is also written there.

    So many `canaries` take the place of records.
    """
    promised = within_target(plan)
    if canaries:
        _allow_canaries(plan, options, resume)
    planted = Canaries(data, canaries, seed) if canaries else None
    if planted is not None:
        data = replace(
            data, name=f"{data.name}, {canaries} of the labels wrong or left out (canaries)"
        )
    trainer = PrivateTrainer(
        module=models.build(options.model, tuple(data.x.shape[1:]), data.classes, seed),
        criterion=losses if planted is None else planted.criterion,
        data=(data.x, data.y if planted is None else planted.labels),
        plan=plan,
        out=out,
        prepare=data.prepare,
        classes=data.classes + (planted is not None),
        update=options.update,
        augmentation=options.augmentation,
        max_physical_batch_size=options.max_physical_batch_size,
        device=options.device,
        seed=seed,
        checkpoint_every=options.checkpoint_every,
        precision=options.precision,
    )
    try:
        return _run(trainer, data, options, promised, planted, resume=resume, quiet=quiet)
    finally:
        trainer.close()


def _allow_canaries(plan: Plan, options: Options, resume: bool) -> None:
    if processes.here(options.device).size > 1:
        raise ValueError(
            "canaries need a run of one process: their coins are kept in its memory only."
        )
    if resume:
        raise ValueError(
            "a run with canaries cannot be resumed: their coins are kept in memory only."
        )
    if plan.adaptive:
        raise ValueError(
            "a canary that is left out has gradient 0, which adaptive clipping counts: "
            "take a plan without it."
        )


def _run(
    trainer: PrivateTrainer,
    data: Dataset,
    options: Options,
    promised: Bound,
    planted: Canaries | None,
    *,
    resume: bool,
    quiet: bool,
) -> dict[str, object]:
    plan = trainer.plan
    step = trainer.resume() if resume else 0
    trainer.ready()
    first = trainer.processes.rank == 0

    def say(text: str) -> None:
        if first and not quiet:
            print(text, file=sys.stderr, flush=True)

    _introduce(trainer, promised, say)
    due = time.monotonic() + PAUSE
    score = "not yet known"
    every = max(1, plan.steps // EVALUATIONS)
    while step < plan.steps:
        before = trainer.state
        step = trainer.step()
        if planted is not None:
            planted.watch(trainer, before)
        if not first:
            continue
        if step % every == 0 or step == plan.steps:
            held_out = accuracy(_with(trainer), data, options.device)
            score = f"{held_out:.4f}"
            _add_metrics(trainer, step, progress(trainer.ledger, promised), held_out)
        now = time.monotonic()
        if now > due or step == plan.steps:
            spent = progress(trainer.ledger, promised)
            say(f"step {step}/{plan.steps}  epsilon {up(spent, 5)}  held-out accuracy {score}")
            seconds = time.monotonic() - now  # pricing a few steps may take some
            due = time.monotonic() + max(PAUSE, 10.0 * seconds)
    report: dict[str, object] = {}
    if first:
        held_out = accuracy(_with(trainer), data, options.device)
        report = run_report.finish(trainer, data, held_out)
    if planted is not None:
        planted.save(trainer)
    return report


def _introduce(trainer: PrivateTrainer, promised: Bound, say: Callable[[str], None]) -> None:
    """Say what is about to be done, and how."""
    plan = trainer.plan
    say(
        f"{plan.steps} steps, batches of about {plan.batch_size:g} (Poisson), "
        f"always divided by {plan.batch_size:g}"
    )
    say(
        f"epsilon {up(promised.upper)} at delta {plan.delta:g} when done; "
        f"{type(trainer.per_record).__name__} gradients, {trainer.precision}"
    )
    say(f"norms and sums: {trainer.passes_are}")
    for shape, kernel in trainer.kernels.items():
        say(f"weight gradients of {shape}: {kernel}")
    if trainer.randomness.seed is not None:
        say("seeded: not private")


def _add_metrics(trainer: PrivateTrainer, step: int, epsilon: float, held_out: float) -> None:
    """Append a row to metrics.jsonl."""
    row = {"step": step, "epsilon": epsilon, "accuracy": held_out}
    if trainer.plan.adaptive:
        row["clip_norm"] = float(trainer.state["clip_norm"])
    metrics.add(trainer.out, row)


def _with(trainer: PrivateTrainer) -> nn.Module:
    """The model with the weights to publish."""
    trainer.layout.load(trainer.module, trainer.released())
    return trainer.module
