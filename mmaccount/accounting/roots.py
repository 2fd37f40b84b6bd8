"""From bounds on delta at every epsilon to bounds on epsilon at one delta."""

from collections.abc import Callable
from math import inf, log

from mmaccount.accounting.search import safe_end
from mmaccount.records.bound import TwoSided

EPSILON_TOLERANCE = 1e-10  # relative tolerance
SMALLEST_EPSILON = 1e-9  # over the epsilon at which the search starts; below that it ends
TINY_DELTA = 1e-320  # stands in for delta = 0 in logarithms


def epsilon_from_delta_bounds(
    upper: Callable[[float], float],
    lower: Callable[[float], float],
    delta: float,
    start: float,
    tolerance: float = EPSILON_TOLERANCE,
) -> TwoSided:
    """The epsilons next to where the bounds `upper` and `lower` on delta(epsilon) cross `delta`,
    each on its own safe side: both have been evaluated. (0, inf) where `upper` does not hold delta
    at `start`, the largest epsilon tried."""
    log_delta = log(delta)

    def above(epsilon: float) -> float:
        return log(max(TINY_DELTA, upper(epsilon))) - log_delta

    def below(epsilon: float) -> float:
        return log_delta - log(max(TINY_DELTA, lower(epsilon)))

    if not above(start) <= 0.0:
        return TwoSided(0.0, inf)
    safe, part = start, 0.9
    while above(part * safe) <= 0.0:
        safe, part = part * safe, part**2
        if safe <= SMALLEST_EPSILON * start:  # also a start of 0
            return TwoSided(0.0, 0.0 if above(0.0) <= 0.0 else safe)
    safe, part = safe_end(above, safe, part * safe, tolerance=tolerance), tolerance
    while part < 1.0:
        if below((1.0 - part) * safe) <= 0.0:
            return TwoSided(safe_end(below, (1.0 - part) * safe, safe, tolerance=tolerance), safe)
        part *= 16.0
    return TwoSided(0.0, safe)
