"""What it costs to train several times and publish the best run: random numbers of tries, beside
composing all of them.

If the number of tries K is random, of a law with a heavy enough tail, publishing only the best run
hides how many there were, and costs little more than one run. A fixed number of tries has no such
guarantee: all of them are charged.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import exp, log, log1p, nextafter

from mmaccount.accounting import accountant, renyi
from mmaccount.accounting.search import safe_end
from mmaccount.records import validate
from mmaccount.records.settings import Settings

SHAPES = {"negative binomial, shape -1/2": -0.5, "logarithmic": 0.0, "geometric": 1.0}
POISSON = "Poisson"
COMPOSED = "all tries composed"
ORDERS = (
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.0,
    16.0,
    24.0,
    32.0,
    64.0,
    128.0,
)  # for delta of a try with mixing
SMALLEST_GAMMA = 1e-300
ROUNDING_FACTOR = 1.0 + 1e-12  # a few float64 operations on positive terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Epsilon, an upper bound, of publishing the best of K tries, where K has this law.

    `gamma` is the parameter of a truncated negative binomial law (None for others): a trainer draws
    K from it.
    """

    law: str
    epsilon: float
    gamma: float | None = None


def mean_tries(shape: float, gamma: float) -> float:
    """E K of the truncated negative binomial: shape (1 - gamma) / (gamma (1 - gamma^shape)); its
    limit at shape 0."""
    if gamma >= 1.0:
        return 1.0
    if shape == 0.0:
        return (1.0 / gamma - 1.0) / -log(gamma)
    return float(shape * (1.0 - gamma) / (gamma * (1.0 - gamma**shape)))


def gamma_for(shape: float, tries: float) -> float:
    """The gamma with E K = tries."""
    return (
        safe_end(
            lambda gamma: tries - mean_tries(shape, gamma), SMALLEST_GAMMA, 1.0, tolerance=1e-13
        )
        if tries > 1.0
        else 1.0
    )


def _renyi(phases: Sequence[Settings]) -> Callable[[float], float]:
    """e(order) of one try, both directions, rounded up."""
    return cache(lambda order: renyi.log_moment(phases, order) / (order - 1.0) * ROUNDING_FACTOR)


def negative_binomial(
    one: Callable[[float], float], shape: float, gamma: float
) -> Callable[[float], float]:
    """The Renyi divergence bound of the best of K tries, K truncated negative binomial.

        e'(a) = e(a) + (1 + shape) min_b [(1 - 1/b) e(b) + log(1/gamma)/b] + log(E K)/(a - 1),

    the minimum over all b > 1.

    Args:
        one: Renyi divergence bound e of one try, at every order above 1.
        shape, gamma: of the law of K, k = 1, 2, ...:
            P(K = k) ~ (1 - gamma)^k prod_{l < k} (l + shape)/(l + 1).

    Source: Papernot and Steinke (2022), arXiv 2110.03620, Theorem 2.
    """
    stop = -log(gamma)
    price, _ = renyi.minimise_over_orders(
        lambda order: (1.0 - 1.0 / order) * one(order) + stop / order
    )
    tries = log(mean_tries(shape, gamma))

    def divergence(order: float) -> float:
        total = one(order) + (1.0 + shape) * price + tries / (order - 1.0)
        return total * ROUNDING_FACTOR

    return divergence


def poisson(
    one: Callable[[float], float], failure: Callable[[float], float], tries: float
) -> Callable[[float], float]:
    """The Renyi divergence bound of the best of K tries, K Poisson with mean `tries` >= 1.

        e'(a) = e(a) + tries d + log(tries)/(a - 1),

    d the delta of one try at epsilon = log(1 + 1/(a - 1)).

    With K = 0, of probability exp(-tries), nothing is published. Source: arXiv 2110.03620, Theorem
    6.
    """

    def divergence(order: float) -> float:
        lost = failure(nextafter(log1p(1.0 / (order - 1.0)), 0.0))
        return (one(order) + tries * lost + log(tries) / (order - 1.0)) * ROUNDING_FACTOR

    return divergence


def _epsilon(divergence: Callable[[float], float], delta: float) -> float:
    value, _ = renyi.minimise_over_orders(
        lambda order: renyi.epsilon_at((order - 1.0) * divergence(order), order, delta)
    )
    return value


def tune_cost(settings: Settings | Iterable[Settings], *, tries: int, delta: float) -> list[Cost]:
    """Upper bounds on epsilon for publishing the best of a number of tries, cheapest first.

    Every try is one whole run of `settings`, of whatever hyperparameters, with the same privacy;
    the tries are ranked by a score that the run's output determines, and everything but the best
    run is thrown away. The laws of K are the truncated negative binomial of three shapes and the
    Poisson law, all with mean `tries`; beside them all tries are composed, which lets every one be
    published.

    Args:
        settings: one phase or several of one try.
        tries: mean number of tries, at least 1; exactly so many where they are composed.
        delta: in (0, 1).

    >>> run = Settings(sample_rate=0.01, steps=1000, noise_multiplier=1.0)
    >>> [(cost.law, round(cost.epsilon, 2)) for cost in tune_cost(run, tries=25, delta=1e-5)][:2]
    [('negative binomial, shape -1/2', 3.43), ('logarithmic', 3.85)]
    """
    phases = renyi.as_phases(settings)
    tries, delta = validate.count("tries", tries), validate.probability("delta", delta)
    one = _renyi(phases)
    repeated = [replace(phase, steps=phase.steps * tries) for phase in phases]
    costs = [Cost(law=COMPOSED, epsilon=accountant.epsilon(repeated, delta=delta).upper)]
    for law, shape in SHAPES.items():
        gamma = gamma_for(shape, tries)
        costs.append(
            Cost(
                law=law, epsilon=_epsilon(negative_binomial(one, shape, gamma), delta), gamma=gamma
            )
        )
    costs.append(
        Cost(law=POISSON, epsilon=_epsilon(poisson(one, _failure(phases, one), tries), delta))
    )
    return sorted(costs, key=lambda cost: cost.epsilon)


def _failure(phases: Sequence[Settings], one: Callable[[float], float]) -> Callable[[float], float]:
    """delta of one try at an epsilon: exact without mixing, by Renyi moments at a few orders with
    it."""
    if not any(phase.mixing > 0.0 for phase in phases):
        return lambda epsilon: accountant.delta(phases, epsilon=epsilon).upper
    return lambda epsilon: (
        min(exp(renyi.log_delta_at((a - 1.0) * one(a), a, epsilon)) for a in ORDERS)
        * ROUNDING_FACTOR
    )
