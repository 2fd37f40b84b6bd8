"""What other accountants were found to get wrong (versions of August 2026), wherever this one has a
counterpart."""

from dataclasses import replace
from math import inf, nan, sqrt

import pytest

import mmaccount as mm
from mmaccount import Settings
from mmaccount.accounting import renyi

DELTA = 1e-5


def run(q, z, steps, **others):
    return Settings(sample_rate=q, noise_multiplier=z, steps=steps, **others)


def test_whole_numbers_are_noise_multipliers_too():
    """dp_accounting 0.6.0, RDP: Composed([Gaussian(1), Gaussian(1)]) gives 2.101 where
    Gaussian(1.0) gives 5.261."""
    whole = mm.epsilon([run(1, 1, 1), run(1, 1, 1)], delta=DELTA)
    assert whole == mm.epsilon([run(1.0, 1.0, 1), run(1.0, 1.0, 1)], delta=DELTA)
    assert whole.lower <= whole.upper < 6.6
    assert mm.delta(run(1.0, 1 / sqrt(2), 1), epsilon=whole.upper).lower <= DELTA * (1 + 1e-9)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize(("q", "mixing"), [(0.3, 0.0), (1.0, 0.0), (0.3, 5.0)])
def test_a_count_is_that_many_phases(q, mixing, noise):
    """dp_accounting: PLD of 100 randomized responses 1.609 instead of 123.9; RDP of 100 exponential
    mechanisms 0.5035 instead of 31.17: `count` was not used."""
    one = run(q, 2.0, 1, mixing=mixing, noise=noise)
    many = mm.epsilon(replace(one, steps=8), delta=DELTA, tight=False)
    apart = mm.epsilon([one] * 8, delta=DELTA, tight=False)
    assert many.upper == pytest.approx(apart.upper, rel=1e-4)  # bounds are that far apart
    assert many.upper > 2 * mm.epsilon(one, delta=DELTA, tight=False).upper


def test_laplace_noise_many_times_never_wraps_around():
    """prv_accountant 0.2.0: 3-DP twenty times at delta 1e-3 has "upper" 42.08, right 59.997; the
    grid was too small."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    optimistic = pld.from_laplace_mechanism(
        1 / 3, pessimistic_estimate=False, value_discretization_interval=1e-3
    )
    below = optimistic.self_compose(20).get_epsilon_for_delta(1e-3)
    assert below <= mm.epsilon(run(1.0, 1 / 3, 20, noise="laplace"), delta=1e-3).upper


def test_where_a_quadrature_was_given_up():
    """prv_accountant 0.2.0: q 0.2, z 1, T 500 raises RuntimeError at its delta_error 1e-10; the
    value is 38.17."""
    found = mm.epsilon(run(0.2, 1.0, 500), delta=DELTA)
    assert found.upper == pytest.approx(38.17, abs=0.011)
    assert found.upper <= found.lower * (1 + 1e-5)


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta", "limit", "truth"),
    [(0.01, 1.0, 10_000, 1e-5, 6.007, 6.188), (0.001, 0.8, 20_000, 1e-6, 1.174, 1.286)],
)
def test_no_central_limit_in_an_upper_bound(q, z, steps, delta, limit, truth):
    """opacus GDP reports the limit, below the truth."""
    found = mm.epsilon(run(q, z, steps), delta=delta)
    assert limit < found.lower <= truth * 1.001
    assert found.upper >= truth * 0.999


def test_epsilon_is_not_negative_anywhere():
    """autodp 0.2.3.1: -0.0048 for every Gaussian by its characteristic functions; 4.377 for mu = 1."""
    assert mm.epsilon(run(1.0, 1.0, 1), delta=DELTA).lower == pytest.approx(4.377178, abs=1e-6)
    for delta in (0.999, 0.5, 0.3826):
        found = mm.epsilon(run(1.0, 1.0, 1), delta=delta)
        assert 0.0 <= found.lower <= found.upper < 2e-3


@pytest.mark.parametrize(
    ("name", "start"),
    [("noise_multiplier", 1e-6), ("noise_multiplier", 1e5), ("sample_rate", 1e-9), ("steps", 1)],
)
def test_calibration_never_spends_too_much_from_wherever_it_starts(name, start):
    """autodp's calibrator may return epsilon up to 1e-3 above the target; riskcal's fails from its
    default start, 0."""
    found = mm.solve(replace(run(0.01, 1.0, 1000), **{name: start}), name, epsilon=2.0, delta=DELTA)
    assert 1.9 < mm.epsilon(found, delta=DELTA).upper <= 2.0


def test_a_broken_order_is_not_zero(monkeypatch):
    """dp_accounting reads NaN at one order as epsilon 0; opacus gives NaN at order 1100."""
    monkeypatch.setattr(renyi, "step_log_moment", lambda phase, order: nan)
    assert renyi.epsilon(run(0.01, 1.0, 10), delta=DELTA).upper == inf
    assert renyi.delta(run(0.01, 1.0, 10), epsilon=1.0).upper == 1.0
