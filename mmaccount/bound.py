"""What every privacy question returns: a number with a direction."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An epsilon (or a delta) between `lower` and `upper`.

    `upper` is the guarantee: proven, rounding errors added; +inf when nothing finite is known, and then `reason` says
    why. `lower` is reached by an attack that exists; None while no attack has been computed. `order` is the Renyi
    order at which `upper` was attained, None if no finite one was.
    """

    upper: float
    method: str
    lower: float | None = None
    order: float | None = None
    reason: str | None = None


class BoundError(ArithmeticError):
    """A condition that a bound rests on did not hold numerically. Nothing is reported rather than too little."""
