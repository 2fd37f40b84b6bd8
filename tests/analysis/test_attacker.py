"""The profile, the trade-off curve and what follows from them: closed forms inside, both bounds
sound by themselves."""

from dataclasses import replace
from fractions import Fraction
from math import exp, log, log1p

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

import mmaccount as mm
from mmaccount.analysis import attacker
from mmaccount.accounting.profile import profile

RATES = np.concatenate([[0.0, 1e-4, 1e-3], np.linspace(0.01, 1.0, 60)])
EPSILONS = np.concatenate([np.linspace(0.0, 4.0, 30), [6.0, 9.0]])
TIGHT = 1e-9  # absolute, of numerics in closed forms


def gaussian(mu: float) -> mm.Settings:
    return mm.Settings(sample_rate=1, steps=4, noise_multiplier=2.0 / mu)


def gaussian_delta(mu: float, epsilon):
    return norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)


def gaussian_trade_off(mu: float, rates):
    return norm.cdf(norm.isf(rates) - mu)


# ------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0])
def test_gaussian_profile(mu):
    made, exact = mm.privacy_profile(gaussian(mu), EPSILONS), gaussian_delta(mu, EPSILONS)
    known = exact > 1e-14  # below, the closed form itself is rounding
    assert np.all((made.lower <= exact * (1 + 1e-9))[known])
    assert np.all((made.upper >= exact * (1 - 1e-9))[known])
    assert np.all((made.upper <= made.lower * (1 + 2e-4))[known])
    assert np.all(made.lower <= made.upper)


@pytest.mark.parametrize("mu", [0.01, 0.5, 1.0, 3.0])
def test_gaussian_trade_off(mu):
    made, exact = mm.trade_off(gaussian(mu), RATES), gaussian_trade_off(mu, RATES)
    assert np.all(made.lower <= exact + TIGHT)
    assert np.all(made.upper >= exact - TIGHT)
    assert (
        np.max((made.upper - made.lower)[1:]) < 1.5e-3
    )  # at rate 0 the bounds are those of small rates


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
def test_gaussian_summary(mu):
    made = mm.meaning_of(gaussian(mu), prior=0.2)
    for bound, exact in [
        (made.advantage, 2 * norm.cdf(mu / 2) - 1),
        (mm.advantage(gaussian(mu)), 2 * norm.cdf(mu / 2) - 1),
        (made.bayes_success, 0.8 + 0.2 * gaussian_delta(mu, log(4))),
        (mm.bayes_success(gaussian(mu), prior=0.8), 0.8 + 0.2 * gaussian_delta(mu, log(4))),
        (mm.bayes_success(gaussian(mu)), norm.cdf(mu / 2)),
        *((bound, 1 - gaussian_trade_off(mu, rate)) for rate, bound in made.true_positive_rates),
    ]:
        assert bound.lower - TIGHT <= exact <= bound.upper + TIGHT
        assert bound.upper - bound.lower < 1e-3
    assert [rate for rate, _ in made.true_positive_rates] == [0.001, 0.01, 0.1]


def test_one_subsampled_step_keeps_its_directions_apart():
    """With the record the output is q N(1/z, 1) + (1 - q) N(0, 1); claiming "in" has f = q G + (1 -
    q) (1 - a)."""
    q, z = 0.4, 0.8
    run = mm.Settings(sample_rate=q, steps=1, noise_multiplier=z)
    made, exact = (
        mm.trade_off(run, RATES),
        q * gaussian_trade_off(1 / z, RATES) + (1 - q) * (1 - RATES),
    )
    assert np.all(made.lower <= exact + TIGHT)
    assert np.all(made.upper >= exact - TIGHT)
    assert np.max(made.upper - made.lower) < 5e-3
    sure = 1 / (
        1 + (1 - q) / 1.01
    )  # adding a record is pure DP: nothing tells "out" from "in" at this prior
    assert mm.bayes_success(run, prior=sure).upper == pytest.approx(sure, rel=1e-12)
    out = mm.bayes_success(run, prior=1 - sure)
    assert sure < out.lower <= out.upper


def test_pure_dp_of_adding_a_record():
    run = mm.Settings(sample_rate=0.1, steps=3, noise_multiplier=1.0)
    pure = -3 * log1p(-0.1)
    made = profile((run,), np.array([0.5 * pure, 1.01 * pure]))
    assert made.add[0] > 0.0
    assert made.add[1] == 0.0 < made.remove[1]


