"""The one root finder."""

from collections.abc import Callable
from math import inf, log

DEFAULT_TOLERANCE = 1e-9  # relative width of the last bracket


def safe_end(
    excess: Callable[[float], float],
    safe: float,
    unsafe: float,
    *,
    whole: bool = False,
    tolerance: float = DEFAULT_TOLERANCE,
) -> float:
    """The value next to the sign change of `excess` on its safe side (excess <= 0), between `safe`
    and `unsafe` > 0.

    False position in the logarithm of the value (the end that stays loses weight: Anderson and
    Bjorck 1973), at least half of the tolerance inside of both ends so that both close in, and a
    bisection where three steps did not halve the bracket. The safe end has been evaluated. A
    whole-number edge is found exactly, others within a relative `tolerance`.
    """
    low, high = excess(safe), excess(unsafe)
    spans = [inf, inf, inf]
    for _ in range(400):
        if abs(unsafe - safe) <= (1.0 if whole else tolerance * min(safe, unsafe)):
            break
        spans.append(abs(log(unsafe / safe)))
        slow = spans[-1] > 0.5 * spans[-4] or not -inf < low < 0.0 < high < inf
        inside = min(0.5, 0.5 * tolerance / spans[-1])
        weight = 0.5 if slow else min(1.0 - inside, max(inside, low / (low - high)))
        middle = safe * (unsafe / safe) ** weight
        if whole:
            middle = min(max(round(middle), min(safe, unsafe) + 1), max(safe, unsafe) - 1)
        at_middle = excess(middle)
        if at_middle <= 0.0:
            high *= _kept(low, at_middle)
            safe, low = middle, at_middle
        else:
            low *= _kept(high, at_middle)
            unsafe, high = middle, at_middle
    return safe


def _kept(before: float, now: float) -> float:
    """The weight left to the other end when an end moves and its excess goes from `before` to
    `now`, of the same sign."""
    share = 1.0 - now / before if -inf < before < inf and before != 0.0 else 0.0
    return share if 0.0 < share < 1.0 else 0.5
