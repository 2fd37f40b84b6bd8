"""What a run's privacy means: the whole profile, and what an attacker who wants to know about one
record can do with it.

Let P_1 and P_0 be the laws of all that is published with and without the record (replace-one: with
one and with the other), delta_1(eps) = sup_S P_1(S) - e^eps P_0(S), and delta_0(eps) the same with
the two swapped. An attacker claims "in" on a set S: false positive rate a = P_0(S), true positive
rate P_1(S), false negative rate 1 - P_1(S). The least false negative rate at a is the trade-off
curve f(a) (Dong, Roth, Su 2019, arXiv 1905.02383). With x = e^eps over all reals,
    C(x) = 1 - sup_S (P_1(S) - x P_0(S)) = 1 - delta_1(log x) for x >= 1, = x (1 - delta_0(-log x))
    for x <= 1
(the second by swapping S and its complement) is concave and nondecreasing, C(0) = 0, C <= 1, and
    f(a) = sup_x C(x) - x a.
Both directions are needed, and both are covered: that is what makes a statement about either error
rate.

Guarantee. Any finite set of x gives f(a) >= max_i C_low(x_i) - x_i a, C_low from upper bounds on
delta.
Attack. f(a) <= sup_x D(x) - x a for any D >= C of an adversary that exists; D comes from bounds on
*its* delta at the x_i. Between them C is concave: for x_i <= x <= x_{i+1},
    C(x) <= C(x_i) + (x - x_i) (C(x_i) - C(x_{i-1})) / (x_i - x_{i-1}),
    C(x) <= C(x_{i+1}) - (x_{i+1} - x) (C(x_{i+2}) - C(x_{i+1})) / (x_{i+2} - x_{i+1}),
whose right sides grow when upper bounds replace C(x_i), C(x_{i+1}) and lower bounds replace
C(x_{i-1}), C(x_{i+2}). Where a neighbour is missing, the first is left out and the second is C(x)
<= C(x_{i+1}). D is the smaller of the two lines, so the supremum is at a grid point or where they
cross; beyond the last point D = 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import expm1, inf, log, log1p, nextafter
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from mmaccount.accounting import accountant, renyi
from mmaccount.accounting.profile import DeltaCurve, Profile, profile
from mmaccount.accounting.search import safe_end
from mmaccount.records import validate
from mmaccount.records.bound import Bound
from mmaccount.records.settings import Settings

SUMMARY_RATES = (0.001, 0.01, 0.1)  # false positive rates of a summary
# Numbers of epsilons of a trade-off curve: evenly spaced, and in even ratios near 0.
EVEN_EPSILONS, EPSILONS_NEAR_ZERO = 120, 40
NEAREST_TO_ZERO = 1e-5  # of the latter, relative to the largest
# delta is 0 at the one, and 1 where mu/2 - epsilon/mu exceeds 10.
SMALLEST_MU, LARGEST_MU = 1e-15, 40.0
RATE_ERROR = 1e-14  # absolute, of an error rate, taken off or added
METHOD = "privacy profile, both directions"


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeOff:
    """The least false negative rate at each false positive rate: no attack is below `lower`, one
    gets to `upper` or below.

    `upper` is None where no attack has been computed. True positive rates are 1 minus these.
    """

    false_positive_rates: np.ndarray
    lower: np.ndarray
    upper: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """Summary of what an attacker on one record can do.

    Attributes:
        advantage: largest true positive rate less false positive rate.
        prior: probability that the record is in, before the attack.
        bayes_success: probability that the best guess is right.
        true_positive_rates: (false positive rate, largest true positive rate at it), at
            SUMMARY_RATES.
    """

    advantage: Bound
    prior: float
    bayes_success: Bound
    true_positive_rates: tuple[tuple[float, Bound], ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON; `lower` is None where no attack has been computed."""

        def both(bound: Bound) -> dict[str, Any]:
            return {"lower": bound.lower, "upper": bound.upper}

        rates = [
            {"false_positive_rate": rate} | both(bound) for rate, bound in self.true_positive_rates
        ]
        success = {"prior": self.prior} | both(self.bayes_success)
        return {
            "advantage": both(self.advantage),
            "bayes_success": success,
            "true_positive_rate": rates,
        }


def _ascending(name: str, values: Iterable[float], interval: str, high: float) -> np.ndarray:
    """Checked values in [0, high]; ascending, because delta and the error rates are found from left
    to right."""
    checked = np.array(
        [validate.real(name, value, interval, 0.0, high) for value in validate.listed(name, values)]
    )
    if checked.size == 0 or np.any(np.diff(checked) <= 0.0):
        raise ValueError(f"`{name}` must be one or more ascending numbers in {interval}.")
    return checked


