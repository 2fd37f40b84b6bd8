"""Privacy loss of runs with mixing, from both sides: attacks that exist, and the envelope of all
shifts."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, inf, log

import numpy as np

from mmaccount.accounting import neighbours
from mmaccount.accounting.coupling import coupled
from mmaccount.accounting.mixing_envelope import envelope
from mmaccount.accounting.mixing_tight import exchanges
from mmaccount.accounting.pld import (
    MOST_STEPS,
    TINY,
    Atoms,
    Composed,
    Lattice,
    compose,
    lowered,
    merge,
    moments,
    nudged,
    power,
    reverse,
    split,
    subsampled,
    tilted,
    window,
)
from mmaccount.accounting.renyi import epsilon_at, log_delta_at, minimise_over_orders
from mmaccount.accounting.search import safe_end
from mmaccount.accounting.step_moments import Geometry, geometry, log_moments
from mmaccount.kernels import smooth_density, smooth_mixing
from mmaccount.kernels.pld import LOSS_ERROR, coordinate_cells
from mmaccount.records import mixing_laws
from mmaccount.records.settings import Settings

CELL = 0.02  # width of a cell of outcomes of one coordinate, in std of the noise
ATTACK_CELL = 0.01  # the same for attacks
COORDINATE_PARTS = 80.0  # lattice points per shift of one coordinate
PARTS = 40.0  # lattice points per standard deviation of a step's loss
MOST_POINTS = 2**20  # of a lattice; above, spacing grows
FINER = 4.0  # by which spacing may shrink to meet a loss
# shifts of the largest size from which on the envelope is nearly as small as the worst of them
FEWEST_COPIES = 8.0
SMALLEST_SHIFT, LARGEST_SHIFT = 1e-4, 4.0  # where the envelope is worth its time
# mixing by other laws than the uniform, for which the envelope takes time in proportion
WIDEST = 200.0
LARGEST_DIVERGENCE = (
    1000.0,
    25.0,
)  # of one step, up to which a lattice of its loss, and the envelope, are tried
SMALLEST_DIVERGENCE = (
    1e-3,
    0.03,
)  # of one step, of many and of few copies; below, the envelope takes ever more frequencies
NARROWED = 0.1  # the divergence that mixing which takes too long is narrowed to
NARROWINGS = 40  # halvings of the range of widths
LARGEST_ATTACK = 30.0  # shift of one coordinate; beyond, densities underflow
MOST_COPIES = 1e5  # coordinates of an attack; more are as good as infinitely many
FACTORS = (1, 4, 16)  # coordinates of an attack over the fewest that truncation allows
LARGEST_SUM, MOST_RECORDS = (
    20.0,
    8,
)  # Gaussian shift, and number of gradients with mixing, in a sum that is looked at
CUT = 1e-36  # probability of outcomes beyond the cells
CHEAP = 30.0  # steps for each step that a catalyst is worth
SPLIT = 0.1  # relative, by which splitting may raise epsilon
FAR = 0.5  # of the first guess, below which epsilon is searched for again
BACK = 0.9  # over the last epsilon tried, looking for one that an attack reaches
ROOT = 1e-6  # relative tolerance of the search for epsilon


@lru_cache(maxsize=64)
def _coordinate(shift: float, width: float, law: str, cell: float) -> Atoms:
    """One coordinate in cells, in the removal direction, not rounded to a side."""
    if law == mixing_laws.UNIFORM:
        _, _, without, with_shift, losses = coordinate_cells(shift, width, cell)
    else:
        without, with_shift, losses = smooth_mixing.coordinate_masses(
            shift, smooth_density.named(law, width), cell
        )
    held = (without > TINY) & (with_shift > TINY)
    return Atoms(losses[held], without[held])


@lru_cache(maxsize=128)
def shifted(
    shift: float,
    width: float,
    copies: int,
    law: str = mixing_laws.UNIFORM,
    cell: float = ATTACK_CELL,
    *,
    remove: bool = True,
) -> Atoms:
    """A pair that tells at most as much as one unsubsampled step that shifts `copies` coordinates
    by `shift` each, where the record is removed, or where it is added (given in the removal
    direction too). Losses are lowered by what they may be off by, in the direction asked for."""
    pair = _coordinate(shift, width, law, cell)
    pair = pair if remove else reverse(pair)
    pair = pair._replace(losses=pair.losses - LOSS_ERROR * float(np.max(np.abs(pair.losses))))
    if copies > 1:
        pair = power(merge(pair, shift / COORDINATE_PARTS), copies, upper=False).atoms()
    return pair if remove else reverse(pair)


@lru_cache(maxsize=64)
def gaussian(shift: float, cell: float = CELL) -> Atoms:
    """A pair that tells at least as much as N(shift, 1) against N(0, 1)."""
    low, high, without, with_shift, losses = coordinate_cells(shift, 0.0, cell)
    held = (without > TINY) & (with_shift > TINY)
    infinite, absent = float(np.sum(with_shift[~held])) + CUT, float(np.sum(without[~held])) + CUT
    atoms = Atoms(np.clip(losses[held], low[held], high[held]), without[held], infinite, absent)
    made = split(atoms, shift * cell, (low[held], high[held])).atoms()
    return made._replace(losses=made.losses + LOSS_ERROR * float(np.max(np.abs(made.losses))))


def dominating(step: Geometry) -> Atoms:
    """A pair that dominates one unsubsampled step of any admitted shift."""
    if step.width == 0.0:
        return gaussian(step.shift * step.copies**0.5)
    return envelope(step).atoms()


class Side:
    """One direction of a run whose steps are given by pairs, each bounding the true one from the
    same side."""

    def __init__(
        self,
        pairs: Sequence[tuple[Atoms, float, int]],
        *,
        remove: bool,
        upper: bool,
        whole: Sequence[tuple[Atoms, int]] = (),
    ) -> None:
        """`pairs`: the unsubsampled pair, sampling rate and number of steps of each phase; `whole`:
        pairs of subsampled steps, in the removal direction, and how many."""
        steps = [(subsampled(pair, q), count) for pair, q, count in pairs] + list(whole)
        self.steps = steps if remove else [(reverse(atoms), count) for atoms, count in steps]
        self.upper = upper

    def log_moment(self, order: float) -> float:
        """log E[(dP/dQ)^order] under Q, not rounded to a side."""
        return sum(count * tilted(atoms, order)[1] for atoms, count in self.steps)

    def lattices(self, tilt: float) -> list[tuple[Lattice, int]]:
        """The steps on one lattice, fine enough for where e^{tilt * loss} dP has its mass."""
        variance = sum(count * moments(atoms, 1.0 + tilt)[2] for atoms, count in self.steps)
        points = sum(count for _, count in self.steps)
        low, high = window(self.steps, 1.0 + tilt)
        span = max(float(np.ptp(atoms.losses)) for atoms, _ in self.steps)
        spacing = max(
            (variance / points) ** 0.5 / PARTS, (high - low) / MOST_POINTS, span / MOST_POINTS
        )
        spacing = spacing or 1.0  # one loss alone
        smallest = max(
            (-float(np.min(atoms.losses)) for atoms, count in self.steps if count > 1), default=0.0
        )
        if (
            smallest > spacing / FINER
        ):  # the smallest loss of a step, where much mass may sit, becomes a point
            spacing = smallest / ceil(smallest / spacing)
        if self.upper:
            return [
                (nudged(split(atoms, spacing), upper=True), count) for atoms, count in self.steps
            ]
        return [(lowered(atoms, spacing, 1.0 + tilt), count) for atoms, count in self.steps]

    def composed(self, tilt: float) -> Composed:
        """The composed loss, accurate where e^{tilt * loss} dP has its mass."""
        return compose(self.lattices(tilt), tilt)

    def tilt(self, epsilon: float) -> float:
        """The tilt that suits an epsilon."""
        return minimise_over_orders(lambda a: log_delta_at(self.log_moment(a), a, epsilon))[1] - 1.0

    def epsilon(self, delta: float) -> float:
        """A bound on epsilon at delta."""
        start, order = minimise_over_orders(
            lambda a: epsilon_at(max(0.0, self.log_moment(a)), a, delta)
        )
        if not 0.0 < start < inf:
            return inf if self.upper else 0.0
        found = self._root(delta, start, order - 1.0)
        if not found < FAR * start:
            return found
        closer = max(
            2.0 * found, start / 16.0
        )  # far from where Renyi moments led, another tilt sees more
        return (min if self.upper else max)(found, self._root(delta, closer, self.tilt(closer)))

    def _root(self, delta: float, start: float, tilt: float) -> float:
        """A bound on epsilon at delta, searched for up to about `start`."""
        loss, log_delta = self.composed(tilt), log(delta)

        def above(epsilon: float) -> float:
            return log(max(1e-320, loss.delta(epsilon, upper=self.upper))) - log_delta

        smallest = 1e-6 * start
        if self.upper:
            largest = (1.0 + SPLIT) * start
            if above(largest) > 0.0:
                return inf
            return (
                smallest
                if above(smallest) <= 0.0
                else safe_end(above, largest, smallest, tolerance=ROOT)
            )
        if above(start) >= 0.0:
            return start
        unsafe, safe = start, BACK * start
        while (
            above(safe) < 0.0
        ):  # far below `start`, where the tilt is wrong, errors may exceed delta
            unsafe, safe = safe, BACK * safe
            if safe < smallest:
                return 0.0
        return safe_end(lambda e: -above(e), safe, unsafe, tolerance=ROOT)

    def delta(self, epsilon: float) -> float:
        """A bound on delta at epsilon."""
        return self.composed(self.tilt(epsilon)).delta(epsilon, upper=self.upper)


def _moved(step: Geometry, times: int) -> Atoms | None:
    """A pair that dominates every move by a sum of `times` admitted gradients; None where none is
    at hand."""
    moved = step._replace(shift=times * step.shift)
    if step.width == 0.0:
        return dominating(moved) if moved.shift * moved.copies**0.5 <= LARGEST_SUM else None
    fits = moved.copies >= FEWEST_COPIES and _divergence(moved) < LARGEST_DIVERGENCE[1]
    return dominating(moved) if fits and times <= MOST_RECORDS else None


def _several(phase: Settings) -> Atoms | None:
    """A pair that dominates one step of a run whose neighbours differ in several records, or in a
    replaced one; None where no sum of gradients has one at hand."""
    step = _narrowed(geometry(phase))
    if phase.sample_rate == 1.0:
        whole = _moved(step, neighbours.changes(phase))
        return None if whole is None else coupled(0.0, [(1.0, whole)], [])
    weights = np.exp(neighbours.log_weights(phase.group_size, phase.sample_rate))
    sums = [
        (float(weight), _moved(step, times)) for times, weight in enumerate(weights) if times > 0
    ]
    if all(pair is None for _, pair in sums):
        return None
    return coupled(float(weights[0]), sums, sums if phase.neighbours == "replace-one" else [])


def _divergence(step: Geometry) -> float:
    """The Renyi divergence of order 2 of one unsubsampled step, as large as its loss is spread."""
    return float(log_moments(step, np.array([2.0]))[0])


def _has_few_copies(step: Geometry) -> bool:
    return step.width > 0.0 and step.copies < FEWEST_COPIES


def _smallest_divergence(step: Geometry) -> float:
    return SMALLEST_DIVERGENCE[step.copies < FEWEST_COPIES]


@lru_cache(maxsize=256)
def _narrowed(step: Geometry) -> Geometry:
    """The same step with mixing as narrow as the envelope can afford: by (M) of step_moments.py,
    one that tells at least as much. With many copies Renyi moments are smaller than that."""
    if step.law != mixing_laws.UNIFORM:
        step = step._replace(width=min(step.width, WIDEST))
    enough = SMALLEST_DIVERGENCE[1] if step.law == mixing_laws.UNIFORM else NARROWED
    if not _has_few_copies(step) or _divergence(step) >= enough:
        return step
    narrow, wide = 0.0, step.width
    for _ in range(NARROWINGS):
        middle = 0.5 * (narrow + wide)
        if _divergence(step._replace(width=middle)) >= NARROWED:
            narrow = middle
        else:
            wide = middle
    return step._replace(width=narrow) if narrow > 0.0 else step


def _worthwhile(step: Geometry) -> bool:
    """Whether the envelope of this step may be worth its time."""
    if not _divergence(step) < LARGEST_DIVERGENCE[step.width > 0.0]:
        return False
    if step.width == 0.0:
        return True
    small = step.shift < SMALLEST_SHIFT or _divergence(step) < _smallest_divergence(step)
    return not small and step.copies >= 1.0 and step.shift <= LARGEST_SHIFT


def attacks(phases: Sequence[Settings]) -> Iterator[tuple[str, tuple[Side, Side]]]:
    """(name, privacy losses where the record is removed, and added) of adversaries that exist: a
    gradient in as few coordinates as truncation allows, and in more.

    Only one record has a gradient: not the others of a group, nor one that is put in its place.
    None of more than MOST_STEPS steps.
    """
    if sum(phase.steps for phase in phases) > MOST_STEPS:
        return
    for factor in FACTORS:
        pairs: dict[bool, list[tuple[Atoms, float, int]]] = {True: [], False: []}
        for phase in phases:
            copies = ceil(phase.truncation) * factor if phase.mixing > 0.0 else 1
            if copies > MOST_COPIES:
                return
            shift = 1.0 / phase.noise_multiplier / copies**0.5
            width = phase.mixing / phase.noise_multiplier
            step = Geometry("gaussian", shift, width, copies, phase.mixing_law)
            if shift > LARGEST_ATTACK or not _divergence(step) < LARGEST_DIVERGENCE[0]:
                return
            for remove, made in pairs.items():
                pair = shifted(shift, width, copies, phase.mixing_law, remove=remove)
                made.append((pair, phase.sample_rate, phase.steps))
        count = "p" if factor == 1 else f"{factor} p"
        removal, addition = (Side(pairs[way], remove=way, upper=False) for way in (True, False))
        yield f"gradient spread evenly over {count} coordinates", (removal, addition)


def exchanged(phases: Sequence[Settings]) -> list[Side]:
    """Both directions of a smaller run than `dominated` that dominates the given one
    (mixing_tight.py), or an empty list.

    All steps of a kind, in whatever phases, share one star and one catalyst.
    """
    kinds: Counter[tuple[Geometry, float]] = Counter()
    for phase in phases:
        kinds[_narrowed(geometry(phase)), phase.sample_rate] += phase.steps
    if neighbours.changes(phases[0]) > 1 or not all(_worthwhile(step) for step, _ in kinds):
        return []
    if any(map(_has_few_copies, (step for step, _ in kinds))):
        return []
    pairs, whole = [], []
    for (step, q), count in kinds.items():
        if step.width == 0.0:
            pairs.append((dominating(step), q, count))
            continue
        fitting = [exchange for exchange in exchanges(step, q) if exchange.worth * CHEAP <= count]
        if not fitting:
            return []
        whole += [(fitting[0].star.atoms(), count), (fitting[0].catalyst.atoms(), 1)]
    return [Side(pairs, remove=remove, upper=True, whole=whole) for remove in (True, False)]


def dominated(phases: Sequence[Settings]) -> list[Side]:
    """Both directions of a run that dominates the given one; empty where the envelope is not worth
    its time."""
    steps = [_narrowed(geometry(phase)) for phase in phases]
    if (
        not all(_worthwhile(step) for step in steps)
        or sum(phase.steps for phase in phases) > MOST_STEPS
    ):
        return []
    if neighbours.changes(phases[0]) > 1:
        made = [(_several(phase), phase.steps) for phase in phases]
        sampled = [(pair, 1.0, count) for pair, count in made if pair is not None]
        return (
            [Side(sampled, remove=remove, upper=True) for remove in (True, False)]
            if len(sampled) == len(made)
            else []
        )
    pairs = [
        (dominating(step), phase.sample_rate, phase.steps)
        for step, phase in zip(steps, phases, strict=True)
    ]
    return [Side(pairs, remove=remove, upper=True) for remove in (True, False)]
