"""Two-sided bounds on plain Gaussian DP-SGD from discretised privacy loss distributions.

For runs whose characteristic function hardly decays (few steps, or a tiny sampling rate), where
Fourier inversion is slow and wide.

A step of one direction is held twice, as a pair that tells more than it and one that tells less
(mixing_bounds.gaussian and mixing_bounds.shifted, subsampled), and projected on a grid that fits
the composed loss:
- outcomes of probability `lost` at either end are left out: at the top they are granted to the
  adversary (upper) or dropped (lower), at the bottom their loss is raised to that of the others
  (upper) or they are dropped. Raising a loss raises the profile E_Q[(e^L - x)_+], dropping mass
  lowers it.
- upper: split (pld.py). Lower: outcomes are merged in groups, as in pld.merged_low and
  merged_high, with a grid point at the mean of the outcomes near that end of the losses where most
  of the mass is: with a tiny sampling rate nearly all of it lies within q of log(1 - q), much closer
  together than grid points need to be.
- losses are moved by what they may be off by, up for the upper side and down for the lower one
  (pld.nudged).
Both sides err by the square of the spacing, so the number of points needed is read off a first
answer.
"""

from collections.abc import Callable, Sequence
from math import hypot, inf, log, sqrt
from typing import NamedTuple

import numpy as np

from mmaccount.accounting import neighbours
from mmaccount.accounting.mixing_bounds import gaussian, shifted
from mmaccount.accounting.pld import (
    LOSS_ROUNDING,
    MASS_ERROR,
    MOST_STEPS,
    Atoms,
    Composed,
    GridPld,
    compose,
    merged_high,
    merged_low,
    nudged,
    reverse,
    span,
    split,
    subsampled,
    tilted,
)
from mmaccount.accounting.renyi import epsilon_at, log_delta_at, minimise_over_orders
from mmaccount.accounting.roots import epsilon_from_delta_bounds
from mmaccount.records.bound import TwoSided
from mmaccount.records.settings import Settings

CELL_WIDTH = 0.0025  # width of a cell of outcomes, in std of the noise
LARGEST_GRID_SHIFT = 30.0  # 1 / noise multiplier
FEWEST_POINTS, MOST_POINTS = 2.0**13, 2.0**18  # points of a grid
MOST_COMPOSED_POINTS = 2.0**20  # of the composed loss, where projection has spread it
GOOD_RELATIVE_WIDTH = 1e-4  # relative width that is good enough
ROUGH_POINTS = 1024.0  # points of the grid that tilts are compared on
# Over the Chernoff tilt; the one whose window is narrowest is taken.
TILT_SHARES = (1.0, 0.5, 0.25, 0.1, 0.04, 0.016, 0.0)
SMALLEST_DELTA_SHARE = 1e-3  # over a rough delta: the smallest that rounding is kept away from
# Logarithm of what the integrand may exceed delta by; the rounding of transforms is below e^-28 of it.
LARGEST_LOG_EXCESS = 9.0
EPSILON_TOLERANCE = 1e-7  # relative tolerance of the search for epsilon
SMALLEST_RANGE = 1e-9  # of losses, that a grid is made for

Parts = list[tuple[Atoms, int]]


class _BothSides(NamedTuple):
    """A composed loss from both sides."""

    below: Composed
    above: Composed

    def lower(self, epsilon: float) -> float:
        return self.below.delta(epsilon, upper=False)

    def upper(self, epsilon: float) -> float:
        return self.above.delta(epsilon, upper=True)

    def delta(self, epsilon: float) -> TwoSided:
        return TwoSided(self.lower(epsilon), self.upper(epsilon))


def trimmed(atoms: Atoms, lost: float, *, upper: bool) -> Atoms:
    """The atoms by increasing loss, without outcomes at either end.

    Those left out have together probability `lost` under P at most, at each end.
    """
    order = np.argsort(atoms.losses)
    losses, masses = atoms.losses[order], atoms.masses[order]
    held = masses * np.exp(losses)
    kept = np.flatnonzero((np.cumsum(held[::-1])[::-1] > lost) & (np.cumsum(held) > lost))
    first, last = (int(kept[0]), int(kept[-1]) + 1) if kept.size else (0, losses.size)
    inside = masses[first:last].copy()
    if not upper:
        return Atoms(losses[first:last], inside)
    inside[0] += float(np.sum(masses[:first]))
    return Atoms(
        losses[first:last], inside, atoms.infinite + float(np.sum(held[last:])) * (1.0 + MASS_ERROR)
    )


def raised(atoms: Atoms, spacing: float) -> GridPld:
    """The upper rule from the smallest loss on, with the error of losses added."""
    smallest = float(atoms.losses[0])
    grid = split(atoms._replace(losses=atoms.losses - smallest), spacing)
    return nudged(grid._replace(start=grid.start + smallest), upper=True)


def _steps(phases: Sequence[Settings]) -> list[tuple[float, float, int]]:
    """(shift, sampling rate, number) of steps.

    Those without subsampling are one large step together.
    """
    steps = [(1.0 / phase.noise_multiplier, phase.sample_rate, phase.steps) for phase in phases]
    whole = hypot(*(sqrt(count) * shift for shift, q, count in steps if q == 1.0))
    return [step for step in steps if step[1] < 1.0] + [(whole, 1.0, 1)] * (whole > 0.0)


def within_reach(phases: Sequence[Settings]) -> bool:
    """Whether grids can be made of these phases."""
    steps = _steps(phases)
    if (
        not steps
        or neighbours.changes(phases[0]) > 1
        or sum(count for _, _, count in steps) > MOST_STEPS
    ):
        return False
    return max(shift for shift, _, _ in steps) <= LARGEST_GRID_SHIFT


