"""tune_cost: the published formulas against brute force on small finite mechanisms, and against
definitions."""

from math import exp, inf, log

import numpy as np
import pytest
from scipy.special import logsumexp

import mmaccount as mm
from mmaccount.accounting import plain_pld
from mmaccount.analysis import tuning

ORDERS = (1.5, 2.0, 3.0, 8.0)


def probability_generating(law, parameter):
    """E s^K."""
    if law == "Poisson":
        return lambda s: np.exp(parameter * (s - 1.0))
    shape, gamma = tuning.SHAPES[law], parameter
    if shape == 0.0:
        return lambda s: np.log(1.0 - (1.0 - gamma) * s) / log(gamma)
    return lambda s: ((1.0 - (1.0 - gamma) * s) ** -shape - 1.0) / (gamma**-shape - 1.0)


def best_of(outcomes, generating):
    """Law of the best of K outcomes, ordered by index; the last entry is K = 0, nothing published."""
    below = np.concatenate([[0.0], np.cumsum(outcomes)])
    below[-1] = 1.0
    values = generating(below)
    return np.append(np.diff(values), values[0])


def renyi(p, q, order):
    """D_order(p || q) of finite laws."""
    keep = p > 0.0
    return logsumexp(order * np.log(p[keep]) + (1.0 - order) * np.log(q[keep])) / (order - 1.0)


def divergence(p, q, order):
    return max(renyi(p, q, order), renyi(q, p, order))


def hockey_stick(p, q, epsilon):
    return max(
        np.maximum(p - exp(epsilon) * q, 0.0).sum(), np.maximum(q - exp(epsilon) * p, 0.0).sum()
    )


@pytest.mark.parametrize("law", [*tuning.SHAPES, "Poisson"])
@pytest.mark.parametrize("tries", [1.5, 5.0, 40.0])
def test_no_finite_mechanism_costs_more_than_the_formula(law, tries):
    rng, closest = np.random.default_rng(0), inf
    for spread in (0.05, 0.3, 1.0):
        for _ in range(4):
            p = rng.dirichlet(np.full(6, 0.5)) + 1e-9
            q = p * np.exp(spread * rng.normal(size=6))
            p, q = p / p.sum(), q / q.sum()

            def one(order, p=p, q=q):
                return divergence(p, q, order)

            def failure(epsilon, p=p, q=q):
                return hockey_stick(p, q, epsilon)

            if law == "Poisson":
                bound, parameter = tuning.poisson(one, failure, tries), tries
            else:
                parameter = tuning.gamma_for(tuning.SHAPES[law], tries)
                bound = tuning.negative_binomial(one, tuning.SHAPES[law], parameter)
            generating = probability_generating(law, parameter)
            made = best_of(p, generating), best_of(q, generating)
            for order in ORDERS:
                found = divergence(*made, order)
                assert found <= bound(order) * (1 + 1e-9)
                closest = min(closest, bound(order) / found)
    assert closest < 30.0  # the check is not idle


@pytest.mark.parametrize("law", list(tuning.SHAPES))
@pytest.mark.parametrize("tries", [1.0, 3.0, 25.0])
def test_the_mean_number_of_tries_is_that_of_the_law(law, tries):
    shape, gamma = tuning.SHAPES[law], tuning.gamma_for(tuning.SHAPES[law], tries)
    if tries == 1.0:
        assert gamma == 1.0
        return
    weight, total, mean = 1.0 - gamma, 0.0, 0.0  # P(K = k) up to a factor, k = 1, 2, ...
    weights = []
    for k in range(1, int(60 / gamma)):
        weights.append(weight)
        weight *= (1.0 - gamma) * (k + shape) / (k + 1.0)
    total, mean = sum(weights), sum(k * w for k, w in enumerate(weights, 1))
    assert mean / total == pytest.approx(tries, rel=1e-9)


def test_composition_is_the_naive_price_and_random_tries_beat_it(plain):
    costs = {cost.law: cost for cost in mm.tune_cost(plain, tries=25, delta=1e-5)}
    run = mm.Settings(sample_rate=0.01, steps=250_000, noise_multiplier=1.0)
    assert costs[tuning.COMPOSED].epsilon == mm.epsilon(run, delta=1e-5).upper
    one = mm.epsilon(plain, delta=1e-5).upper
    assert one < min(cost.epsilon for cost in costs.values()) < costs[tuning.COMPOSED].epsilon / 2.0
    assert list(costs) == sorted(costs, key=lambda law: costs[law].epsilon)


def test_one_try_costs_one_run(plain):
    assert (
        min(cost.epsilon for cost in mm.tune_cost(plain, tries=1, delta=1e-5))
        == mm.epsilon(plain, delta=1e-5).upper
    )


def test_more_tries_cost_more(plain):
    few, many = (
        {c.law: c.epsilon for c in mm.tune_cost(plain, tries=k, delta=1e-5)} for k in (5, 50)
    )
    assert all(few[law] < many[law] for law in few)


@pytest.mark.parametrize(
    ("name", "value"), [("tries", 0), ("tries", 2.5), ("delta", 0.0), ("delta", float("nan"))]
)
def test_bad_input(plain, name, value):
    with pytest.raises(ValueError, match=name):
        mm.tune_cost(plain, **({"tries": 5, "delta": 1e-5} | {name: value}))


def test_full_batches_are_priced_in_closed_form_at_every_epsilon(monkeypatch):
    """Where delta ends below float64 nothing narrower is looked for, which took 20 s in all."""

    def refuse(*args, **options):
        raise AssertionError("a discretised loss was made")

    monkeypatch.setattr(plain_pld, "TwoSidedPld", refuse)
    run = mm.Settings(sample_rate=1.0, steps=1, noise_multiplier=7450.88881189664)
    assert min(cost.epsilon for cost in tuning.tune_cost(run, tries=25, delta=1e-5)) < 1e-3
