"""Solve for one knob of a run under a target (epsilon, delta); always returns the safe end of the
last bracket."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import log
from typing import Any

from mmaccount.accounting.accountant import upper_epsilon
from mmaccount.accounting.renyi import as_one_phase
from mmaccount.accounting.search import DEFAULT_TOLERANCE, safe_end
from mmaccount.records import validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.bound import Infeasible
from mmaccount.records.settings import Settings

SMALLEST_KNOB = 1e-12  # where a real knob ends that may be 0
BATCH_GRID = 30  # batch sizes tried first, from 1 to the size of the data set
LARGEST_TIGHT_FACTOR = 4.0  # factor on a knob beyond which the tight bound is not followed
TIGHT_TOLERANCE = 1e-4  # relative; an evaluation of the tight bound takes about a second
TINY_EPSILON = 1e-300  # stands in for epsilon = 0 in logarithms


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """Where a knob may go: `private` is its most private end, `useful` the other one, wanted as
    near as allowed."""

    private: float
    useful: float
    whole: bool = False


KNOBS = {
    "noise_multiplier": Knob(private=1e6, useful=1e-3),
    "steps": Knob(private=1, useful=10**12, whole=True),
    "sample_rate": Knob(private=1e-12, useful=1.0),
    "mixing": Knob(private=1e12, useful=0.0),
    "truncation": Knob(private=1e12, useful=1.0),
}


def _walk(
    start: float, end: float, arrived: Callable[[float], bool], whole: bool
) -> tuple[float, float] | None:
    """(last point before, first point after) `arrived` turns true, in growing steps from start;
    None if it never does."""
    before = point = start
    factor = 2.0
    while not arrived(point):
        if point == end:
            return None
        before, point = point, min(end, point * factor) if end > point else max(end, point / factor)
        point = round(point) if whole else point
        factor *= factor
    return before, point


def _edge(
    excess: Callable[[float], float], knob: Knob, start: float, tolerance: float
) -> float | None:
    """The x next to `knob.useful` with excess(x) <= 0, searched from `start`; None if there is none
    up to `knob.private`."""
    if excess(knob.useful) <= 0.0:
        return knob.useful
    useful = max(knob.useful, SMALLEST_KNOB)
    start = min(max(start, min(knob.private, useful)), max(knob.private, useful))
    if excess(start) > 0.0:
        edge = _walk(start, knob.private, lambda x: excess(x) <= 0.0, knob.whole)
        if edge is None:
            return None
        unsafe, safe = edge
    else:
        safe, unsafe = _walk(start, useful, lambda x: excess(x) > 0.0, knob.whole) or (
            useful,
            useful,
        )
    return safe_end(excess, safe, unsafe, whole=knob.whole, tolerance=tolerance)


def solve_for(
    build: Callable[[float], Settings],
    knob: Knob,
    *,
    name: str,
    start: float,
    epsilon: float,
    delta: float,
    besides: Sequence[Settings] = (),
    tight: bool = True,
) -> float:
    """The x next to `knob.useful` for which the settings `build(x)` meet the target, searched from
    `start`.

    First by the fast bounds; where the tight one differs (mixing) and is asked for, on from there
    by that, with a wider tolerance. The target pays for the phases `besides` too.
    Epsilon is taken to be monotone in x; where it is not, the result still meets the target. Raises
    Infeasible.
    """
    epsilon = validate.positive("epsilon", epsilon)
    delta = validate.probability("delta", delta)

    @cache
    def excess(x: float, tight: bool = False) -> float:
        return log(
            max(TINY_EPSILON, upper_epsilon([*besides, build(x)], delta, tight=tight)) / epsilon
        )

    value = _edge(excess, knob, start, DEFAULT_TOLERANCE)
    here = knob.private if value is None else value
    if tight and build(here).mixing > 0.0 and here != knob.useful:
        end = (
            max(here / LARGEST_TIGHT_FACTOR, knob.useful)
            if knob.private > knob.useful
            else min(here * LARGEST_TIGHT_FACTOR, knob.useful)
        )
        near = Knob(private=here, useful=round(end) if knob.whole else end, whole=knob.whole)
        value = _edge(lambda x: excess(x, tight=True), near, here, TIGHT_TOLERANCE)
    if value is None:
        best = upper_epsilon([*besides, build(knob.private)], delta, tight=tight)
        message = (
            f"`{name}` alone cannot reach epsilon {epsilon:g}: "
            f"the best reachable is {best:.6g}, at {name} = {knob.private:g}."
        )
        raise Infeasible(message, best=best, value=knob.private)
    return value


def solve_batch_size(
    build: Callable[[float], Settings],
    *,
    dataset_size: int,
    epsilon: float,
    delta: float,
    tight: bool = True,
) -> int:
    """The largest batch size found for which `build(batch_size)` meets the target. Raises
    Infeasible.

    At a fixed gap a larger batch samples more often but also widens the mixing, so epsilon need not
    be monotone: a grid over all sizes comes first, then the edge above the largest size on it that
    meets the target.
    """
    epsilons = {
        size: upper_epsilon([build(size)], delta)
        for size in sorted({round(dataset_size ** (i / BATCH_GRID)) for i in range(BATCH_GRID + 1)})
    }
    meeting = [size for size, upper in epsilons.items() if upper <= epsilon]
    start = max(meeting) if meeting else min(epsilons, key=lambda size: epsilons[size])
    knob = Knob(private=start, useful=dataset_size, whole=True)
    return int(
        solve_for(
            build, knob, name="batch_size", start=start, epsilon=epsilon, delta=delta, tight=tight
        )
    )


def _with(settings: Settings, name: str, value: float) -> Settings:
    changed: dict[str, Any] = {name: value}
    return replace(settings, **changed)


def _remedy(settings: Settings, tried: str, target: dict[str, Any]) -> str:
    for name, knob in KNOBS.items():
        if name == tried:
            continue
        build = partial(_with, settings, name)
        try:
            start = getattr(settings, name)
            value = solve_for(build, knob, name=name, start=start, **target)
        except Infeasible:
            continue
        return f" {name} = {value:.6g} would reach it."
    return " Nor can any other knob alone."


def solve(
    settings: Settings,
    name: str,
    *,
    epsilon: float,
    delta: float,
    besides: Sequence[Settings] = (),
    tight: bool = True,
) -> Settings:
    """`settings` with one knob changed so that epsilon at `delta` is at most `epsilon`, and no more
    private than needed.

    Args:
        settings: the run; the present value of the knob is only where the search starts.
        name: "noise_multiplier" (smallest that meets the target), "steps" (largest), "sample_rate"
            (largest), "mixing" (smallest) or "truncation" (smallest).
        epsilon, delta: the target, epsilon > 0.
        besides: phases that the target has to pay for as well, for example an earlier release.
        tight: as for `epsilon`; False takes a fraction of the time and, with mixing, asks for more
            noise than needed.

    Returns:
        Settings on the safe side: the target is met by the value returned, within a relative 1e-9
        (with mixing 1e-4) of the value that meets it exactly (whole steps: the last one).

    Raises:
        Infeasible: the knob cannot meet the target; the message says the best epsilon it reaches
            and which knob would do.
        ValueError, TypeError: an argument is out of range.

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> round(solve(run, "noise_multiplier", epsilon=3.0, delta=1e-5).noise_multiplier, 4)
    1.565
    """
    settings = as_one_phase(settings)
    knob = KNOBS[validate.choice("name", name, tuple(KNOBS))]
    build = partial(_with, settings, name)
    start = getattr(settings, name)
    target: dict[str, Any] = {
        "epsilon": epsilon,
        "delta": delta,
        "besides": besides,
        "tight": tight,
    }
    try:
        return build(solve_for(build, knob, name=name, start=start, **target))
    except Infeasible as error:
        message = f"{error}{_remedy(settings, name, target)}"
        raise Infeasible(message, best=error.best, value=error.value) from None


def least_noise_multiplier(
    settings: Settings,
    adaptive: AdaptiveClipping | None,
    *,
    epsilon: float,
    delta: float,
    besides: Sequence[Settings] = (),
) -> float:
    """The smallest noise multiplier of the gradients with which a run meets the target; with
    adaptive clipping the noisy counts are paid for too. Arguments and errors as for `solve`."""
    target: dict[str, Any] = {"epsilon": epsilon, "delta": delta, "besides": besides}
    if adaptive is None:
        return solve(settings, "noise_multiplier", **target).noise_multiplier

    def build(noise_multiplier: float) -> Settings:
        return replace(settings, noise_multiplier=adaptive.joint(noise_multiplier))

    name = "noise_multiplier"
    return solve_for(build, KNOBS[name], name=name, start=settings.noise_multiplier, **target)
