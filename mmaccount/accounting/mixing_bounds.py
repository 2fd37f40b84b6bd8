"""Privacy loss of runs with mixing, from both sides: attacks that exist, and dominating pairs.

`attacks` gives lower bounds; `dominated`, from the envelope of all shifts, and `dominated_tightly`,
from a smaller pair beside an auxiliary mechanism, give upper ones. Each answers with runs whose
steps are pairs of laws, as OneSidedPld.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import ceil, inf, log

import numpy as np

from mmaccount.accounting import neighbours
from mmaccount.accounting.coupling import coupled
from mmaccount.accounting.mixing_envelope import envelope
from mmaccount.accounting.mixing_tight import smaller_pairs
from mmaccount.accounting.pld import (
    MOST_STEPS,
    TINY_MASS,
    Atoms,
    Composed,
    GridPld,
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
from mmaccount.accounting.roots import TINY_DELTA
from mmaccount.accounting.search import safe_end
from mmaccount.accounting.step_moments import StepShape, log_moments, step_shape
from mmaccount.kernels import smooth_density, smooth_mixing
from mmaccount.kernels.pld import LOSS_ERROR, coordinate_cells
from mmaccount.records import mixing_laws
from mmaccount.records.settings import Settings

CELL_WIDTH = 0.02  # width of a cell of outcomes of one coordinate, in std of the noise
ATTACK_CELL_WIDTH = 0.01  # width of a cell for attacks
POINTS_PER_SHIFT = 80.0  # grid points per shift of one coordinate
POINTS_PER_STD = 40.0  # grid points per standard deviation of a step's loss
MOST_POINTS = 2**20  # of a grid; above, spacing grows
MOST_REFINEMENT = 4.0  # by which spacing may shrink to meet a loss
# Shifts of the largest size, from which on the envelope is nearly as small as the worst of them.
FEWEST_COPIES = 8.0
SMALLEST_ENVELOPE_SHIFT, LARGEST_ENVELOPE_SHIFT = 1e-4, 4.0  # where the envelope is worth its time
# Width of mixing by other laws than the uniform, for which the envelope takes time in proportion.
WIDEST_OTHER_LAW = 200.0
# Divergence of one step, up to which a grid of its loss, and the envelope, are tried.
LARGEST_DIVERGENCE = 1000.0, 25.0
# Divergence of a step with many and with few copies; below, the envelope takes ever more frequencies.
SMALLEST_DIVERGENCE = 1e-3, 0.03
# The divergence that mixing which takes too long is narrowed to: where the largest shift is at most
# LARGE_SHIFT, and beyond, where the envelope takes longer.
NARROWED_DIVERGENCE = 0.1, 0.6
LARGE_SHIFT = 1.0
NARROWINGS = 40  # halvings of the range of widths
LARGEST_ATTACK_SHIFT = 30.0  # shift of one coordinate; beyond, densities underflow
MOST_COPIES = 1e5  # coordinates of an attack; more are as good as infinitely many
COPIES_FACTORS = 1, 4, 16  # coordinates of an attack over the fewest that truncation allows
LARGEST_SUM_SHIFT = 20.0  # Gaussian shift of a sum of gradients that is looked at
MOST_RECORDS = 8  # gradients with mixing in a sum that is looked at
CUT_PROBABILITY = 1e-36  # probability of outcomes beyond the cells
STEPS_PER_WORTH = 30.0  # steps for each step that an auxiliary mechanism is worth
LARGEST_SPLIT_RISE = 0.1  # relative, by which splitting may raise epsilon
RETRY_BELOW = 0.5  # of the first guess, below which epsilon is searched for again
WALK_DOWN_FACTOR = 0.9  # over the last epsilon tried, looking for one that an attack reaches
LONGEST_STEP_DOWN = 0.5  # of that search, as a factor
EPSILON_TOLERANCE = 1e-6  # relative tolerance of the search for epsilon


@lru_cache(maxsize=64)
def _coordinate(shift: float, width: float, law: str, cell: float) -> Atoms:
    """One coordinate's outcomes in cells, in the removal direction, not rounded to a side."""
    if law == mixing_laws.UNIFORM:
        _, _, without, with_shift, losses = coordinate_cells(shift, width, cell)
    else:
        without, with_shift, losses = smooth_mixing.coordinate_masses(
            shift, smooth_density.named(law, width), cell
        )
    held = (without > TINY_MASS) & (with_shift > TINY_MASS)
    return Atoms(losses[held], without[held])


