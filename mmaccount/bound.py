"""What every privacy question returns: a number with a direction."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from math import isfinite


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An epsilon (or a delta) between `lower` and `upper`.

    `upper` is the guarantee: proven, rounding errors added; +inf when nothing finite is known, and then `reason` says
    why. `lower` is reached by the adversary named `attack`; None where no attack has been computed. `order` is the Renyi
    order at which `upper` was attained, None if it did not come from Renyi moments.
    """

    upper: float
    method: str
    lower: float | None = None
    attack: str | None = None
    order: float | None = None
    reason: str | None = None


class BoundError(ArithmeticError):
    """A condition that a bound rests on did not hold numerically. Nothing is reported rather than too little."""


def up(value: float, digits: int = 6, rounding: str = ROUND_CEILING) -> str:
    """A number to print, rounded up (or as told), so that what it promises still holds."""
    if not isfinite(value):
        return "unbounded"
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal(Decimal(value))):.{digits}g}"