# ---------------------------------------------------------------------------- others, and ModelMix


def test_dp_accounting_lies_inside(plain):
    pld = privacy_loss_distribution.from_gaussian_mechanism(
        1.0, sampling_prob=0.01, value_discretization_interval=1e-3
    )
    pld = pld.self_compose(10_000)
    epsilons = [0.0, 0.5, 1.0, 3.0, 6.0]
    made = mm.privacy_profile(plain, epsilons)
    for low, high, epsilon in zip(made.lower, made.upper, epsilons, strict=True):
        theirs = pld.get_delta_for_epsilon(epsilon)
        assert low <= theirs  # pessimistic, hence an upper bound
        assert theirs == pytest.approx(high, rel=2e-2)
        assert high == pytest.approx(mm.delta(plain, epsilon=epsilon).upper, rel=2e-4)


def test_modelmix(resnet):
    made = mm.privacy_profile(resnet, EPSILONS)
    assert np.all(made.lower <= made.upper)
    assert np.all(np.diff(made.upper) <= 0.0)
    assert np.all(np.diff(made.lower) <= 0.0)
    for i in (0, 10, 31):
        alone = mm.delta(resnet, epsilon=float(EPSILONS[i]))
        assert (
            alone.lower < made.upper[i] <= alone.upper * (1 + 1e-3)
        )  # the auxiliary mechanism, which `delta` takes where it must
        assert made.lower[i] == pytest.approx(alone.lower, rel=1e-3)
    loose = mm.privacy_profile(resnet, EPSILONS, tight=False)
    assert np.all(loose.upper >= made.upper)
    assert np.all(loose.lower <= made.lower)
    curve = mm.trade_off(resnet, RATES)
    assert np.all(curve.lower <= curve.upper)
    assert np.max(curve.upper - curve.lower) < 0.02
    assert np.all(np.diff(curve.lower) <= 0.0)
    assert np.all(np.diff(curve.lower, 2)[3:] >= -1e-12)  # evenly spaced from there on: convex


def test_an_attack_on_mixing_has_the_error_rates_of_its_test():
    """One step, one coordinate: noise U + N shifted by v. Half-lines are best, so f(a) = F(F^-1(1 -
    a) - v)."""
    run = mm.Settings(sample_rate=1, steps=1, noise_multiplier=0.5, mixing=1.5)
    width, shift, x = 3.0, 2.0, np.linspace(-15, 15, 300_001)
    primitive = x[:, None] + np.array([0.5, -0.5]) * width
    tail = np.diff(primitive * norm.cdf(primitive) + norm.pdf(primitive), axis=1)[:, 0] / -width
    made = profile((run,), np.linspace(0.0, 7.0, 100))
    rates = np.linspace(0.01, 0.99, 50)
    exact = np.interp(np.interp(1 - rates, tail, x) - shift, x, tail)
    found = attacker._attack(
        made.epsilons, *made.attacks["gradient spread evenly over p coordinates"], rates
    )
    assert np.all(found >= exact - 1e-6)
    assert np.max(found - exact) < 5e-3
    curve = mm.trade_off(run, rates)
    assert np.all(curve.lower <= exact)
    assert np.all(curve.upper <= found + 1e-3)


def test_laplace_has_an_upper_side_only():
    run = mm.Settings(sample_rate=0.1, steps=20, noise_multiplier=2.0, mixing=1.0, noise="laplace")
    made = mm.privacy_profile(run, [0.0, 1.0, 2.0])
    assert made.lower is None
    for high, epsilon in zip(made.upper, made.epsilons, strict=True):
        alone = mm.delta(run, epsilon=float(epsilon)).upper
        assert alone * (1 - 1e-9) <= high <= alone * 1.05
    curve = mm.trade_off(run, [0.1])
    assert curve.upper is None
    assert 0.0 < curve.lower[0] < 0.9
    summary = mm.meaning_of(run)
    assert summary.to_dict()["advantage"]["lower"] is None
    assert summary.bayes_success.lower is None


