"""What every privacy question returns: a number with a direction."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from math import isfinite
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An epsilon (or a delta) between `lower` and `upper`.

    `upper` is the guarantee: proven, rounding errors added; +inf when nothing finite is known, and
    then `reason` says why. `lower` is reached by the adversary named `attack`; None where no attack
    has been computed. `order` is the Renyi order at which `upper` was attained, None if it did not
    come from Renyi moments. Where `upper` is more than 1.5 times `lower`, `note` says which of them
    is believed to be far from the truth, and why.
    """

    upper: float
    method: str
    lower: float | None = None
    attack: str | None = None
    order: float | None = None
    reason: str | None = None
    note: str | None = None


class TwoSided(NamedTuple):
    """A lower and an upper bound on one number."""

    lower: float
    upper: float


class BoundError(ArithmeticError):
    """A condition that a bound rests on did not hold numerically. Nothing is reported rather than
    too little."""


class Infeasible(ValueError):
    """No value of the setting solved for meets the target.

    `best` is the epsilon reached at `value`, the most private one.
    """

    def __init__(self, message: str, *, best: float, value: float) -> None:
        super().__init__(message)
        self.best = best
        self.value = value


def up(value: float, digits: int = 6, rounding: str = ROUND_CEILING) -> str:
    """A number to print, rounded up (or as told), so that what it promises still holds."""
    if not isfinite(value):
        return "unbounded"
    return f"{float(Context(prec=digits, rounding=rounding).create_decimal(Decimal(value))):.{digits}g}"


def as_json(bound: Bound, name: str = "epsilon") -> dict[str, Any]:
    """A bound as the commands print it with --json; an unbounded one is None, with the reason."""
    finite = isfinite(bound.upper)
    data = {name: bound.upper if finite else None, "lower": bound.lower, "attack": bound.attack}
    data |= {"order": bound.order, "method": bound.method, "note": bound.note}
    return data if finite else data | {"reason": bound.reason}


def as_text(bound: Bound, name: str, given: str) -> str:
    """A bound in words; `given` is what it is stated at."""
    if bound.reason is not None:
        return f"{name} unbounded at {given}: {bound.reason}"
    order = "" if bound.order is None else f", order {bound.order:.4g}"
    line = f"{name} <= {up(bound.upper)} at {given}  ({bound.method}{order})"
    if bound.lower is not None:
        line += f"\n{' ' * len(name)} >= {up(bound.lower, rounding=ROUND_FLOOR)}  (attack: {bound.attack})"
    if bound.note is not None:
        line += f"\n{' ' * len(name)} wide: {bound.note}"
    return line
