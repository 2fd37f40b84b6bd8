"""Epsilon and delta from both sides: the smallest proven upper bound, the best lower bound that an
attack reaches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf
from sys import float_info
from typing import NamedTuple

from mmaccount.accounting import mixing_bounds, plain_gaussian, renyi
from mmaccount.accounting.neighbours import changes
from mmaccount.accounting.plain_fourier import Pair
from mmaccount.accounting.step_moments import fisher_information
from mmaccount.records import validate
from mmaccount.records.bound import Bound, BoundError
from mmaccount.records.settings import NEIGHBOURS, Settings

ENVELOPE = "privacy loss distribution of the envelope of all shifts, both directions"
CATALYST = (
    "privacy loss distribution of the nearly sparse shifts next to a catalyst, both directions"
)
EXACT = "privacy loss distribution, both directions"
OWN_ATTACK = "likelihood ratio test"
ONE_SIDED = "likelihood ratio test, no gradient in place of the record"
SPREAD_OUT = "gradient spread over ever more coordinates"
# Renyi bound without mixing over the one with it, up to which the exact answer without mixing is
# tried
WORTH = 2.0
# upper over lower bound without mixing, from which other neighbours are looked at by a lattice too
WIDE = 1.01
LOOSE = 1.5  # upper over lower bound, from which it is said which one is believed loose
CROSSING = 1e-9  # relative, by which a lower bound may exceed an upper one: rounding of the search
FISHER_ERROR = 1e-6  # relative, by which the effective noise of the spread-out attack is raised


def unmixed(
    phases: Sequence[Settings], moments: float, bound: Callable[[Sequence[Settings]], float]
) -> list[Settings]:
    """The same phases without mixing, if their exact answer may beat `moments`: mixing is
    post-processing, so they bound the mixed ones. Empty for Laplace noise, and where mixing brings
    so much that looking would be a waste."""
    if any(phase.noise != "gaussian" for phase in phases):
        return []
    plain = _without_mixing(phases)
    is_mixed = any(phase.mixing > 0.0 for phase in phases)
    return [] if is_mixed and bound(plain) > WORTH * moments else plain


def _without_mixing(phases: Sequence[Settings]) -> list[Settings]:
    return [replace(phase, mixing=0.0, truncation=1.0) for phase in phases]


def _one_sided(phases: Sequence[Settings]) -> list[Settings]:
    """Phases that those where a record is replaced cost at least: a record without a gradient,
    which clipping admits, in its place moves outputs as none does."""
    return [replace(phase, neighbours=NEIGHBOURS[0]) for phase in phases]


def spread_out(phases: Iterable[Settings]) -> list[Settings]:
    """Plain Gaussian phases that the worst case over all numbers of weights costs at least: the
    limit of a gradient of l2 norm c spread evenly over m -> inf coordinates, in which every
    delta(eps) converges to that of noise multiplier z / sqrt(I(L)) (local asymptotic normality;
    I(L) is the Fisher information of mixing plus noise).

    It is below the supremum over m, which a bound that knows no number of weights has to stay
    above; with few weights no gradient may reach it. The noise is raised by FISHER_ERROR: I(L)
    comes as h_2(v)/v^2 >= I(L) at v = 1e-4, off by O(v^2) = 1e-8, or from Cramer and Rao, who are
    below it.
    """
    made = []
    for phase in phases:
        information = fisher_information(phase)
        noise = (
            phase.noise_multiplier / information**0.5 * (1.0 + FISHER_ERROR)
            if information > 0.0
            else inf
        )
        noise = min(noise, float_info.max)
        made.append(replace(phase, mixing=0.0, truncation=1.0, noise_multiplier=noise))
    return made


class _Question(NamedTuple):
    """Epsilon at a delta, or delta at an epsilon: how each accountant answers it."""

    renyi: Callable[[Sequence[Settings]], float]
    exact: Callable[[Sequence[Settings]], Pair]
    side: Callable[[mixing_bounds.Side], float]
    wide: float  # relative width from which it is worth some seconds to look for a narrower bracket


def _epsilon_at(delta: float) -> _Question:
    return _Question(
        lambda runs: renyi.epsilon(runs, delta=delta).upper,
        lambda runs: plain_gaussian.epsilon(runs, delta),
        lambda side: side.epsilon(delta),
        0.02,
    )


def _delta_at(epsilon: float, about: float) -> _Question:
    return _Question(
        lambda runs: renyi.delta(runs, epsilon=epsilon).upper,
        lambda runs: plain_gaussian.delta(runs, epsilon, about),
        lambda side: side.delta(epsilon),
        0.5,
    )


def crossed(lower: float, upper: float, what: str) -> None:
    """Raise BoundError if the lower bound, of the attack `what`, is above the upper one."""
    if lower > upper * (1.0 + CROSSING):
        raise BoundError(f"the lower bound {lower!r} ({what}) is above the upper bound {upper!r}.")


def _upper(
    phases: Sequence[Settings], proven: Bound, ask: _Question, tight: bool
) -> tuple[Bound, Pair]:
    """The smallest proven bound, and the bracket of the run without mixing (0, inf where it was not
    worth finding)."""
    is_mixed = any(phase.mixing > 0.0 for phase in phases)
    plain = unmixed(phases, proven.upper, ask.renyi)
    found = ask.exact(plain) if plain else Pair(0.0, inf)
    if not is_mixed:
        crossed(found.lower, min(found.upper, proven.upper), OWN_ATTACK)
    if found.upper < proven.upper:
        proven = Bound(
            upper=found.upper, method=f"{EXACT}, mixing not credited" if is_mixed else EXACT
        )
    wide = changes(phases[0]) > 1 and found.upper > WIDE * found.lower  # few steps at a small rate
    if (is_mixed or wide) and tight and all(phase.noise == "gaussian" for phase in phases):
        upper = max((ask.side(side) for side in mixing_bounds.dominated(phases)), default=inf)
        if upper < proven.upper:
            proven = Bound(upper=upper, method=ENVELOPE if is_mixed else EXACT)
    return proven, found


def _is_loose(upper: float, lower: float) -> bool:
    return upper > LOOSE * lower and upper > 0.0


def _attacks(
    phases: Sequence[Settings], found: Pair, ask: _Question, tight: bool
) -> dict[str, float]:
    """Lower bounds by name; `found` as from `_upper`."""
    is_mixed = any(phase.mixing > 0.0 for phase in phases)
    limit = spread_out(phases) if is_mixed else phases
    attacks = {SPREAD_OUT: ask.exact(limit).lower} if is_mixed else {OWN_ATTACK: found.lower}
    if phases[0].neighbours == "replace-one" and (is_mixed or _is_loose(found.upper, found.lower)):
        attacks[ONE_SIDED] = ask.exact(_one_sided(limit)).lower
    if tight and is_mixed:
        attacks |= {
            name: max(map(ask.side, sides)) for name, sides in mixing_bounds.attacks(phases)
        }
    return attacks


def _note(phases: Sequence[Settings], proven: Bound, tight: bool) -> str | None:
    """Which side of a loose bracket is believed to be far from the truth, and why."""
    is_mixed = any(phase.mixing > 0.0 for phase in phases)
    if proven.lower is None or proven.upper == inf or not _is_loose(proven.upper, proven.lower):
        return None
    if not tight:
        return "both bounds may be loose, the ones that take seconds are left out."
    if not is_mixed:
        return "the lower bound is believed loose: its numerical error exceeds what attacks gain at so few or so rare losses."
    if changes(phases[0]) > 1:
        return "both bounds are believed loose: attacks use one record alone, and where records act together is not known."
    if proven.method.startswith(EXACT):
        return "the upper bound is believed loose: it does not credit mixing."
    if proven.method in (ENVELOPE, CATALYST):
        return "the upper bound is believed loose: at every threshold it takes another worst gradient, where a run has one."
    return (
        "the upper bound is believed loose: Renyi moments overrate losses that are large but rare."
    )


def _bracket(phases: Sequence[Settings], proven: Bound, ask: _Question, tight: bool) -> Bound:
    """The smallest proven bound and the best attack below it."""
    proven, found = _upper(phases, proven, ask, tight)
    if any(phase.noise != "gaussian" for phase in phases):
        return proven
    attacks = _attacks(phases, found, ask, tight)
    best = max(attacks, key=lambda name: attacks[name])
    if tight and proven.method == ENVELOPE and proven.upper > (1.0 + ask.wide) * attacks[best]:
        upper = max((ask.side(side) for side in mixing_bounds.exchanged(phases)), default=inf)
        if upper < proven.upper:
            proven = Bound(upper=upper, method=CATALYST)
    if (
        tight and found.upper == inf and _is_loose(proven.upper, attacks[best])
    ):  # was not tried, or reached nothing
        upper = _upper(_without_mixing(phases), proven, ask, tight)[0].upper
        if upper < proven.upper:
            proven = Bound(upper=upper, method=f"{EXACT}, mixing not credited")
    crossed(attacks[best], proven.upper, best)
    made = replace(proven, lower=min(attacks[best], proven.upper), attack=best)
    return replace(made, note=_note(phases, made, tight))


def upper_epsilon(phases: Sequence[Settings], delta: float, *, tight: bool = False) -> float:
    """`epsilon(...).upper`, without looking for an attack."""
    phases = renyi.as_phases(phases)
    return _upper(phases, renyi.epsilon(phases, delta=delta), _epsilon_at(delta), tight)[0].upper


def epsilon(
    settings: Settings | Iterable[Settings],
    *,
    delta: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
    tight: bool = True,
) -> Bound:
    """The epsilon of (epsilon, delta)-differential privacy of a run, as a Bound whose `upper` is
    the guarantee.

    Plain Gaussian noise: from the privacy loss distribution, both directions, a bracket usually a
    relative 1e-6 wide. Mixing: `upper` is the smallest of four proven bounds: Renyi moments, a pair
    that dominates every shift of the gradient (accounting/mixing_envelope.py), where that is wide a
    smaller one (accounting/mixing_tight.py), and the same run without mixing; `lower` is the best
    of attacks that spread the gradient over the fewest coordinates that truncation allows, 4 and 16
    times as many, or ever more. Laplace noise: Renyi moments, no attack.

    Args:
        settings: one phase or several; phases compose in any order.
        delta: in (0, 1).
        conversion: "improved" or "mironov" (looser; the paper's) forces Renyi moments and chooses
            how they are converted.
        orders: Renyi orders to try, all > 1; forces Renyi moments. By default the best real order
            is searched for.
        tight: False leaves out the envelope and the concentrated attacks, which take one to ten
            seconds per geometry.

    Returns:
        Bound. `upper` is +inf with a `reason` when nothing finite is known.

    Raises:
        ValueError, TypeError: an argument is out of range.
        BoundError: a condition of the bound failed numerically (never observed).

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> found = epsilon(run, delta=1e-5)
    >>> f"{found.lower:.4f} <= epsilon <= {found.upper:.4f}"
    '6.1877 <= epsilon <= 6.1877'
    """
    phases = renyi.as_phases(settings)
    delta = validate.probability("delta", delta)
    proven = renyi.epsilon(phases, delta=delta, conversion=conversion or "improved", orders=orders)
    if conversion is not None or orders is not None:
        return proven
    return _bracket(phases, proven, _epsilon_at(delta), tight)


def delta(
    settings: Settings | Iterable[Settings],
    *,
    epsilon: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
    tight: bool = True,
) -> Bound:
    """The delta of (epsilon, delta)-differential privacy at a given epsilon >= 0; otherwise as
    `epsilon`.

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> f"{delta(run, epsilon=8).upper:.3g}"
    '2.03e-08'
    """
    phases = renyi.as_phases(settings)
    epsilon = validate.nonnegative("epsilon", epsilon)
    proven = renyi.delta(
        phases, epsilon=epsilon, conversion=conversion or "improved", orders=orders
    )
    if conversion is not None or orders is not None:
        return proven
    return _bracket(phases, proven, _delta_at(epsilon, proven.upper), tight)