def privacy_profile(
    settings: Settings | Iterable[Settings], epsilons: Iterable[float], *, tight: bool = True
) -> Profile:
    """delta at each of many epsilons: `upper` holds, `lower` is reached by an attack (None: none
    computed).

    Args:
        settings: one phase or several.
        epsilons: ascending, in [0, inf).
        tight: as for `epsilon`.

    Every value is a certified bound, of the same methods as `mmaccount.delta`, a little looser in
    between: without mixing a relative 1e-4, wider for runs of a few steps. Errors as
    `mmaccount.delta`.

    >>> run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    >>> profile = privacy_profile(run, [0.0, 3.0, 8.0])
    >>> [f"{low:.3g} {high:.3g}" for low, high in zip(profile.lower, profile.upper)]
    ['0.48 0.48', '0.019 0.019', '2.03e-08 2.03e-08']
    """
    phases = renyi.as_phases(settings)
    return profile(phases, _ascending("epsilons", epsilons, "[0, inf)", inf), tight=tight)


def _grid(smallest: float) -> np.ndarray:
    """Epsilons for false positive rates from `smallest` on: beyond log(1/a), x a > 1 >= C."""
    largest = -log(smallest)
    near = np.geomspace(NEAREST_TO_ZERO * largest, largest, EPSILONS_NEAR_ZERO)
    return np.unique(np.concatenate([np.linspace(0.0, largest, EVEN_EPSILONS), near]))


