"""Argument checks, written so that NaN fails. Every message names the argument, its range and the
value."""

import math
from numbers import Integral, Real


def real(name: str, value: object, interval: str, low: float, high: float) -> float:
    """`value` as a float inside `interval`, written like "(0, 1]": a round bracket excludes that
    end."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number in {interval}, got {value!r}.")
    try:
        number = float(value)
    except OverflowError:  # an int or a fraction; it may have too many digits to be printed
        raise ValueError(
            f"`{name}` must be in {interval}, got a number beyond the range of float64."
        ) from None
    above = number > low if interval[0] == "(" else number >= low
    below = number < high if interval[-1] == ")" else number <= high
    if not (above and below):
        raise ValueError(f"`{name}` must be in {interval}, got {value!r}.")
    return number


def listed(name: str, values: object) -> list[object]:
    """The elements of a list, a tuple, an array or another series."""
    try:
        return list(values)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise TypeError(
            f"`{name}` must be a series, such as a list or an array, got {values!r}."
        ) from None


def positive(name: str, value: object) -> float:
    """A finite number above 0."""
    return real(name, value, "(0, inf)", 0.0, math.inf)


def nonnegative(name: str, value: object) -> float:
    """A finite number, 0 or more."""
    return real(name, value, "[0, inf)", 0.0, math.inf)


def probability(name: str, value: object) -> float:
    """A number strictly between 0 and 1."""
    return real(name, value, "(0, 1)", 0.0, 1.0)


def count(name: str, value: object, high: int = 10**15) -> int:
    """A whole number from 1 to `high`; a float such as 100.0 is taken, 100.5 is not."""
    interval = f"[1, {high:.0e}]"
    number = real(name, value, interval, 1, high)
    if not number.is_integer():
        raise ValueError(f"`{name}` must be a whole number in {interval}, got {value!r}.")
    return int(value) if isinstance(value, Integral) else int(number)


def choice(name: str, value: object, options: tuple[str, ...]) -> str:
    """One of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"`{name}` must be one of {', '.join(options)}, got {value!r}.")
    return value