@lru_cache(maxsize=128)
def shifted(
    shift: float,
    width: float,
    copies: int,
    law: str = mixing_laws.UNIFORM,
    cell: float = ATTACK_CELL_WIDTH,
    *,
    remove: bool = True,
) -> Atoms:
    """A pair that tells at most as much as one unsubsampled step with `copies` shifts of this size.

    The direction asked for, `remove` or not, is the one in which losses are lowered by what they may
    be off by. The pair is given in the removal direction either way.
    """
    pair = _coordinate(shift, width, law, cell)
    pair = pair if remove else reverse(pair)
    largest = float(np.max(np.abs(pair.losses)))
    pair = pair._replace(losses=pair.losses - LOSS_ERROR * largest)
    if copies > 1:
        pair = power(merge(pair, shift / POINTS_PER_SHIFT), copies, upper=False).atoms()
    return pair if remove else reverse(pair)


@lru_cache(maxsize=64)
def gaussian(shift: float, cell: float = CELL_WIDTH) -> Atoms:
    """A pair that tells at least as much as N(shift, 1) against N(0, 1)."""
    low, high, without, with_shift, losses = coordinate_cells(shift, 0.0, cell)
    held = (without > TINY_MASS) & (with_shift > TINY_MASS)
    infinite = float(np.sum(with_shift[~held])) + CUT_PROBABILITY
    absent = float(np.sum(without[~held])) + CUT_PROBABILITY
    inside = np.clip(losses[held], low[held], high[held])
    atoms = Atoms(inside, without[held], infinite, absent)
    pair = split(atoms, shift * cell, (low[held], high[held])).atoms()
    largest = float(np.max(np.abs(pair.losses)))
    return pair._replace(losses=pair.losses + LOSS_ERROR * largest)


def dominating(step: StepShape) -> Atoms:
    """A pair that dominates one unsubsampled step of any admitted shift."""
    if step.width == 0.0:
        return gaussian(step.shift * step.copies**0.5)
    return envelope(step).atoms()