def test_replacing_a_record_looks_the_same_from_both_sides():
    run = mm.Settings(sample_rate=0.05, steps=200, noise_multiplier=1.0, neighbours="replace-one")
    made = mm.meaning_of(run, prior=0.3)
    assert made.bayes_success.upper == pytest.approx(
        mm.bayes_success(run, prior=0.7).upper, rel=1e-4
    )
    assert made.advantage.upper == pytest.approx(mm.delta(run, epsilon=0.0).upper, rel=2e-4)
    always = mm.Settings(sample_rate=1, steps=4, noise_multiplier=8.0, neighbours="replace-one")
    assert mm.advantage(always).upper == pytest.approx(
        2 * norm.cdf(0.25) - 1, rel=1e-5
    )  # moves twice as far


def test_a_group_has_the_error_rates_of_its_test():
    """One step, q < 1: sum_i b_i N(i v, 1) against N(0, 1), best told apart by a threshold."""
    run = mm.Settings(sample_rate=0.4, steps=1, noise_multiplier=1.5, group_size=3)
    sizes = np.arange(4)
    exact = binom.pmf(sizes, 3, 0.4) @ norm.cdf(norm.isf(RATES) - sizes[:, None] / 1.5)
    made = mm.trade_off(run, RATES)
    assert np.all(made.lower <= exact + TIGHT)
    assert np.all(made.upper >= exact - TIGHT)
    assert np.max(made.upper - made.lower) < 5e-3


def test_other_mixing_laws(resnet):
    run = replace(resnet, mixing_law="raised-cosine")
    made = mm.privacy_profile(run, [0.0, 2.0], tight=False)
    for i, epsilon in enumerate(made.epsilons):
        alone = mm.delta(run, epsilon=float(epsilon), tight=False)
        assert alone.upper * (1 - 1e-9) <= made.upper[i] <= alone.upper * 1.05
        assert made.lower[i] == pytest.approx(alone.lower, rel=1e-3)


def test_phases_and_unbounded_runs(plain):
    both = mm.privacy_profile([plain, gaussian(0.5)], [1.0])
    assert both.lower[0] > mm.privacy_profile(plain, [1.0]).upper[0]
    hopeless = mm.Settings(sample_rate=0.5, steps=10, noise_multiplier=1e-200)
    assert mm.meaning_of(hopeless).advantage.upper == 1.0
    assert mm.trade_off(hopeless, [0.1]).lower[0] == 0.0


# -------------------------------------------------------------------------------------- properties


@settings(max_examples=6)
@given(q=st.floats(0.01, 0.3), z=st.floats(0.6, 3.0), steps=st.integers(200, 2000))
def test_bounds_are_ordered_monotone_and_convex(q, z, steps):
    run = mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z)
    made = mm.privacy_profile(run, np.linspace(0.0, 3.0, 16))
    assert np.all((made.lower >= 0.0) & (made.lower <= made.upper) & (made.upper <= 1.0))
    assert np.all(np.diff(made.upper) <= 0.0)
    curve = mm.trade_off(run, np.linspace(0.0, 1.0, 21))
    assert np.all(
        (curve.lower >= 0.0)
        & (curve.lower <= curve.upper)
        & (curve.upper <= np.nextafter(1.0 - curve.false_positive_rates, 2.0))
    )
    for side in (curve.lower, curve.upper):
        assert np.all(np.diff(side) <= 0.0)
        assert np.all(np.diff(side, 2)[:-1] >= -1e-12)  # the last one is 0 by itself
    summary = mm.meaning_of(run)
    assert summary.bayes_success.upper == pytest.approx(
        0.5 + 0.5 * summary.advantage.upper, rel=1e-6
    )


numbers = st.floats(0.0, 1.0)


@settings(max_examples=200)
@given(
    lines=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6),
    gaps=st.lists(st.floats(1e-3, 2.0), min_size=1, max_size=8),
    slack=st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.3)), min_size=9, max_size=9),
    rate=numbers,
)
def test_the_attack_side_is_above_every_concave_function_within_the_bounds(
    lines, gaps, slack, rate
):
    def c(x):
        return np.min([offset + slope * x for offset, slope in lines], axis=0)

    x = np.concatenate([[0.0], np.cumsum(gaps)])
    below, above = np.array(slack[: x.size]).T
    found = attacker._highest(x, c(x) - below, c(x) + above, np.array([rate]))[0]
    everywhere = np.linspace(0.0, x[-1], 2001)
    assert found >= np.max(c(everywhere) - rate * everywhere) - 1e-12
    assert found <= np.max(c(x) + above - rate * x) + np.max(
        gaps
    )  # never worse than a step function's