def _highest(x: np.ndarray, low: np.ndarray, high: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """sup over x[0] <= x <= x[-1] of D(x) - x a, from bounds on C at ascending x; one entry a rate."""
    gaps = np.diff(x)
    left = np.concatenate([[inf], (high[1:-1] - low[:-2]) / gaps[:-1]])
    right = np.concatenate([np.maximum(0.0, (low[2:] - high[1:-1]) / gaps[1:]), [0.0]])
    start = high[1:] - right * gaps  # of the second line, at the left end
    steeper = left > right
    crossing = np.divide(start - high[:-1], left - right, out=np.zeros_like(gaps), where=steeper)
    crossing = np.clip(crossing, 0.0, gaps)
    points = np.concatenate([x, x[:-1] + crossing])
    heights = np.concatenate([high, start + right * crossing])
    return np.asarray(np.max(heights - np.outer(rates, points), axis=1))


def _attack(
    epsilons: np.ndarray, remove: DeltaCurve, add: DeltaCurve, rates: np.ndarray
) -> np.ndarray:
    """Upper bounds on the false negative rate that this adversary needs."""
    x, y = np.exp(epsilons), np.concatenate([[0.0], np.exp(-epsilons[::-1])])
    low, high = (
        np.concatenate([[0.0], y[1:] * (1.0 - delta[::-1])]) for delta in (add.upper, add.lower)
    )
    below, above = (
        _highest(y, low, high, rates),
        _highest(x, 1.0 - remove.upper, 1.0 - remove.lower, rates),
    )
    beyond = 1.0 - x[-1] * rates
    return np.asarray(np.maximum(beyond, np.maximum(below, above)))


def trade_off(
    settings: Settings | Iterable[Settings], rates: Iterable[float], *, tight: bool = True
) -> TradeOff:
    """The trade-off curve of the worst pair of neighbours, bounded from both sides at the given
    false positive rates.

    Args:
        settings: one phase or several.
        rates: false positive rates, ascending, in [0, 1]. "Positive" means that the attacker claims
            the record is in.
        tight: as for `epsilon`.

    >>> run = Settings(sample_rate=1, steps=1, noise_multiplier=1.0)       # f(a) = Phi(Phi^-1(1 - a) - 1)
    >>> curve = trade_off(run, [0.05])
    >>> f"{curve.lower[0]:.3f} {curve.upper[0]:.3f}"
    '0.740 0.741'
    """
    phases = renyi.as_phases(settings)
    checked = _ascending("rates", rates, "[0, 1]", 1.0)
    smallest = next((rate for rate in checked.tolist() if rate > 0.0), 1.0)
    return _trade_off(profile(phases, _grid(min(smallest, SUMMARY_RATES[0])), tight=tight), checked)


def _trade_off(deltas: Profile, rates: np.ndarray) -> TradeOff:
    x = np.exp(deltas.epsilons)
    ways = np.concatenate(
        [1.0 - deltas.remove - np.outer(rates, x), (1.0 - deltas.add - rates[:, None]) / x], axis=1
    )
    lower = np.maximum(0.0, np.max(ways, axis=1) - RATE_ERROR)
    upper = None
    if deltas.attacks:
        reached = [_attack(deltas.epsilons, *pair, rates) for pair in deltas.attacks.values()]
        blind = np.minimum(1.0, np.nextafter(1.0 - rates, 2.0))  # what a blind guess reaches, 1 - a
        upper = np.minimum(blind, np.min(reached, axis=0) + RATE_ERROR)
        upper = np.maximum(upper, lower)
    return TradeOff(false_positive_rates=rates, lower=lower, upper=upper)


def advantage(settings: Settings | Iterable[Settings], *, tight: bool = True) -> Bound:
    """The membership inference advantage: the largest true positive rate less false positive rate
    of any attack.

    It is the total variation distance of the two laws, delta at epsilon 0. Errors as
    `mmaccount.delta`.

    >>> bound = advantage(Settings(sample_rate=1, steps=1, noise_multiplier=1.0))       # 2 Phi(1/2) - 1
    >>> f"{bound.lower:.6f} {bound.upper:.6f}"
    '0.382925 0.382925'
    """
    return accountant.delta(settings, epsilon=0.0, tight=tight)


def bayes_success(
    settings: Settings | Iterable[Settings], *, prior: float = 0.5, tight: bool = True
) -> Bound:
    """The probability that the best guess "in" or "out" is right, for a record that is in with
    probability `prior`.

    max over S of prior P_1(S) + (1 - prior) P_0(not S), which with e = |log(prior / (1 - prior))|
    is
        max(prior, 1 - prior) + min(prior, 1 - prior) * delta(e),
    delta of removal for prior <= 1/2, of addition above. Guessing without looking reaches the first
    term.

    Args:
        settings: one phase or several.
        prior: in (0, 1).
        tight: as for `epsilon`.

    >>> bound = bayes_success(Settings(sample_rate=1, steps=1, noise_multiplier=1.0))       # Phi(1/2)
    >>> f"{bound.lower:.6f} {bound.upper:.6f}"
    '0.691462 0.691462'
    """
    prior = validate.probability("prior", prior)
    deltas = profile(renyi.as_phases(settings), np.array([_prior_epsilon(prior)]), tight=tight)
    return _success(deltas, prior)


def _prior_epsilon(prior: float) -> float:
    return abs(log(prior) - log1p(-prior))


def _success(deltas: Profile, prior: float) -> Bound:
    """The Bayes success, from a profile that holds the epsilon of the prior."""
    at = int(np.searchsorted(deltas.epsilons, _prior_epsilon(prior)))
    out = prior <= 0.5
    upper = float((deltas.remove if out else deltas.add)[at])
    reached = {
        name: float((remove if out else add).lower[at])
        for name, (remove, add) in deltas.attacks.items()
    }
    best = max(reached, key=lambda name: reached[name], default=None)

    def success(delta: float) -> float:
        return max(prior, 1.0 - prior) + min(prior, 1.0 - prior) * delta

    blind = max(prior, nextafter(1.0 - prior, 0.0))
    lower = None if best is None else max(blind, success(reached[best]) - RATE_ERROR)
    return Bound(
        upper=min(1.0, success(upper) + RATE_ERROR), lower=lower, attack=best, method=METHOD
    )


def gdp_mu(epsilon: float, delta: float) -> float:
    """mu of the Gaussian mechanism that is (epsilon, delta)-private and no more: a description,
    never a guarantee.

    The root of delta = Phi(-epsilon/mu + mu/2) - e^epsilon Phi(-epsilon/mu - mu/2) (Balle, Wang
    2018, arXiv 1805.06083). A subsampled run with this epsilon is *not* mu-GDP: at smaller deltas
    its epsilon is larger than that of the mechanism.

    >>> round(gdp_mu(4.377178, 1e-5), 5)
    1.0
    """
    epsilon, delta = validate.nonnegative("epsilon", epsilon), validate.probability("delta", delta)

    def excess(mu: float) -> float:
        inside, outside = (float(log_ndtr(-epsilon / mu + sign * 0.5 * mu)) for sign in (1.0, -1.0))
        ratio = epsilon + outside - inside
        return inside + log(-expm1(ratio)) - log(delta) if ratio < 0.0 else -inf  # NaN: both are 0

    return safe_end(excess, SMALLEST_MU, 2.0 * (2.0 * epsilon) ** 0.5 + LARGEST_MU)


def meaning_of(
    settings: Settings | Iterable[Settings], *, prior: float = 0.5, tight: bool = True
) -> Meaning:
    """What an attacker on one record can do, in a few numbers with both bounds.

    Args:
        settings: one phase or several.
        prior: in (0, 1), of the Bayes success.
        tight: as for `epsilon`.
    """
    phases, prior = renyi.as_phases(settings), validate.probability("prior", prior)
    deltas = profile(
        phases, np.union1d(_grid(SUMMARY_RATES[0]), [_prior_epsilon(prior)]), tight=tight
    )
    curve = _trade_off(deltas, np.array(SUMMARY_RATES))
    rates = []
    for i, rate in enumerate(SUMMARY_RATES):
        lower = None if curve.upper is None else 1.0 - float(curve.upper[i])
        rates.append((rate, Bound(upper=1.0 - float(curve.lower[i]), lower=lower, method=METHOD)))
    lower = None if deltas.lower is None else float(deltas.lower[0])
    return Meaning(
        advantage=Bound(upper=float(deltas.upper[0]), lower=lower, method=METHOD),
        prior=prior,
        bayes_success=_success(deltas, prior),
        true_positive_rates=tuple(rates),
    )