class OneSidedPld:
    """The privacy loss distribution of one direction of a run, bounded from one side.

    Its steps are given by pairs of laws, each bounding the true one from that side.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Atoms, float, int]],
        *,
        remove: bool,
        upper: bool,
        whole: Sequence[tuple[Atoms, int]] = (),
    ) -> None:
        """The run of `pairs` (unsubsampled pair, sampling rate, number of steps) and `whole`.

        `whole`: pairs of subsampled steps, in the removal direction, and how many of them.
        """
        steps = [(subsampled(pair, q), count) for pair, q, count in pairs] + list(whole)
        self.steps = steps if remove else [(reverse(atoms), count) for atoms, count in steps]
        self.upper = upper

    def log_moment(self, order: float) -> float:
        """log E[(dP/dQ)^order] under Q, not rounded to a side."""
        return sum(count * tilted(atoms, order)[1] for atoms, count in self.steps)

    def _spacing(self, tilt: float) -> float:
        """Spacing of a grid fine enough for where e^{tilt * loss} dP has its mass."""
        variance = sum(count * moments(atoms, 1.0 + tilt)[2] for atoms, count in self.steps)
        count_all = sum(count for _, count in self.steps)
        low, high = window(self.steps, 1.0 + tilt)
        widest = max(float(np.ptp(atoms.losses)) for atoms, _ in self.steps)
        by_deviation = (variance / count_all) ** 0.5 / POINTS_PER_STD
        spacing = max(by_deviation, (high - low) / MOST_POINTS, widest / MOST_POINTS)
        if spacing == 0.0:  # one loss alone
            spacing = 1.0
        # The smallest loss of a step, where much mass may sit, becomes a point.
        lowest = [-float(np.min(atoms.losses)) for atoms, count in self.steps if count > 1]
        smallest = max(lowest, default=0.0)
        if smallest > spacing / MOST_REFINEMENT:
            spacing = smallest / ceil(smallest / spacing)
        return float(spacing)

    def grids(self, tilt: float) -> list[tuple[GridPld, int]]:
        """The steps on one grid, fine enough for where e^{tilt * loss} dP has its mass."""
        spacing = self._spacing(tilt)
        if self.upper:
            return [
                (nudged(split(atoms, spacing), upper=True), count) for atoms, count in self.steps
            ]
        return [(lowered(atoms, spacing, 1.0 + tilt), count) for atoms, count in self.steps]

    def composed(self, tilt: float) -> Composed:
        """The composed loss, accurate where e^{tilt * loss} dP has its mass."""
        return compose(self.grids(tilt), tilt)

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
        first = self._root(delta, start, order - 1.0)
        if not first < RETRY_BELOW * start:
            return first
        # Far from where Renyi moments led, another tilt sees more.
        closer = max(2.0 * first, start / 16.0)
        second = self._root(delta, closer, self.tilt(closer))
        return min(first, second) if self.upper else max(first, second)

    def _root(self, delta: float, start: float, tilt: float) -> float:
        """A bound on epsilon at delta, searched for up to about `start`."""
        loss, log_delta = self.composed(tilt), log(delta)

        def above(epsilon: float) -> float:
            return log(max(TINY_DELTA, loss.delta(epsilon, upper=self.upper))) - log_delta

        return _upper_root(above, start) if self.upper else _lower_root(above, start)

    def delta(self, epsilon: float) -> float:
        """A bound on delta at epsilon."""
        return self.composed(self.tilt(epsilon)).delta(epsilon, upper=self.upper)


def _upper_root(above: Callable[[float], float], start: float) -> float:
    """An epsilon at which `above`, log of delta over the one wanted, is not positive; +inf if none."""
    smallest, largest = 1e-6 * start, (1.0 + LARGEST_SPLIT_RISE) * start
    if above(largest) > 0.0:
        return inf
    if above(smallest) <= 0.0:
        return smallest
    return safe_end(above, largest, smallest, tolerance=EPSILON_TOLERANCE)


def _lower_root(above: Callable[[float], float], start: float) -> float:
    """An epsilon at which `above` is not negative; 0 if none.

    Far below `start`, where the tilt is wrong, errors may exceed delta: the search walks down, in
    small steps at first.
    """
    if above(start) >= 0.0:
        return start
    unsafe, safe, factor = start, WALK_DOWN_FACTOR * start, WALK_DOWN_FACTOR
    while above(safe) < 0.0:
        factor = max(LONGEST_STEP_DOWN, WALK_DOWN_FACTOR * factor)
        unsafe, safe = safe, factor * safe
        if safe < 1e-6 * start:
            return 0.0
    return safe_end(lambda epsilon: -above(epsilon), safe, unsafe, tolerance=EPSILON_TOLERANCE)


def _both_directions(
    pairs: Sequence[tuple[Atoms, float, int]], whole: Sequence[tuple[Atoms, int]] = ()
) -> list[OneSidedPld]:
    return [OneSidedPld(pairs, remove=remove, upper=True, whole=whole) for remove in (True, False)]


def _moved(step: StepShape, times: int) -> Atoms | None:
    """A pair that dominates every move by a sum of `times` admitted gradients.

    None where no such pair is at hand.
    """
    moved = step._replace(shift=times * step.shift)
    if step.width == 0.0:
        return dominating(moved) if moved.shift * moved.copies**0.5 <= LARGEST_SUM_SHIFT else None
    fits = moved.copies >= FEWEST_COPIES and _divergence(moved) < LARGEST_DIVERGENCE[1]
    return dominating(moved) if fits and times <= MOST_RECORDS else None


def _several(phase: Settings) -> Atoms | None:
    """A pair that dominates one step of a run whose neighbours differ in several records.

    Or in a replaced one. None where no sum of gradients has a pair at hand.
    """
    step = _narrowed(step_shape(phase))
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


def _divergence(step: StepShape) -> float:
    """The Renyi divergence of order 2 of one unsubsampled step, as large as its loss is spread."""
    return float(log_moments(step, np.array([2.0]))[0])


def _has_few_copies(step: StepShape) -> bool:
    return step.width > 0.0 and step.copies < FEWEST_COPIES


def _smallest_divergence(step: StepShape) -> float:
    return SMALLEST_DIVERGENCE[step.copies < FEWEST_COPIES]


@lru_cache(maxsize=256)
def _narrowed(step: StepShape) -> StepShape:
    """A step that tells at least as much, with mixing as narrow as the envelope can afford.

    By (M) of step_moments.py. With many copies Renyi moments are smaller than that.
    """
    if step.law != mixing_laws.UNIFORM:
        step = step._replace(width=min(step.width, WIDEST_OTHER_LAW))
    is_large = step.shift > LARGE_SHIFT
    target = NARROWED_DIVERGENCE[is_large]
    at_once = step.law == mixing_laws.UNIFORM and not is_large
    enough = SMALLEST_DIVERGENCE[1] if at_once else target
    if not _has_few_copies(step) or _divergence(step) >= enough:
        return step
    narrow, wide = 0.0, step.width
    for _ in range(NARROWINGS):
        middle = 0.5 * (narrow + wide)
        if _divergence(step._replace(width=middle)) >= target:
            narrow = middle
        else:
            wide = middle
    return step._replace(width=narrow) if narrow > 0.0 else step


def _worthwhile(step: StepShape) -> bool:
    """Whether the envelope of this step may be worth its time."""
    if not _divergence(step) < LARGEST_DIVERGENCE[step.width > 0.0]:
        return False
    if step.width == 0.0:
        return True
    small = step.shift < SMALLEST_ENVELOPE_SHIFT or _divergence(step) < _smallest_divergence(step)
    return not small and step.copies >= 1.0 and step.shift <= LARGEST_ENVELOPE_SHIFT


def attacks(
    phases: Sequence[Settings],
) -> Iterator[tuple[str, tuple[OneSidedPld, OneSidedPld]]]:
    """(name, privacy losses where the record is removed, and added) of adversaries that exist.

    Their gradient lies in as few coordinates as truncation allows, and in more. Only one record has
    a gradient: not the others of a group, nor one that is put in its place. None of more than
    MOST_STEPS steps.
    """
    if sum(phase.steps for phase in phases) > MOST_STEPS:
        return
    for factor in COPIES_FACTORS:
        directions = [_attack(phases, factor, remove=remove) for remove in (True, False)]
        removal, addition = directions
        if removal is None or addition is None:
            return
        count = "p" if factor == 1 else f"{factor} p"
        yield f"gradient spread evenly over {count} coordinates", (removal, addition)


def _attack(phases: Sequence[Settings], factor: int, *, remove: bool) -> OneSidedPld | None:
    """A gradient in `factor` times the fewest coordinates; None where it is out of reach."""
    pairs: list[tuple[Atoms, float, int]] = []
    for phase in phases:
        copies = ceil(phase.truncation) * factor if phase.mixing > 0.0 else 1
        if copies > MOST_COPIES:
            return None
        shift = 1.0 / phase.noise_multiplier / copies**0.5
        width = phase.mixing / phase.noise_multiplier
        step = StepShape("gaussian", shift, width, copies, phase.mixing_law)
        if shift > LARGEST_ATTACK_SHIFT or not _divergence(step) < LARGEST_DIVERGENCE[0]:
            return None
        pair = shifted(shift, width, copies, phase.mixing_law, remove=remove)
        pairs.append((pair, phase.sample_rate, phase.steps))
    return OneSidedPld(pairs, remove=remove, upper=False)


def dominated_tightly(phases: Sequence[Settings]) -> list[OneSidedPld]:
    """Both directions of a smaller run than `dominated` that dominates the given one.

    From mixing_tight.py; empty where no such run is known. All steps of a kind, in whatever phases,
    share one pair and one auxiliary mechanism.
    """
    kinds: Counter[tuple[StepShape, float]] = Counter()
    for phase in phases:
        kinds[_narrowed(step_shape(phase)), phase.sample_rate] += phase.steps
    if neighbours.changes(phases[0]) > 1:
        return []
    if not all(_worthwhile(step) and not _has_few_copies(step) for step, _ in kinds):
        return []
    pairs, whole = [], []
    for (step, q), count in kinds.items():
        if step.width == 0.0:
            pairs.append((dominating(step), q, count))
            continue
        fitting = [
            smaller
            for smaller in smaller_pairs(step, q)
            if smaller.worth * STEPS_PER_WORTH <= count
        ]
        if not fitting:
            return []
        whole += [(fitting[0].pair.atoms(), count), (fitting[0].auxiliary.atoms(), 1)]
    return _both_directions(pairs, whole)


def dominated(phases: Sequence[Settings]) -> list[OneSidedPld]:
    """Both directions of a run that dominates the given one, from the envelope of all shifts.

    Empty where the envelope is not worth its time.
    """
    steps = [_narrowed(step_shape(phase)) for phase in phases]
    if sum(phase.steps for phase in phases) > MOST_STEPS or not all(map(_worthwhile, steps)):
        return []
    if neighbours.changes(phases[0]) == 1:
        pairs = [
            (dominating(step), phase.sample_rate, phase.steps)
            for step, phase in zip(steps, phases, strict=True)
        ]
        return _both_directions(pairs)
    whole = []
    for phase in phases:
        pair = _several(phase)
        if pair is None:
            return []
        whole.append((pair, 1.0, phase.steps))
    return _both_directions(whole)