class TwoSidedPld:
    """The PLD of one direction of a run of plain Gaussian phases within reach, from both sides."""

    def __init__(self, phases: Sequence[Settings], negligible: float, *, remove: bool) -> None:
        """`negligible`: the probability of outcomes that may be left out, in all."""
        self.remove = remove
        steps = _steps(phases)
        lost = negligible / sum(count for _, _, count in steps)
        self.parts: dict[bool, Parts] = {True: [], False: []}
        for shift, q, count in steps:
            less = shifted(shift, 0.0, 1, cell=CELL_WIDTH, remove=remove)
            for upper, pair in ((True, gaussian(shift, CELL_WIDTH)), (False, less)):
                step = subsampled(pair, q)
                self.parts[upper].append(
                    (trimmed(step if remove else reverse(step), lost, upper=upper), count)
                )
        self.rough = [
            (split(atoms, self._range() / ROUGH_POINTS), count) for atoms, count in self.parts[True]
        ]

    def log_moment(self, order: float) -> float:
        """About log E[(dP/dQ)^order] under Q, of the outcomes kept."""
        return sum(count * tilted(grid, order)[1] for grid, count in self.rough)

    def _range(self) -> float:
        """The range of the losses of one step."""
        return max(
            SMALLEST_RANGE,
            *(float(atoms.losses[-1] - atoms.losses[0]) for atoms, _ in self.parts[True]),
        )

    def _tilt(self, epsilon: float, delta: float) -> tuple[float, float]:
        """(tilt, width of the window it needs) for about these.

        The narrowest one where rounding does not drown delta.
        """
        chernoff = (
            minimise_over_orders(
                lambda order: log_delta_at(self.log_moment(order), order, epsilon)
            )[1]
            - 1.0
        )
        candidates = []
        for share in TILT_SHARES:
            tilt = share * chernoff
            height = self.log_moment(1.0 + tilt) - tilt * epsilon
            width = span(self.rough, 1.0 + tilt)
            drowned = height > log(delta) + LARGEST_LOG_EXCESS
            candidates.append((drowned, height if drowned else width, tilt, width))
        return min(candidates)[2:]

    def _both_sides(self, epsilon: float, delta: float, points: float) -> _BothSides | None:
        """The composed loss for about these, on so many points.

        None where so many steps were projected on so coarse a grid that they spread over far too
        many points.
        """
        tilt, width = self._tilt(epsilon, delta)
        spacing = max(width, self._range()) / points
        merged = merged_low if self.remove else merged_high
        below = [(merged(atoms, spacing), count) for atoms, count in self.parts[False]]
        above = [(raised(atoms, spacing), count) for atoms, count in self.parts[True]]
        if (
            max(span(parts, 1.0 + tilt) for parts in (below, above))
            > MOST_COMPOSED_POINTS * spacing
        ):
            return None
        return _BothSides(compose(below, tilt), compose(above, tilt))

    def epsilon(self, delta: float, enough: float = 0.0) -> TwoSided:
        """Bounds on epsilon at delta; an answer below `enough` need not be narrow."""
        tops = [(float(atoms.losses[-1]), count) for atoms, count in self.parts[True]]
        largest = sum(count * (top + LOSS_ROUNDING * abs(top)) for top, count in tops)
        infinite = sum(count * atoms.infinite for atoms, count in self.parts[True])
        start, _ = minimise_over_orders(
            lambda order: epsilon_at(max(0.0, self.log_moment(order)), order, delta)
        )
        best, points = (
            TwoSided(0.0, max(0.0, largest) if infinite <= delta else inf),
            FEWEST_POINTS,
        )
        while largest > 0.0:
            about = min(start, largest, best.upper)
            pair = self._both_sides(about, delta, points)
            if pair is None:
                break
            holds = about if about > 0.0 and pair.upper(about) <= delta else largest
            fresh = epsilon_from_delta_bounds(
                pair.upper, pair.lower, delta, holds, EPSILON_TOLERANCE
            )
            best = TwoSided(max(best.lower, fresh.lower), min(best.upper, fresh.upper))
            if best.upper <= enough or points >= MOST_POINTS or _gap(best) <= GOOD_RELATIVE_WIDTH:
                break
            points = _more(points, _gap(best))
        return best

    def near(self, epsilon: float, about: float) -> Callable[[float], TwoSided]:
        """Bounds on delta as a function of epsilon, best near the given one.

        `about` is the rough size of delta there.
        """
        bounds: Callable[[float], TwoSided] = lambda _: TwoSided(0.0, 1.0)  # noqa: E731
        current, points = bounds(epsilon), FEWEST_POINTS
        while True:
            pair = self._both_sides(
                epsilon,
                max(current.lower, SMALLEST_DELTA_SHARE * min(about, current.upper)),
                points,
            )
            if pair is None:
                return bounds
            bounds, current = pair.delta, pair.delta(epsilon)
            if points >= MOST_POINTS or _gap(current) <= GOOD_RELATIVE_WIDTH:
                return bounds
            points = _more(points, _gap(current))


def _gap(bounds: TwoSided) -> float:
    return (
        (bounds.upper - bounds.lower) / bounds.upper
        if 0.0 < bounds.upper < inf
        else float(bounds.upper > 0.0)
    )


def _more(points: float, gap: float) -> float:
    """Points for an answer of GOOD_RELATIVE_WIDTH: its width falls with the square of the spacing."""
    return min(MOST_POINTS, points * min(32.0, max(2.0, 1.3 * sqrt(gap / GOOD_RELATIVE_WIDTH))))
