"""Epsilon and delta from both sides: the smallest proven upper bound, the best lower bound that an attack reaches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf

from mmaccount import _check
from mmaccount.accountants import inversion, rdp
from mmaccount.accountants.contour import Pair
from mmaccount.bound import Bound, BoundError
from mmaccount.divergences import fisher_information
from mmaccount.settings import Settings

EXACT = "privacy loss distribution, both directions"
OWN_ATTACK = "likelihood ratio test"
SPREAD_OUT = "gradient spread over ever more coordinates"
WORTH = 2.0  # Renyi bound without mixing over the one with it, up to which the exact answer without mixing is tried
CROSSING = 1e-9  # relative, by which a lower bound may exceed an upper one: rounding of the search
FISHER_ERROR = 1e-6  # relative, by which the effective noise of the spread-out attack is raised


def _unmixed(phases: Sequence[Settings], moments: float, bound: Callable[[Sequence[Settings]], float]) -> list[Settings]:
    """The same phases without mixing, if their exact answer may beat `moments`: mixing is post-processing, so they bound the
    mixed ones. Empty for Laplace noise, and where mixing brings so much that looking would be a waste."""
    if any(phase.noise != "gaussian" for phase in phases):
        return []
    plain = [replace(phase, mixing=0.0, truncation=1.0) for phase in phases]
    mixed = any(phase.mixing > 0.0 for phase in phases)
    return [] if mixed and bound(plain) > WORTH * moments else plain


def _spread_out(phases: Iterable[Settings]) -> list[Settings]:
    """Plain Gaussian phases that the worst case of the given ones costs at least: the limit of a gradient of l2 norm c
    spread evenly over m -> inf coordinates, in which every delta(eps) converges to that of noise multiplier z / sqrt(I(L))
    (local asymptotic normality; I(L) is the Fisher information of mixing plus noise)."""
    made = []
    for phase in phases:
        noise = phase.noise_multiplier / fisher_information(phase) ** 0.5 * (1.0 + FISHER_ERROR)
        made.append(replace(phase, mixing=0.0, truncation=1.0, noise_multiplier=noise))
    return made


def _bracket(
    phases: Sequence[Settings],
    proven: Bound,
    bound: Callable[[Sequence[Settings]], float],
    exact: Callable[[Sequence[Settings]], Pair],
) -> Bound:
    """The better of the Renyi bound and the exact answer for the run without mixing, and the best attack below it."""
    plain = _unmixed(phases, proven.upper, bound)
    found = exact(plain) if plain else Pair(0.0, inf)
    mixed = any(phase.mixing > 0.0 for phase in phases)
    if found.lower > min(found.upper, inf if mixed else proven.upper) * (1.0 + CROSSING):
        raise BoundError(f"lower bound {found.lower!r} is above {found.upper!r} or the Renyi bound {proven.upper!r}.")
    upper = min(proven.upper, found.upper)
    if found.upper < proven.upper:
        proven = Bound(upper=upper, method=f"{EXACT}, mixing not credited" if mixed else EXACT)
    if any(phase.noise != "gaussian" for phase in phases):
        return proven
    if mixed:
        attacked = exact(_spread_out(phases)).lower
        if attacked > upper * (1.0 + CROSSING):
            raise BoundError(f"the attack reaches {attacked!r}, above the upper bound {upper!r}.")
        return replace(proven, lower=min(attacked, upper), attack=SPREAD_OUT)
    return replace(proven, lower=min(found.lower, upper), attack=OWN_ATTACK)


def upper_epsilon(phases: Sequence[Settings], delta: float) -> float:
    """`epsilon(...).upper`, without looking for an attack."""
    proven = rdp.epsilon(phases, delta=delta).upper
    plain = _unmixed(phases, proven, lambda runs: rdp.epsilon(runs, delta=delta).upper)
    return min(proven, inversion.epsilon(plain, delta).upper) if plain else proven


def epsilon(
    settings: Settings | Iterable[Settings],
    *,
    delta: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
) -> Bound:
    """The epsilon of (epsilon, delta)-differential privacy of a run, as a Bound whose `upper` is the guarantee.

    Plain Gaussian noise: from the privacy loss distribution, both directions, a bracket usually a relative 1e-6 wide.
    Mixing: `upper` from Renyi moments, or from the same run without mixing where that is smaller; `lower` from a gradient
    spread over ever more coordinates. Laplace noise: Renyi moments, no attack.

    Args:
        settings: one phase or several; phases compose in any order.
        delta: in (0, 1).
        conversion: "improved" or "mironov" (looser; the paper's) forces Renyi moments and chooses how they are converted.
        orders: Renyi orders to try, all > 1; forces Renyi moments. By default the best real order is searched for.

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
    phases = rdp.as_phases(settings)
    delta = _check.probability("delta", delta)
    proven = rdp.epsilon(phases, delta=delta, conversion=conversion or "improved", orders=orders)
    if conversion is not None or orders is not None:
        return proven
    return _bracket(
        phases,
        proven,
        lambda runs: rdp.epsilon(runs, delta=delta).upper,
        lambda runs: inversion.epsilon(runs, delta),
    )


def delta(
    settings: Settings | Iterable[Settings],
    *,
    epsilon: float,
    conversion: str | None = None,
    orders: Sequence[float] | None = None,
) -> Bound:
    """The delta of (epsilon, delta)-differential privacy at a given epsilon >= 0; otherwise as `epsilon`.

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> f"{delta(run, epsilon=8).upper:.3g}"
    '2.03e-08'
    """
    phases = rdp.as_phases(settings)
    epsilon = _check.nonnegative("epsilon", epsilon)
    proven = rdp.delta(phases, epsilon=epsilon, conversion=conversion or "improved", orders=orders)
    if conversion is not None or orders is not None:
        return proven
    return _bracket(
        phases,
        proven,
        lambda runs: rdp.delta(runs, epsilon=epsilon).upper,
        lambda runs: inversion.delta(runs, epsilon, proven.upper),
    )
