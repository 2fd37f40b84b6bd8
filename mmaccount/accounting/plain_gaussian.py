"""Two-sided bounds on the epsilon and delta of plain Gaussian DP-SGD.

In closed form where there is one (plain_closed_form.py); otherwise by Fourier inversion
(plain_fourier.py) and, where that is slow and wide, from discretised privacy loss distributions
(plain_pld.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from math import inf, isfinite, log1p

from mmaccount.accounting import neighbours, plain_closed_form, plain_pld
from mmaccount.accounting.plain_fourier import LossTransform
from mmaccount.accounting.plain_steps import steps_of
from mmaccount.accounting.renyi import epsilon_at, log_delta_at, minimise_over_orders
from mmaccount.accounting.roots import epsilon_from_delta_bounds
from mmaccount.records.bound import TwoSided
from mmaccount.records.settings import Settings

SMALLEST_NOISE = 0.05  # of a subsampled phase; below, too many nodes
# Of a subsampled phase where several records differ; beyond, sums of their densities round.
LARGEST_GROUP_NOISE = 1e15
NEGLIGIBLE_SHARE = 1e-7  # probability of outcomes left out, relative to delta
RETRY_BELOW = 0.1  # of its supposed size, below which delta is looked for again,
MOST_TRIES = 6  # so many times in all
VANISHING_BOUND = 1e-305  # an answer below which nothing narrower is looked for
GOOD_RELATIVE_WIDTH = 1e-6  # relative width that is good enough
FARTHEST_PEAK = 1e3  # std that the far peak of E[R^t] may move to where a larger t is tried
# Where the log of M(t) e^{-t eps} lies between this and its negative, Chernoff says little.
VAGUE_LOG_BOUND = -1.0


def _tilt(transform: LossTransform, objective: Callable[[float, float], float]) -> float:
    """t > 0 that about minimises objective(log M(t), 1 + t)."""
    return (
        minimise_over_orders(
            lambda order: objective(transform.rough_log_moment(order - 1.0), order)
        )[1]
        - 1.0
    )


def _epsilon_by_inversion(transform: LossTransform, delta: float) -> TwoSided:
    """Bounds on the epsilon of one direction by Fourier inversion.

    (0, inf) where that would be slow and wide.
    """
    t = _tilt(transform, lambda moment, order: epsilon_at(moment, order, delta))
    start = epsilon_at(transform.log_moment(t), 1.0 + t, delta)
    best = TwoSided(0.0, inf)
    if not isfinite(start):
        return best
    for _ in range(2):
        inversion = transform.inversion(t, start)
        if inversion is None:
            return best
        fresh = epsilon_from_delta_bounds(inversion.upper, inversion.lower, delta, start)
        best = _both(best, fresh)
        if not isfinite(best.upper) or best.upper - best.lower <= GOOD_RELATIVE_WIDTH * best.upper:
            return best
        start = best.upper
        t = _tilt(transform, partial(log_delta_at, epsilon=start))
    return best


def _both(one: TwoSided, other: TwoSided) -> TwoSided:
    return TwoSided(max(one.lower, other.lower), min(one.upper, other.upper))


def _wide(bounds: TwoSided) -> bool:
    """Whether other methods are worth a try; not where the answer is at the end of float64."""
    if bounds.upper <= VANISHING_BOUND:
        return False
    return (
        bounds.upper == inf
        or bounds.upper - bounds.lower > plain_pld.GOOD_RELATIVE_WIDTH * bounds.upper
    )


def _within_reach(phases: Sequence[Settings]) -> bool:
    records = neighbours.changes(phases[0])
    return all(
        phase.sample_rate == 1.0 or phase.noise_multiplier >= SMALLEST_NOISE * records
        for phase in phases
    )


def _enclosing(phases: Sequence[Settings]) -> tuple[list[Settings], list[Settings]] | None:
    """(phases that tell less, phases that tell more) than phases with too much noise to compute;
    None where no noise is too much.

    Leaving a phase out is post-processing, and so is adding noise: N(m, z^2) is N(m, y^2) plus
    independent N(0, z^2 - y^2), whatever the law of m, for y < z.
    """
    if neighbours.changes(phases[0]) == 1:
        return None
    fewer: list[Settings] = []
    noisier: list[Settings] = []
    for phase in phases:
        extreme = phase.sample_rate < 1.0 and phase.noise_multiplier > LARGEST_GROUP_NOISE
        (noisier if extreme else fewer).append(phase)
    if not noisier:
        return None
    return fewer, fewer + [replace(one, noise_multiplier=LARGEST_GROUP_NOISE) for one in noisier]


def epsilon(phases: Sequence[Settings], delta: float) -> TwoSided:
    """Bounds on the epsilon of plain Gaussian phases at delta.

    In closed form where there is one; otherwise the larger of the two directions, each bounded by
    itself, by Fourier inversion and, where that is wide, on a grid too.
    """
    exact = plain_closed_form.profile(phases)
    if exact is not None and not _wide(closed_form := plain_closed_form.epsilon(exact, delta)):
        return closed_form
    if not _within_reach(phases):
        return TwoSided(0.0, inf)
    if (enclosing := _enclosing(phases)) is not None:
        fewer, louder = enclosing
        return TwoSided(epsilon(fewer, delta).lower if fewer else 0.0, epsilon(louder, delta).upper)
    laws = [steps_of(phase, NEGLIGIBLE_SHARE * delta / len(phases)) for phase in phases]
    grids = plain_pld.within_reach(phases)
    removal = _epsilon_by_inversion(LossTransform(laws, remove=True, hurried=grids), delta)
    if grids and _wide(removal):
        removal = _both(
            removal,
            plain_pld.TwoSidedPld(phases, NEGLIGIBLE_SHARE * delta, remove=True).epsilon(delta),
        )
    if phases[0].neighbours == "replace-one":  # the other direction is its mirror image
        return removal
    addition = _epsilon_by_inversion(LossTransform(laws, remove=False, hurried=grids), delta)
    addition = _both(addition, TwoSided(0.0, _pure(phases)))
    if grids and addition.upper > removal.lower and _wide(addition):
        more = plain_pld.TwoSidedPld(phases, NEGLIGIBLE_SHARE * delta, remove=False).epsilon(
            delta, removal.lower
        )
        addition = _both(addition, more)
    return TwoSided(max(removal.lower, addition.lower), max(removal.upper, addition.upper))


def delta(
    phases: Sequence[Settings], epsilon: float, about: float, tries: int = MOST_TRIES
) -> TwoSided:
    """Bounds on the delta of plain Gaussian phases at epsilon >= 0; `about` is its rough size."""
    removal, addition = (
        direction(phases, epsilon, about, remove=remove)(epsilon) for remove in (True, False)
    )
    bounds = TwoSided(max(removal.lower, addition.lower), max(removal.upper, addition.upper))
    if (
        tries > 1 and _wide(bounds) and bounds.upper < RETRY_BELOW * about
    ):  # too much was negligible
        return _both(bounds, delta(phases, epsilon, bounds.upper, tries - 1))
    return bounds


def direction(
    phases: Sequence[Settings], epsilon: float, about: float, *, remove: bool
) -> Callable[[float], TwoSided]:
    """Bounds on delta in one direction, as a function of epsilon >= 0, best near the given one.

    `about` is the rough size of delta there. By the methods of `epsilon`.
    """
    exact = plain_closed_form.direction(phases, remove=remove)
    if exact is not None and not _wide(exact(epsilon)):
        return exact
    if not _within_reach(phases):
        return lambda _: TwoSided(0.0, 1.0)
    if (enclosing := _enclosing(phases)) is not None:
        fewer, louder = enclosing
        below = direction(fewer, epsilon, about, remove=remove) if fewer else None
        above = direction(louder, epsilon, about, remove=remove)
        return lambda e: TwoSided(0.0 if below is None else below(e).lower, above(e).upper)
    remove = remove or phases[0].neighbours == "replace-one"  # its two directions are mirror images
    laws, reach = (
        [steps_of(phase, NEGLIGIBLE_SHARE * about / len(phases)) for phase in phases],
        plain_pld.within_reach(phases),
    )
    transform = LossTransform(laws, remove=remove, hurried=reach)
    t = _tilt(transform, partial(log_delta_at, epsilon=epsilon))
    shift = max(
        (
            neighbours.changes(phase) / phase.noise_multiplier
            for phase in phases
            if phase.sample_rate < 1.0
        ),
        default=0.0,
    )
    while (
        t * shift < FARTHEST_PEAK
        and VAGUE_LOG_BOUND <= transform.log_moment(2.0 * t) - 2.0 * t * epsilon <= -VAGUE_LOG_BOUND
    ):  # delta is not small: a larger t is cheaper
        t *= 2.0
    inversion = transform.inversion(t, epsilon)
    pure = inf if remove else _pure(phases)
    grids = cache(
        lambda: plain_pld.TwoSidedPld(phases, NEGLIGIBLE_SHARE * about, remove=remove).near(
            epsilon, about
        )
    )

    def bounds(epsilon: float) -> TwoSided:
        if epsilon >= pure:
            return TwoSided(0.0, 0.0)
        by_inversion = TwoSided(0.0, 1.0) if inversion is None else inversion.delta(epsilon)
        return (
            _both(by_inversion, grids()(epsilon)) if reach and _wide(by_inversion) else by_inversion
        )

    return bounds


def _pure(phases: Sequence[Settings]) -> float:
    """The epsilon that adding records never exceeds: that direction is pure DP.

    Adding g records changes no likelihood by more than (1 - q)^-g in a step.
    """
    records = neighbours.changes(phases[0])
    return sum(
        -phase.steps * records * log1p(-phase.sample_rate) if phase.sample_rate < 1.0 else inf
        for phase in phases
    )
