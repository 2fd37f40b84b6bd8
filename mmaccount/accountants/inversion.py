"""Certified brackets on the epsilon and delta of plain Gaussian DP-SGD, from contours (see contour.py)."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, isfinite, log, log1p

import numpy as np
from scipy.special import ndtr

from mmaccount.accountants import relations
from mmaccount.accountants.contour import Law, Line, Pair, Side
from mmaccount.accountants.rdp import epsilon_at, log_delta_at, minimise_over_orders
from mmaccount.kernels import loss
from mmaccount.search import safe_end
from mmaccount.settings import Settings

SMALLEST_NOISE = 0.05  # of a subsampled phase; below, too many nodes
NEGLIGIBLE = 1e-7  # probability of outcomes left out, relative to delta
NARROW = 1e-6  # relative width that is good enough
VAGUE = -1.0  # log of M(t) e^{-t eps} between this and its negative: Chernoff says little about delta
ROOT = 1e-10  # relative tolerance of the search for epsilon


def _tilt(side: Side, objective: Callable[[float, float], float]) -> float:
    """t > 0 that minimises objective(log M(t), 1 + t)."""
    return minimise_over_orders(lambda order: objective(side.log_moment(order - 1.0), order))[1] - 1.0


def _side_epsilon(side: Side, delta: float) -> Pair:
    t = _tilt(side, lambda moment, order: epsilon_at(moment, order, delta))
    start = epsilon_at(side.log_moment(t), 1.0 + t, delta)
    found = Pair(0.0, inf)
    for _ in range(2):
        line = side.line(t, start)
        if line is None:
            return found
        fresh = _roots(line, delta, start)
        found = Pair(max(found.lower, fresh.lower), min(found.upper, fresh.upper))
        if not isfinite(found.upper) or found.upper - found.lower <= NARROW * found.upper:
            return found
        start = found.upper
        t = _tilt(side, partial(log_delta_at, epsilon=start))
    return found


def _roots(line: Line, delta: float, start: float) -> Pair:
    """The epsilons next to where the bounds on delta cross `delta`, each on its own safe side."""
    log_delta = log(delta)

    def above(epsilon: float) -> float:
        return log(max(1e-320, line.delta(epsilon).upper)) - log_delta

    def below(epsilon: float) -> float:
        return log_delta - log(max(1e-320, line.delta(epsilon).lower))

    if above(start) > 0.0:
        return Pair(0.0, inf)
    smallest = 1e-9 * start
    if above(smallest) <= 0.0:
        upper = 0.0 if above(0.0) <= 0.0 else smallest
        return Pair(0.0, upper)
    upper = safe_end(above, start, smallest, tolerance=ROOT)
    part = ROOT
    while part < 1.0:
        if below((1.0 - part) * upper) <= 0.0:
            return Pair(safe_end(below, (1.0 - part) * upper, upper, tolerance=ROOT), upper)
        part *= 4.0
    return Pair(0.0, upper)


def _law(phase: Settings, negligible: float) -> Law:
    """The law of a plain Gaussian phase, without outcomes that together have probability `negligible` at most."""
    q, z = phase.sample_rate, phase.noise_multiplier
    records = relations.changes(phase)
    if q == 1.0:
        return Law(phase.steps, mu_squared=phase.steps * (records / z) ** 2)
    if records > 1:
        return relations.law(phase, negligible)

    spread = (1.0 + loss.SHARPNESS**-2) ** 0.5

    def lost(cut: float) -> float:
        """P(x + spread of the edge > cut) for x ~ (1 - q) N(0, 1) + q N(1/z, 1)."""
        return float((1.0 - q) * ndtr(-cut / spread) + q * ndtr((1.0 / z - cut) / spread))

    cut = 2.0
    while lost(cut) > negligible / phase.steps and cut < 60.0 + 1.0 / z:
        cut += 0.25

    def nodes(order: float, frequency: float) -> tuple[np.ndarray, np.ndarray]:
        return loss.subsampled_nodes(z, q, order, frequency, cut)

    def size(order: float, frequency: float) -> float:
        return loss.subsampled_grid(z, q, order, frequency, cut)[2]

    return Law(phase.steps, nodes, size, lost=lost(cut))


def _within_reach(phases: Sequence[Settings]) -> bool:
    records = relations.changes(phases[0])
    return all(phase.sample_rate == 1.0 or phase.noise_multiplier >= SMALLEST_NOISE * records for phase in phases)


def epsilon(phases: Sequence[Settings], delta: float) -> Pair:
    """Bounds on the epsilon of plain Gaussian phases: the larger of the two directions, each bound by itself."""
    if not _within_reach(phases):
        return Pair(0.0, inf)
    laws = [_law(phase, NEGLIGIBLE * delta / len(phases)) for phase in phases]
    removal = _side_epsilon(Side(laws, remove=True), delta)
    if phases[0].neighbours == "replace-one":  # the other direction is its mirror image
        return removal
    addition = _side_epsilon(Side(laws, remove=False), delta)
    return Pair(max(removal.lower, addition.lower), max(removal.upper, min(addition.upper, _pure(phases))))


def delta(phases: Sequence[Settings], epsilon: float, about: float) -> Pair:
    """Bounds on the delta of plain Gaussian phases at epsilon >= 0; `about` is its rough size."""
    removal, addition = (direction(phases, epsilon, about, remove=remove)(epsilon) for remove in (True, False))
    return Pair(max(removal.lower, addition.lower), max(removal.upper, addition.upper))


def direction(phases: Sequence[Settings], epsilon: float, about: float, *, remove: bool) -> Callable[[float], Pair]:
    """Bounds on delta in one direction, as a function of epsilon >= 0, best near the given one, where delta is `about`."""
    if not _within_reach(phases):
        return lambda _: Pair(0.0, 1.0)
    remove = remove or phases[0].neighbours == "replace-one"  # its two directions are mirror images
    side = Side([_law(phase, NEGLIGIBLE * about / len(phases)) for phase in phases], remove=remove)
    t = _tilt(side, partial(log_delta_at, epsilon=epsilon))
    while VAGUE <= side.log_moment(2.0 * t) - 2.0 * t * epsilon <= -VAGUE:  # delta is not small: a larger t is cheaper
        t *= 2.0
    line = side.line(t, epsilon)
    pure = inf if remove else _pure(phases)

    def bounds(epsilon: float) -> Pair:
        if epsilon >= pure:
            return Pair(0.0, 0.0)
        return Pair(0.0, 1.0) if line is None else line.delta(epsilon)

    return bounds


def _pure(phases: Sequence[Settings]) -> float:
    """Adding g records changes no likelihood by more than (1 - q)^-g in a step: that direction is pure DP."""
    records = relations.changes(phases[0])
    return sum(-phase.steps * records * log1p(-phase.sample_rate) if phase.sample_rate < 1.0 else inf for phase in phases)
