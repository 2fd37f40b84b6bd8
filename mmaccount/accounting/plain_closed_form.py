"""Plain Gaussian runs whose privacy profile is known in closed form: steps without subsampling, and
one subsampled step.

Steps of N(1/z, 1) against N(0, 1) compose to N(mu, 1) against N(0, 1), mu^2 = sum of T / z^2, with
(Balle-Wang 2018, arXiv 1805.06530, Theorem 8)
    G(eps) = Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu).
One step with sampling rate q, mu = 1/z, follows by collecting terms in P(S) - e^eps Q(S):
    remove: q G(e1),  e^e1 = 1 + (e^eps - 1) / q        (arXiv 1807.01647, Theorem 8)
    add:    c G(e2),  e^e2 = q e^eps / c,  c = 1 - (1 - q) e^eps, where c > 0; 0 elsewhere.
"""

from collections.abc import Callable, Sequence
from math import erfc, exp, expm1, hypot, inf, log, log1p, sqrt
from sys import float_info

from mmaccount.accounting import neighbours
from mmaccount.accounting.roots import epsilon_from_delta_bounds
from mmaccount.kernels.logspace import erfcx
from mmaccount.records.bound import TwoSided
from mmaccount.records.settings import Settings

TERM_ERROR = 4e-14  # relative error of the terms: erfcx is good to 1e-14
ARGUMENT_ERROR = (
    16.0 * float_info.epsilon
)  # the same per (1 + distance in std)^2, for the rounding of arguments

Profile = Callable[[float], TwoSided]


def _gaussian(epsilon: float, mu: float) -> tuple[float, float, float]:
    """(G(epsilon), bound on its error, sum of its terms), for a relative error of epsilon of a few
    units too."""
    a, b = epsilon / mu - 0.5 * mu, epsilon / mu + 0.5 * mu
    height = 0.5 * exp(-0.5 * a * a)  # e^eps e^{-b^2 / 2} = e^{-a^2 / 2}
    first = height * erfcx(a / sqrt(2.0)) if a > 0.0 else 0.5 * erfc(a / sqrt(2.0))
    second = height * erfcx(b / sqrt(2.0))
    square = (1.0 + b) * (1.0 + b)  # `**` would raise where this overflows
    return (
        first - second,
        (TERM_ERROR + ARGUMENT_ERROR * square) * (first + second),
        first + second,
    )


def _enclosed(value: float, error: float) -> TwoSided:
    """The value less and plus its error, within [0, 1]; the upper end is never rounded down to 0."""
    return TwoSided(max(0.0, value - error), min(1.0, max(0.0, value) + error + float_info.min))


def _removal(epsilon: float, mu: float, q: float) -> TwoSided:
    high = epsilon > 30.0
    moved = (
        epsilon - log(q) + log1p((q - 1.0) * exp(-epsilon)) if high else log1p(expm1(epsilon) / q)
    )
    value, error, _ = _gaussian(moved, mu)
    return _enclosed(q * value, q * error)


def _addition(epsilon: float, mu: float, q: float) -> TwoSided:
    if q < 1.0 and epsilon >= -log1p(-q) * (1.0 + ARGUMENT_ERROR):
        return TwoSided(0.0, 0.0)
    left = q - (1.0 - q) * expm1(epsilon) if q < 1.0 else 1.0
    if not left > 0.0:
        return _enclosed(0.0, ARGUMENT_ERROR * q)
    value, error, terms = _gaussian(epsilon + log(q) - log(left), mu)
    return _enclosed(left * value, left * error + ARGUMENT_ERROR * q * terms)


def direction(phases: Sequence[Settings], *, remove: bool) -> Profile | None:
    """epsilon >= 0 -> bounds on delta of plain Gaussian phases in one direction; None where there
    is no closed form."""
    records = neighbours.changes(phases[0])
    one_step = len(phases) == 1 and phases[0].steps == 1 and records == 1
    if not one_step and any(phase.sample_rate < 1.0 for phase in phases):
        return None
    mu = records * hypot(*(sqrt(phase.steps) / phase.noise_multiplier for phase in phases))
    q = phases[0].sample_rate
    bounds = _removal if remove else _addition
    return (lambda epsilon: bounds(epsilon, mu, q)) if 0.0 < mu < inf else None


def profile(phases: Sequence[Settings]) -> Profile | None:
    """epsilon >= 0 -> bounds on delta of plain Gaussian phases in the larger direction.

    None where there is no closed form.
    """
    removal, addition = direction(phases, remove=True), direction(phases, remove=False)
    if removal is None or addition is None:
        return None

    def larger(epsilon: float) -> TwoSided:
        one, other = removal(epsilon), addition(epsilon)
        return TwoSided(max(one.lower, other.lower), max(one.upper, other.upper))

    return larger


def epsilon(bounds: Profile, delta: float) -> TwoSided:
    """Bounds on epsilon at delta."""
    start = 1.0
    while not bounds(start).upper <= delta:
        start *= 2.0
        if start == inf:
            return TwoSided(0.0, inf)
    return epsilon_from_delta_bounds(
        lambda e: bounds(e).upper, lambda e: bounds(e).lower, delta, start
    )
