"""Attacks on the trainer's own step: what each finds stands beside what the accountant promises for
it.

One run of the trainer is many experiments at once. Its model is a long vector of weights, cut into
blocks. The gradient of record i is nonzero in block 2 i only, where it is the worst one that
clipping admits; odd blocks belong to nobody. Coins, noise and mixing are independent from block to
block, so that blocks with a record and blocks without are independent runs with and without their
canary, everything else silent.

Each attack scores blocks in its own way, a likelihood ratio for what might be wrong: the trainer as
it should be, a first step that is not mixed, a layer that is not, coefficients that can be guessed
... A trainer that is right passes them all, because no score can find more than there is.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmaccount.analysis import audit
from mmaccount.analysis.audit import CONFIDENCE
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.plan import Phase, Plan
from trainer import mechanism, pricing
from trainer.engine import PrivateTrainer
from trainer.update import Update

CANARIES = 200  # records of a run; as many blocks belong to nobody
LOUD = 10.0  # gradients before clipping, in units of what is left of them
MOMENTUM = 0.9
GUESS = 20221006  # the seed that an attacker of the mixing coefficients tries
SILENT = 500  # weights without a gradient that show the size of the noise
MEMORY_DISK = "/dev/shm"
CURVE = np.linspace(-80.0, 80.0, 16_001)  # where densities of one coordinate are tabulated, in std


class Scores(NamedTuple):
    """Scores of experiments with the canary, and of those without it."""

    present: np.ndarray
    absent: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """`scores(plan, seed)` carries out one run of the trainer; after `runs` of them the bound is
    tight enough."""

    name: str
    plan: Plan
    scores: Callable[[Plan, int | None], Scores]
    runs: int = 50
    quick: bool = False  # takes seconds


class Row(NamedTuple):
    """What an attack found beside the promise: passed unless `found` is above `upper`."""

    name: str
    delta: float
    found: float
    lower: float
    upper: float
    experiments: int

    @property
    def passed(self) -> bool:
        """Whether the promise stands."""
        return self.found <= self.upper


def measure(
    attack: Attack, *, seed: int | None, confidence: float = CONFIDENCE, runs: int | None = None
) -> Row:
    """Carry out an attack on the trainer as it is, `runs` runs of about 200 experiments with and
    without a canary.

    Args:
        attack: one of `battery()`.
        seed: makes an audit repeatable; None takes the randomness of real runs.
        confidence: of the lower bound, which is wrong with probability at most 1 - confidence.
        runs: by default the attack's own number.
    """
    with one_thread():
        pairs = [
            attack.scores(attack.plan, _seed(seed, 2 * number))
            for number in range(runs or attack.runs)
        ]
    present, absent = (np.concatenate(part) for part in zip(*pairs, strict=True))
    found = audit.lower_bound(present, absent, delta=attack.plan.delta, confidence=confidence)
    claim = pricing.within_target(attack.plan)
    lower = 0.0 if claim.lower is None else claim.lower
    return Row(attack.name, attack.plan.delta, found.epsilon, lower, claim.upper, len(present))


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs are so small that threads cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seed(seed: int | None, number: int) -> int | None:
    return None if seed is None else seed + number


# ------------------------------------------------------------------------------- the trainer driven


class Layers(nn.Module):
    """Two layers, each with half of the weights, started at zero; the loss of record x is x . w,
    its gradient x."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(size // 2, 1, bias=False)
        self.second = nn.Linear(size - size // 2, 1, bias=False)
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[records, size] to [records, 1]."""
        half = self.first.in_features
        return self.first(x[:, :half]) + self.second(x[:, half:])


class Wave(nn.Module):
    """The gradient of record x is x times a square wave in every weight: +1 about 0, -1 half a
    period of 2 pi unit on."""

    def __init__(self, size: int, unit: float) -> None:
        super().__init__()
        self.weight, self.unit = nn.Parameter(torch.zeros(size)), unit

    def forward(self, x: Tensor) -> Tensor:
        """[records, size] to [records, 1]."""
        return (x @ (torch.asin(0.999999 * torch.sin(self.weight / self.unit)) * self.unit))[
            :, None
        ]


def first_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """The model's output is the loss."""
    return outputs[:, 0]


def spread(phase: Phase) -> np.ndarray:
    """The gradient that tells most: c / sqrt(p) in p coordinates."""
    copies = ceil(phase.truncation)
    return np.full(copies, phase.clip_norm / sqrt(copies))


def one_hot(phase: Phase) -> np.ndarray:
    """What truncation leaves of a gradient in one coordinate."""
    gradient = np.zeros(ceil(phase.truncation))
    gradient[0] = phase.clip_norm / sqrt(phase.truncation)
    return gradient


def records(plan: Plan, gradient: np.ndarray) -> Tensor:
    """The gradient, before clipping, of each record in its own block."""
    loud = LOUD * gradient * (plan.phases[0].clip_norm / np.linalg.norm(gradient))
    blocks = np.zeros((plan.dataset_size, 2 * plan.dataset_size, len(gradient)), dtype=np.float32)
    each = np.arange(plan.dataset_size)
    blocks[each, 2 * each] = loud
    return torch.from_numpy(blocks.reshape(plan.dataset_size, -1))


def folder() -> tempfile.TemporaryDirectory[str]:
    """Where a run leaves its files, in memory if that can be: a ledger is forced to disk at every
    step."""
    return tempfile.TemporaryDirectory(dir=MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None)


def trainer_of(
    plan: Plan,
    x: Tensor,
    out: str,
    *,
    seed: int | None,
    module: nn.Module | None = None,
    update: Update | None = None,
) -> PrivateTrainer:
    """The trainer on these records, in folder `out`."""
    return PrivateTrainer(
        module=Layers(x.shape[1]) if module is None else module,
        criterion=first_of,
        data=(x, torch.zeros(len(x))),
        plan=plan,
        out=out,
        update=update,
        seed=seed,
        checkpoint_every=plan.steps + 1,
    )


def published(trainer: PrivateTrainer, steps: int) -> np.ndarray:
    """w_0, w_1, ..., w_steps, shape [steps + 1, weights]."""
    iterates = [trainer.state["weights"].double().numpy()]
    for _ in range(steps):
        trainer.step()
        iterates.append(trainer.state["weights"].double().numpy())
    return np.stack(iterates)


def iterates_of(
    plan: Plan,
    gradient: np.ndarray,
    seed: int | None,
    module: nn.Module | None = None,
    update: Update | None = None,
) -> np.ndarray:
    """Iterates of a whole run, shape [steps + 1, blocks, coordinates]."""
    with folder() as out:
        trainer = trainer_of(
            plan, records(plan, gradient), out, seed=seed, module=module, update=update
        )
        weights = published(trainer, plan.steps)
        trainer.close()
    return weights.reshape(len(weights), -1, len(gradient))


def by_block(scores: np.ndarray) -> Scores:
    """Blocks that have a record, and those that have none."""
    return Scores(scores[::2], scores[1::2])


# ------------------------------------------------------------------------------------------ attacks


def likelihood(plan: Plan, seed: int | None) -> Scores:
    """The exact likelihood ratio of the trainer as it should be: nothing finds more in it."""
    gradient = spread(plan.phases[0])
    return by_block(audit.log_likelihood_ratio(iterates_of(plan, gradient, seed), plan, gradient))


def one_coordinate(plan: Plan, seed: int | None) -> Scores:
    """A gradient in one coordinate, which truncation has to cut."""
    gradient = one_hot(plan.phases[0])
    return by_block(audit.log_likelihood_ratio(iterates_of(plan, gradient, seed), plan, gradient))


def _unmixed(plan: Plan, iterates: np.ndarray) -> np.ndarray:
    """Against a first step without mixing: how far w_1 went against the gradient."""
    return -audit.step_noise(iterates, plan, 1)[0].sum(1)


def unmixed_start(plan: Plan, seed: int | None) -> Scores:
    """The first step, where w_0 = w_{-1}, as if it were not mixed."""
    return by_block(_unmixed(plan, iterates_of(plan, spread(plan.phases[0]), seed)))


def unmixed_layer(plan: Plan, seed: int | None) -> Scores:
    """The last layer as if it were not mixed."""
    halves = by_block(_unmixed(plan, iterates_of(plan, spread(plan.phases[0]), seed)))
    return Scores(*(scores[len(scores) // 2 :] for scores in halves))


def hidden_velocity(plan: Plan, seed: int | None) -> Scores:
    """Momentum as if it carried the private gradient: the shift and the Gaussian noise of step k
    add up to 1 + m + ... + m^{k-1} times the shift and 1 + m^2 + ... times the variance of a step,
    while mixing stays as it is."""
    phase, gradient = plan.phases[0], spread(plan.phases[0])
    iterates = iterates_of(plan, gradient, seed, update=Update(momentum=MOMENTUM))
    total = np.zeros(iterates.shape[1])
    for step in range(1, len(iterates)):
        x, width, law = audit.step_noise(iterates, plan, step)
        powers = MOMENTUM ** np.arange(step)
        wide = sqrt((powers**2).sum())
        moved = gradient / (phase.noise_multiplier * phase.clip_norm) * powers.sum()
        near = audit.log_density((x + moved) / wide, width / wide, law)
        total += (near - audit.log_density(x / wide, width / wide, law)).sum(1)
    return by_block(total)


def mixed_point(plan: Plan, seed: int | None) -> Scores:
    """A gradient that is a square wave in the weights, as if it were taken at the mixed point: the
    published step then has the wave's marks all over the mixing, not only at its edges."""
    phase, gradient = plan.phases[0], spread(plan.phases[0])
    unit = phase.learning_rate * phase.noise_multiplier * phase.clip_norm / plan.batch_size
    iterates = iterates_of(
        plan, gradient, seed, module=Wave(2 * plan.dataset_size * len(gradient), unit)
    )
    x, width, _ = audit.step_noise(iterates, plan, 1)
    shift = float(gradient[0]) / (phase.noise_multiplier * phase.clip_norm)
    inside = np.abs(CURVE) <= 0.5 * width.max()
    wave = np.where(np.cos(CURVE) > 0.0, shift, -shift)
    present, absent = (_blurred(np.where(inside, 1.0, 0.0), moved) for moved in (wave, 0.0 * wave))
    log_ratio = np.log(present + audit.TINY_PROBABILITY) - np.log(absent + audit.TINY_PROBABILITY)
    return by_block(np.interp(x, CURVE, log_ratio).sum(1))


def _blurred(weight: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Density on CURVE of u - moved(u) plus N(0, 1), where u has the given weights on CURVE."""
    step = CURVE[1] - CURVE[0]
    mass = np.histogram(
        CURVE - moved,
        bins=len(CURVE),
        range=(CURVE[0] - step / 2, CURVE[-1] + step / 2),
        weights=weight,
    )[0]
    kernel = np.exp(-0.5 * np.arange(-8.0, 8.0 + step, step) ** 2)
    return np.maximum(np.convolve(mass, kernel, mode="same"), 0.0)


def known_coefficients(plan: Plan, seed: int | None) -> Scores:
    """The mixing coefficients of the first step as if they came from a seed that the attacker
    knows."""
    x, width, law = audit.step_noise(iterates_of(plan, spread(plan.phases[0]), seed), plan, 1)
    words = mechanism.Randomness(GUESS).words("mixing", 1)
    alpha = mechanism.mixing_coefficients(words, x.size, law).numpy().reshape(x.shape)
    return by_block(-(x - (alpha - 0.5) * width).sum(1))


def redone(plan: Plan, seed: int | None) -> Scores:
    """A step that was redone after a crash, as if with the same noise: the releases then differ
    only where a record took part in one of them. Both are charged: the plan has two steps."""
    gradient = spread(plan.phases[0])
    releases = []
    with folder() as out:
        for attempt in range(2):
            trainer = trainer_of(plan, records(plan, gradient), out, seed=_seed(seed, attempt))
            if attempt:
                trainer.resume()
            releases.append(published(trainer, 1)[-1])
            trainer.close()
        if trainer.ledger.charged != plan.steps:
            raise AssertionError("a redone step was not charged")
    return by_block(np.abs(releases[0] - releases[1]).reshape(-1, len(gradient)).max(1))


def _two_or_one(
    plan: Plan, seed: int | None, score: Callable[[PrivateTrainer], np.ndarray]
) -> Scores:
    """Scores of two records, and of one, all of them silent.

    Every step of the run is an experiment of its own; the plan has one.
    """
    long = replace(plan, phases=(replace(plan.phases[0], steps=CANARIES),))
    scores = []
    for removed in (0, 1):
        with folder() as out:
            trainer = trainer_of(
                long, torch.zeros(plan.dataset_size, SILENT), out, seed=_seed(seed, removed)
            )
            kept = plan.dataset_size - removed
            # The neighbour, under the same plan.
            trainer.x, trainer.y = trainer.x[:kept], trainer.y[:kept]
            scores.append(score(trainer))
            trainer.close()
    return Scores(*scores)


def batch_size(plan: Plan, seed: int | None) -> Scores:
    """The size of the noise, as if sums were divided by the realised batch."""
    return _two_or_one(
        plan, seed, lambda trainer: -np.diff(published(trainer, trainer.plan.steps), axis=0).std(1)
    )


def shares(trainer: PrivateTrainer) -> np.ndarray:
    """The noisy share of short gradients that every step published by the clip norm of the next
    one."""
    phase, clip_norms = trainer.plan.phases[0], [trainer.clip_norm()]
    for _ in range(trainer.plan.steps):
        trainer.step()
        clip_norms.append(float(trainer.state["clip_norm"]))
    return phase.adaptive.quantile - np.diff(np.log(clip_norms)) / phase.adaptive.rate


def count(plan: Plan, seed: int | None) -> Scores:
    """The count of short gradients, as if it had no noise."""
    return _two_or_one(plan, seed, shares)


def count_divided(plan: Plan, seed: int | None) -> Scores:
    """The size of the noise on that count, as if it were divided by the realised batch."""
    return _two_or_one(plan, seed, lambda trainer: -np.abs(shares(trainer) - 0.5))


# ------------------------------------------------------------------------------------------ battery


def plan_of(
    *, delta: float, rate: float = 1.0, size: int = CANARIES, mixing: float = 0.0, **phase: object
) -> Plan:
    """A plan for the canaries; `mixing` is the gap in units of one record's influence c / B."""
    the_phase = Phase(clip_norm=1.0, learning_rate=0.5, gap=mixing / (rate * size), **phase)
    return Plan(
        dataset_size=size,
        sample_rate=rate,
        batch_size=rate * size,
        phases=(the_phase,),
        delta=delta,
    )


def battery() -> list[Attack]:
    """Every attack, on settings where it finds most."""
    wide = plan_of(delta=0.1, steps=1, noise_multiplier=0.5, mixing=10.0, truncation=9.0)
    long = plan_of(delta=0.2, steps=20, rate=0.5, noise_multiplier=1.0, mixing=3.0, truncation=9.0)
    counted = plan_of(
        delta=0.02,
        steps=1,
        size=2,
        noise_multiplier=40.0,
        adaptive=AdaptiveClipping(noise=20.0, rate=0.01),
    )
    return [
        Attack(
            name="plain, 1 step",
            plan=plan_of(delta=0.3, steps=1, noise_multiplier=0.5),
            scores=likelihood,
            runs=200,
            quick=True,
        ),
        Attack(
            name="plain, 20 steps",
            plan=plan_of(delta=0.1, steps=20, rate=0.5, noise_multiplier=1.5),
            scores=likelihood,
        ),
        Attack(
            name="mixed, 1 step",
            plan=plan_of(delta=0.1, steps=1, noise_multiplier=0.4, mixing=2.0, truncation=9.0),
            scores=likelihood,
            quick=True,
        ),
        Attack(name="mixed, 20 steps", plan=long, scores=likelihood),
        Attack(
            name="mixed by raised-cosine, 20 steps",
            plan=replace(long, phases=(replace(long.phases[0], mixing_law="raised-cosine"),)),
            scores=likelihood,
        ),
        Attack(
            name="gradient in one coordinate",
            plan=plan_of(delta=0.02, steps=1, noise_multiplier=0.2, mixing=6.0, truncation=100.0),
            scores=one_coordinate,
            runs=60,
            quick=True,
        ),
        Attack(name="first step not mixed", plan=wide, scores=unmixed_start, runs=20, quick=True),
        Attack(name="last layer not mixed", plan=wide, scores=unmixed_layer, runs=40, quick=True),
        Attack(
            name="momentum of private gradients",
            plan=plan_of(delta=0.1, steps=20, noise_multiplier=1.0, mixing=30.0, truncation=9.0),
            scores=hidden_velocity,
            runs=20,
        ),
        Attack(
            name="gradient at the mixed point",
            plan=plan_of(delta=0.1, steps=1, noise_multiplier=0.5, mixing=30.0, truncation=25.0),
            scores=mixed_point,
            runs=20,
        ),
        Attack(
            name="mixing coefficients known",
            plan=wide,
            scores=known_coefficients,
            runs=20,
            quick=True,
        ),
        Attack(
            name="noise of a redone step",
            plan=plan_of(
                delta=0.1, steps=2, rate=0.5, noise_multiplier=1.0, mixing=10.0, truncation=9.0
            ),
            scores=redone,
            runs=10,
            quick=True,
        ),
        Attack(
            name="realised batch size",
            plan=plan_of(delta=0.02, steps=1, rate=0.5, size=2, noise_multiplier=4.0),
            scores=batch_size,
            runs=2,
        ),
        Attack(name="count of short gradients", plan=counted, scores=count, runs=2),
        Attack(
            name="count divided by the realised batch", plan=counted, scores=count_divided, runs=4
        ),
    ]