# ------------------------------------------------------------------------------------- GDP, inputs


@pytest.mark.parametrize("mu", [0.01, 1.0, 7.0])
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 5.0])
def test_gdp_mu_inverts_the_closed_form(mu, epsilon):
    delta = gaussian_delta(mu, epsilon)
    if delta > 1e-12:
        assert mm.gdp_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)


def test_gdp_mu_is_no_guarantee(plain):
    """Fitted at delta 1e-5, the Gaussian mechanism promises too much at a smaller delta."""
    mu = mm.gdp_mu(mm.epsilon(plain, delta=1e-5).upper, 1e-5)
    assert mm.epsilon(gaussian(mu), delta=1e-10).upper < mm.epsilon(plain, delta=1e-10).lower


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 0.5), (300.0, 1e-5), (1.0, 1e-300), (1e6, 0.999), (1e-5, 1e-12)]
)
def test_gdp_mu_far_out(epsilon, delta):
    mu = mm.gdp_mu(epsilon, delta)
    log_inside = norm.logcdf(mu / 2 - epsilon / mu)
    ratio = epsilon + norm.logcdf(-mu / 2 - epsilon / mu) - log_inside
    assert log_inside + log(-np.expm1(ratio)) == pytest.approx(log(delta), rel=1e-4)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda run: mm.privacy_profile(run, [-1.0]),
            r"`epsilons` must be in \[0, inf\), got -1.0",
        ),
        (
            lambda run: mm.privacy_profile(run, [1.0, 0.5]),
            "`epsilons` must be one or more ascending numbers",
        ),
        (
            lambda run: mm.privacy_profile(run, []),
            "`epsilons` must be one or more ascending numbers",
        ),
        (lambda run: mm.trade_off(run, [0.5, 1.5]), r"`rates` must be in \[0, 1\], got 1.5"),
        (lambda run: mm.trade_off(run, [float("nan")]), r"`rates` must be in \[0, 1\], got nan"),
        (lambda run: mm.bayes_success(run, prior=1.0), r"`prior` must be in \(0, 1\), got 1.0"),
        (lambda run: mm.meaning_of(run, prior=0.0), r"`prior` must be in \(0, 1\), got 0.0"),
        (lambda run: mm.gdp_mu(-1.0, 1e-5), r"`epsilon` must be in \[0, inf\), got -1.0"),
        (lambda run: mm.gdp_mu(1.0, 0.0), r"`delta` must be in \(0, 1\), got 0.0"),
    ],
)
def test_bad_input(plain, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(plain)


def test_settings_of_the_wrong_kind():
    with pytest.raises(TypeError, match="`settings` must be"):
        mm.trade_off(exp, [0.1])


RARE = [(1.1071295714098218e-11, 132970.796197634), (1e-10, 1e6), (1e-11, 1e5), (1e-12, 3e4)]


@pytest.mark.parametrize(("q", "z"), RARE)
def test_deltas_near_the_end_of_float64_are_no_rounding(q, z):
    """One rarely sampled step: its total variation, in closed form, is far below 1e-15."""
    run = mm.Settings(sample_rate=q, steps=1, noise_multiplier=z)
    with mpmath.workdps(60):
        half = 1 / mpmath.mpf(z) / 2
        exact = mpmath.mpf(q) * (mpmath.ncdf(half) - mpmath.ncdf(-half))
        found = mm.privacy_profile(run, [0.0, 1e-6])
        meaning = mm.meaning_of(run)
        assert found.lower[0] <= exact <= found.upper[0]
        assert meaning.advantage.lower <= exact <= meaning.advantage.upper
        for rate, bound in meaning.true_positive_rates:
            assert bound.lower <= mpmath.mpf(rate) + exact
            assert bound.upper >= mpmath.mpf(rate)


def test_a_blind_guess_is_rounded_down():
    prior = 6.29943183350551e-05
    run = mm.Settings(sample_rate=1.0, steps=1, noise_multiplier=1e300)
    assert Fraction(mm.bayes_success(run, prior=prior).lower) <= 1 - Fraction(prior)
