"""The Renyi accountant: moments add over steps and phases, then turn into epsilon or delta at the
best order."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache, partial
from math import exp, floor, inf, isnan, log, log1p, log2
from sys import float_info

import numpy as np

from mmaccount.accounting.neighbours import changes, reduced
from mmaccount.accounting.step_moments import check_worst_shift, step_log_moment
from mmaccount.records import validate
from mmaccount.records.bound import Bound
from mmaccount.records.settings import Settings

CONVERSIONS = ("improved", "mironov")
MOST_CHANGES = 128  # of one record, between neighbours
STRETCHES = (1.0, 1.5, 2.0, 2.5, 3.0)
# Beyond so many changes moments are read off chords between orders 1 + 2^(e / ORDERS_PER_OCTAVE).
# Measured over 400 plain steps: 0.004 % too large in the median and 1.3 % at worst.
MANY_CHANGES = 8
ORDERS_PER_OCTAVE = 32
LARGEST_CHAIN_ORDER = 2.0**16 + 1.0  # in a chain of changes; beyond, moments cost too much time
# Orders are searched at 1 + 2^e, from START_EXPONENT on, between 1.001 and 65537.
START_EXPONENT = 2
LOWEST_EXPONENT = -10
HIGHEST_EXPONENT = 16
REFINEMENTS = 24  # golden-section steps; the last bracket is 1e-5 wide in log2(order - 1)
GOLDEN_SECTION = 0.5 * (5**0.5 - 1.0)
CONVERSION_ERROR = 8.0 * float_info.epsilon  # of each term of a conversion, added to the result
DENSE_TABLE_ORDERS = 32  # up to which the table below holds every whole order
# Orders that price many epsilons at once: fractions where they pay, then whole numbers.
TABLE_ORDERS = tuple(
    [1.0 + 2.0 ** (e / 4.0) for e in range(4 * LOWEST_EXPONENT, 0)]
    + [float(order) for order in range(2, DENSE_TABLE_ORDERS + 1)]
    + [
        float(round(DENSE_TABLE_ORDERS * 2.0 ** (e / 4.0)))
        for e in range(1, 4 * (HIGHEST_EXPONENT - 5) + 1)
    ]
)


def as_given(settings: Settings | Iterable[Settings]) -> tuple[Settings, ...]:
    """One phase or several, as a tuple; anything else is a TypeError, several neighbouring
    relations are a ValueError."""
    phases: tuple[Settings, ...] = ()
    if isinstance(settings, Settings):
        phases = (settings,)
    elif isinstance(settings, Iterable):
        phases = tuple(settings)
    if not phases or not all(isinstance(phase, Settings) for phase in phases):
        raise TypeError("`settings` must be a Settings or a non-empty sequence of Settings.")
    for phase in phases:
        for name in ("neighbours", "group_size"):
            if getattr(phase, name) != getattr(phases[0], name):
                raise ValueError(f"`{name}` must be the same in all phases of a run.")
    if changes(phases[0]) > MOST_CHANGES:
        raise ValueError(
            f"`group_size` must be at most {MOST_CHANGES} (replace-one: half of that) for a bound "
            "to be known."
        )
    return phases


def as_one_phase(settings: Settings) -> Settings:
    """One phase; anything else, also several, is a TypeError. Other errors as `as_given`."""
    if not isinstance(settings, Settings):
        raise TypeError(f"`settings` must be one Settings, got {settings!r}.")
    return as_given(settings)[0]


def as_phases(settings: Settings | Iterable[Settings]) -> tuple[Settings, ...]:
    """The phases of a run, under one record added or removed where that costs as much.

    Errors as `as_given`.
    """
    return reduced(as_given(settings))


def log_moment(phases: Sequence[Settings], order: float) -> float:
    """Upper bound on (order - 1) D_order of the whole run: steps and phases add up (Mironov 2017,
    Prop. 1).

    A negative or undefined moment counts as +inf. Where neighbours are several single changes
    apart: see `_chain`.
    """
    records = changes(phases[0])
    if records == 1:
        return _one_change(phases, order)
    return min(_chain(tuple(phases), order, records, stretch) for stretch in STRETCHES)


def _chain(phases: tuple[Settings, ...], order: float, records: int, stretch: float) -> float:
    """The log-moment between data sets that are `records` single changes apart.

    With R one change from P, for any p > 1 and b = (p a - 1)/(p - 1),

        log E_Q[(P/Q)^a] <= (1/p) log E_R[(P/R)^{p a}] + (1 - 1/p) log E_Q[(R/Q)^b]

    (Hoelder; Mironov 2017, arXiv 1702.07476, Prop. 11). Stretch 1 is the best p if moments are
    those of a Gaussian.
    """
    moment: Callable[[float], float] = (
        partial(_chord, _on_grid(phases))
        if records > MANY_CHANGES
        else partial(_one_change, phases)
    )
    total, part = 0.0, 1.0
    for left in range(records, 0, -1):
        p = 1.0 + stretch * (left - 1) * (order - 1.0) / order
        if not p * order <= LARGEST_CHAIN_ORDER:
            return inf
        total += part / p * moment(p * order)
        if left > 1:
            part, order = part * (1.0 - 1.0 / p), (p * order - 1.0) / (p - 1.0)
    return total


def _chord(on_grid: Callable[[int], float], order: float) -> float:
    """A bound on `_one_change`, which is convex, from orders of a grid around this one."""
    exponent = floor(ORDERS_PER_OCTAVE * log2(order - 1.0))
    low, high = (1.0 + 2.0 ** (e / ORDERS_PER_OCTAVE) for e in (exponent, exponent + 1))
    left, right = on_grid(exponent), on_grid(exponent + 1)
    return (
        left + (right - left) * min(1.0, max(0.0, (order - low) / (high - low)))
        if right < inf
        else inf
    )


@lru_cache(maxsize=16)
def _on_grid(phases: tuple[Settings, ...]) -> Callable[[int], float]:
    return cache(lambda exponent: _one_change(phases, 1.0 + 2.0 ** (exponent / ORDERS_PER_OCTAVE)))


def _one_change(phases: Iterable[Settings], order: float) -> float:
    total = 0.0
    for phase in phases:
        moment = step_log_moment(phase, order)
        total += phase.steps * moment if moment >= 0.0 else inf
    return total


def epsilon_at(moment: float, order: float, delta: float, conversion: str = "improved") -> float:
    """Epsilon that a log-moment at one order gives, rounded up; 0 at least.

    improved: M/(a-1) + log(1 - 1/a) - (log delta + log a)/(a-1), Canonne-Kamath-Steinke 2020, arXiv
    2004.00010, Prop. 12. mironov:  (M + log(1/delta))/(a-1), Mironov 2017, arXiv 1702.07476, Prop.
    3.
    """
    terms = [moment / (order - 1.0), -log(delta) / (order - 1.0)]
    if conversion == "improved":
        terms += [log1p(-1.0 / order), -log(order) / (order - 1.0)]
    value = sum(terms) + CONVERSION_ERROR * sum(map(abs, terms))
    return inf if isnan(value) else max(0.0, value)


def log_delta_at(
    moment: float, order: float, epsilon: float, conversion: str = "improved"
) -> float:
    """The inverse of `epsilon_at`: log delta, rounded up; 0 at most."""
    terms = [moment, -(order - 1.0) * epsilon]
    if conversion == "improved":
        terms += [(order - 1.0) * log1p(-1.0 / order), -log(order)]
    value = sum(terms) + CONVERSION_ERROR * sum(map(abs, terms))
    return 0.0 if isnan(value) else min(0.0, value)


def minimise_over_orders(objective: Callable[[float], float]) -> tuple[float, float]:
    """(value, order) near the smallest value over real orders in [1.001, 65537]; NaN counts as
    +inf.

    Walks over 1 + 2^e to a bracket that is not at an end of the grid, then golden section. Any
    order is sound, so a function with several minima costs tightness only.
    """
    seen: dict[float, float] = {}

    def value(order: float) -> float:
        if order not in seen:
            result = objective(order)
            seen[order] = inf if isnan(result) else result
        return seen[order]

    def at(exponent: float) -> float:
        return value(1.0 + 2.0**exponent)

    centre = START_EXPONENT
    while centre > LOWEST_EXPONENT and at(centre - 1) <= at(centre):
        centre -= 1
    while centre < HIGHEST_EXPONENT and at(centre + 1) < at(centre):
        centre += 1
    low, high = float(max(LOWEST_EXPONENT, centre - 1)), float(min(HIGHEST_EXPONENT, centre + 1))
    for _ in range(REFINEMENTS):
        left, right = high - GOLDEN_SECTION * (high - low), low + GOLDEN_SECTION * (high - low)
        low, high = (low, right) if at(left) <= at(right) else (left, high)
    best = min(seen, key=lambda order: seen[order])
    for whole in (float(int(best)), float(int(best) + 1)):
        if whole > 1.0:
            value(whole)
    best = min(seen, key=lambda order: (seen[order], order))
    return seen[best], best


def _best(
    objective: Callable[[float], float], orders: Sequence[float] | None
) -> tuple[float, float]:
    if orders is None:
        return minimise_over_orders(objective)
    checked = [
        validate.real("orders", order, "(1, inf)", 1.0, inf)
        for order in validate.listed("orders", orders)
    ]
    if not checked:
        raise ValueError("`orders` must hold at least one order in (1, inf), got none.")
    return min((objective(order), order) for order in checked)


def _method(phases: tuple[Settings, ...], conversion: str) -> str:
    mixed = any(phase.mixing > 0.0 for phase in phases)
    return f"Renyi ({'ModelMix' if mixed else 'plain'}), {conversion} conversion"


def _check_phases(phases: Sequence[Settings], order: float) -> None:
    for phase in set(phases):
        check_worst_shift(phase, order)


def epsilon(
    settings: Settings | Iterable[Settings],
    *,
    delta: float,
    conversion: str = "improved",
    orders: Sequence[float] | None = None,
) -> Bound:
    """An upper bound on the epsilon of a run from its Renyi moments; arguments and errors as
    `accountant.epsilon`.

    >>> run = Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
    >>> round(epsilon(run, delta=1e-5).upper, 3)
    7.25
    """
    phases = as_phases(settings)
    delta = validate.probability("delta", delta)
    conversion = validate.choice("conversion", conversion, CONVERSIONS)
    upper, order = _best(lambda a: epsilon_at(log_moment(phases, a), a, delta, conversion), orders)
    if upper == inf:
        return Bound(
            upper=inf,
            method=_method(phases, conversion),
            reason="the Renyi moments overflow at every order",
        )
    _check_phases(phases, order)
    return Bound(upper=upper, order=order, method=_method(phases, conversion))


def delta(
    settings: Settings | Iterable[Settings],
    *,
    epsilon: float,
    conversion: str = "improved",
    orders: Sequence[float] | None = None,
) -> Bound:
    """An upper bound on the delta of a run at epsilon >= 0; otherwise as `epsilon`.

    >>> run = Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
    >>> f"{delta(run, epsilon=8).upper:.2g}"
    '1.1e-06'
    """
    phases = as_phases(settings)
    epsilon = validate.nonnegative("epsilon", epsilon)
    conversion = validate.choice("conversion", conversion, CONVERSIONS)
    log_upper, order = _best(
        lambda a: log_delta_at(log_moment(phases, a), a, epsilon, conversion), orders
    )
    _check_phases(phases, order)
    return Bound(upper=_rounded_up(log_upper), order=order, method=_method(phases, conversion))


def deltas(phases: Sequence[Settings], epsilons: np.ndarray) -> np.ndarray:
    """Upper bounds on delta at many ascending epsilons >= 0 at once, from TABLE_ORDERS.

    Errors as `delta`.
    """
    moments: list[tuple[float, float]] = []
    best, largest = inf, float(epsilons[-1])
    for order in TABLE_ORDERS:
        moments.append((log_moment(phases, order), order))
        last = log_delta_at(*moments[-1], largest)
        if order > DENSE_TABLE_ORDERS and last >= best:  # smaller epsilons have lower best orders
            break
        best = min(best, last)
    smallest = [
        min((log_delta_at(moment, order, e), order) for moment, order in moments)
        for e in epsilons.tolist()
    ]
    for order in {order for _, order in smallest}:
        _check_phases(phases, order)
    return np.array([_rounded_up(log_upper) for log_upper, _ in smallest])


def _rounded_up(log_delta: float) -> float:
    return min(
        1.0, max(float_info.min, exp(log_delta) * (1.0 + CONVERSION_ERROR))
    )  # never rounded down to 0
