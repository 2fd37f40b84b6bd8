"""The one root finder."""

from collections.abc import Callable
from math import inf

TOLERANCE = 1e-9  # relative width of the last bracket


def safe_end(
    excess: Callable[[float], float], safe: float, unsafe: float, *, whole: bool = False, tolerance: float = TOLERANCE
) -> float:
    """The value next to the sign change of `excess` on its safe side (excess <= 0), between `safe` and `unsafe` > 0.

    False position in the logarithm of the value, with a bisection every other step; the safe end has been evaluated.
    A whole-number edge is found exactly, another one within a relative `tolerance`.
    """
    low, high = excess(safe), excess(unsafe)
    for count in range(400):
        if abs(unsafe - safe) <= (1.0 if whole else tolerance * min(safe, unsafe)):
            break
        weight = low / (low - high) if count % 2 == 0 and -inf < low < 0.0 < high < inf else 0.5
        middle = safe * (unsafe / safe) ** min(0.99, max(0.01, weight))
        if whole:
            middle = min(max(round(middle), min(safe, unsafe) + 1), max(safe, unsafe) - 1)
        at_middle = excess(middle)
        if at_middle <= 0.0:
            safe, low = middle, at_middle
        else:
            unsafe, high = middle, at_middle
    return safe
