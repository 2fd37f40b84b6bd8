"""The Renyi accountant against the paper, the peers, closed forms, and its own laws."""

import itertools
import json
from dataclasses import replace
from math import inf, log, nan

import mpmath
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import log_ndtr

from mmaccount import Settings
from mmaccount.accounting import renyi

DELTA = 1e-5
GRID = [1 + x / 10 for x in range(1, 100)] + [float(x) for x in range(12, 64)]
CASES = json.loads((ROOT / "tests" / "reference" / "published_cases.json").read_text())["cases"]
HOMOGENEOUS = [case for case in CASES if "pld_add_remove_upper" in case.get("recomputed", {})]


def plain_run(case: dict) -> Settings:
    return Settings(sample_rate=case["q"], noise_multiplier=case["sigma"], steps=case["steps"])


# ------------------------------------------------------------------------------- published numbers


def test_resnet_20_as_the_authors_script_and_by_default(resnet):
    script = renyi.epsilon(resnet, delta=DELTA, conversion="mironov", orders=range(2, 20))
    assert script.upper == pytest.approx(8.000, abs=1e-3)
    assert script.order == 4
    bound = renyi.epsilon(resnet, delta=DELTA)
    assert bound.upper == pytest.approx(7.2502, abs=1e-4)
    assert (bound.order, bound.lower) == (4, None)


# proofs section 4: setting, rho, p, RDP over integers with improved conversion, its order
PROOFS_TABLE = [
    (0.366945, 3.75, 25, 16.4943, 2),
    (0.366945, 3.75, 100, 14.3905, 3),
    (0.366945, 7.5, 25, 8.2024, 3),
    (0.366945, 7.5, 100, 7.1784, 4),
    (0.366945, 15, 25, 4.8254, 5),
    (0.366945, 15, 100, 4.2852, 6),
    (1.0, 3.75, 1, 6.1909, 4),
    (1.0, 3.75, 25, 5.4764, 5),
    (1.0, 3.75, 100, 5.4529, 5),
    (1.0, 7.5, 1, 4.3022, 5),
    (1.0, 7.5, 25, 3.4358, 7),
    (1.0, 15, 1, 3.0695, 6),
    (1.0, 15, 25, 2.2424, 9),
    (1.0, 15, 100, 2.2255, 9),
]


@pytest.mark.parametrize(("z", "rho", "p", "epsilon", "order"), PROOFS_TABLE)
def test_integer_orders_of_independent_computation(z, rho, p, epsilon, order):
    run = Settings(sample_rate=0.02, steps=5000, noise_multiplier=z, mixing=rho, truncation=p)
    bound = renyi.epsilon(run, delta=DELTA, orders=range(2, 30))
    assert bound.upper == pytest.approx(epsilon, abs=6e-5)
    assert bound.order == order


@pytest.mark.parametrize(("rho", "best"), [(3.75, 63.814), (7.5, 43.798), (15, 31.622)])
def test_am_gm_rescues_one_hot_gradients(rho, best):
    """Proofs 3a: 255.9 / 134.5 / 72.7 with integer orders alone."""
    run = Settings(sample_rate=0.02, steps=5000, noise_multiplier=0.366945, mixing=rho)
    bound = renyi.epsilon(run, delta=DELTA)
    assert best <= bound.upper * (1 + 1e-4)
    assert bound.upper == pytest.approx(best, rel=5e-4)
    assert 1.3 < bound.order < 1.7


@pytest.mark.parametrize("case", HOMOGENEOUS, ids=lambda case: case["id"])
def test_published_cases(case):
    """The recomputed columns on the grid they were made with; 1e-6 is their printed precision."""
    run, again = plain_run(case), case["recomputed"]
    classic = renyi.epsilon(run, delta=case["delta"], conversion="mironov", orders=GRID)
    improved = renyi.epsilon(run, delta=case["delta"], orders=GRID)
    assert classic.upper == pytest.approx(again["rdp_classic"], rel=1e-6)
    assert improved.upper == pytest.approx(again["rdp_improved"], rel=1e-6)
    assert (classic.order, improved.order) == (
        again["rdp_classic_order"],
        again["rdp_improved_order"],
    )
    best = renyi.epsilon(run, delta=case["delta"])
    assert again["pld_add_remove_upper"] * (1 - 1e-6) < best.upper <= improved.upper
    published, column = case["published"], case["matches_recomputed"]
    if published["quantity"] == "epsilon" and column in ("rdp_classic", "rdp_improved"):
        ours = classic if column == "rdp_classic" else improved
        assert ours.upper == pytest.approx(published["value"], abs=case["abs_tol"])


def test_published_case_with_a_second_gaussian_release():
    """tb_mnist_linear_bn8 adds two full-batch releases at noise multiplier 8: RDP alpha / 64."""
    case = next(case for case in CASES if case["id"] == "tb_mnist_linear_bn8")
    norm = Settings(sample_rate=1.0, noise_multiplier=8.0, steps=2)
    bound = renyi.epsilon(
        [plain_run(case), norm], delta=case["delta"], conversion="mironov", orders=GRID
    )
    assert bound.upper == pytest.approx(case["recomputed"]["rdp_classic"], rel=1e-6)
    assert bound.upper == pytest.approx(case["published"]["value"], abs=case["abs_tol"])


def test_published_test_vector_of_dp_accounting():
    """Their integer orders are exact, their fractional ones too large; the recomputed column is by
    quadrature."""
    case = next(case for case in CASES if case["id"] == "dp_accounting_rdp_test_vector")
    run = plain_run(case)
    ours = [renyi.log_moment([run], a) / (a - 1) for a in case["orders"]]
    assert ours == pytest.approx(case["recomputed"]["rdp_exact_quadrature"], rel=1e-6)


@pytest.mark.parametrize(
    "row", next(case for case in CASES if case["id"] == "single_epoch_shuffle_gap")["rows"]
)
def test_one_epoch_stays_above_the_exact_values(row):
    """Poisson and deterministic (full-batch) epsilons at delta 1e-6 by privacy-loss distributions:
    truth, below RDP."""
    poisson = Settings(sample_rate=1 / row["T"], noise_multiplier=row["sigma"], steps=row["T"])
    once = Settings(sample_rate=1.0, noise_multiplier=row["sigma"], steps=1)
    assert row["eps_poisson"] < renyi.epsilon(poisson, delta=1e-6).upper < 5 * row["eps_poisson"]
    assert (
        row["eps_deterministic"]
        < renyi.epsilon(once, delta=1e-6).upper
        < 1.1 * row["eps_deterministic"]
    )


PEERS_TABLE = [  # exact RDP, order optimised continuously: peers section 3
    (0.01, 1.0, 10_000, 1e-5, 6.71227, 4.135),
    (0.03, 0.335, 3400, 1e-5, 294.795, 1.134),
    (0.02, 0.36694, 5000, 1e-5, 189.818, 1.186),
    (0.001, 0.8, 20_000, 1e-6, 1.89599, 8.05),
    (1.0, 10.0, 100, 1e-5, 4.72839, 5.43),
    (4e-3, 0.6, 1_000_000, 1e-5, 175.573, 1.298),
]


@pytest.mark.parametrize(("q", "z", "steps", "delta", "epsilon", "order"), PEERS_TABLE)
def test_best_real_order(q, z, steps, delta, epsilon, order):
    bound = renyi.epsilon(Settings(sample_rate=q, noise_multiplier=z, steps=steps), delta=delta)
    assert bound.upper == pytest.approx(epsilon, rel=3e-6)
    assert bound.order == pytest.approx(order, rel=2e-3)


# ------------------------------------------------------------------------------------------- peers


@pytest.mark.parametrize(
    ("q", "z"), list(itertools.product([1e-4, 0.01, 0.3, 1.0], [0.4, 1.0, 4.0]))
)
def test_dp_accounting_agrees_at_integer_orders(q, z):
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    orders = [2, 3, 5, 10, 32, 100, 256]
    peer = RdpAccountant(orders)
    peer.compose(PoissonSampledDpEvent(q, GaussianDpEvent(float(z))), 50)
    ours = [
        renyi.log_moment([Settings(sample_rate=q, noise_multiplier=z, steps=50)], a) / (a - 1)
        for a in orders
    ]
    assert np.asarray(peer._rdp) == pytest.approx(ours, rel=1e-9)


@pytest.mark.parametrize(("q", "z"), list(itertools.product([1e-3, 0.01, 0.3], [0.7, 1.0, 4.0])))
def test_opacus_agrees_at_all_orders(q, z):
    from opacus.accountants.analysis.rdp import compute_rdp

    orders = [1.1, 1.25, 1.5, 1.9, 2.0, 2.5, 3.7, 8.0, 33.3, 64.0]
    peer = compute_rdp(q=q, noise_multiplier=z, steps=50, orders=orders)
    ours = [
        renyi.log_moment([Settings(sample_rate=q, noise_multiplier=z, steps=50)], a) / (a - 1)
        for a in orders
    ]
    assert np.asarray(peer) == pytest.approx(
        ours, rel=1e-6
    )  # their series: 5e-8 where it was checked
    assert np.all(np.asarray(ours) > 0)


def test_high_order_where_opacus_gives_nan():
    """Opacus' special.binom overflows at order 1100; the value is 545.39 (peers section 6)."""
    run = Settings(sample_rate=0.01, noise_multiplier=1.0, steps=1)
    assert renyi.log_moment([run], 1100) / 1099 == pytest.approx(545.39, abs=0.006)


@pytest.mark.parametrize("z", [1, 1.0, np.float32(1), np.int64(1)])
def test_an_integer_noise_multiplier_is_a_number_like_any_other(z):
    """dp_accounting 0.6.0 reports 2.1 instead of 67 for an integer noise multiplier in one
    composition (peers section 6)."""
    run = Settings(sample_rate=0.01, noise_multiplier=z, steps=10_000)
    assert renyi.epsilon(run, delta=DELTA).upper == pytest.approx(6.71227, rel=1e-5)


# ------------------------------------------------------------------------------------- conversions


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Exact delta of the Gaussian mechanism (Balle-Wang 2018, arXiv 1805.06083, Theorem 8)."""
    return float(
        np.exp(log_ndtr(mu / 2 - epsilon / mu)) - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu))
    )


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
@pytest.mark.parametrize("conversion", renyi.CONVERSIONS)
def test_never_below_the_exact_gaussian_mechanism(mu, delta, conversion):
    run = Settings(sample_rate=1.0, noise_multiplier=10 / mu, steps=100)
    upper = renyi.epsilon(run, delta=delta, conversion=conversion).upper
    assert gaussian_delta(mu, upper) <= delta
    back = renyi.delta(run, epsilon=upper, conversion=conversion).upper
    assert gaussian_delta(mu, upper) <= back <= delta * (1 + 1e-9)


def test_conversions_at_gaussian_mu_one():
    run = Settings(sample_rate=1.0, noise_multiplier=1.0, steps=1)
    assert renyi.epsilon(run, delta=DELTA).upper == pytest.approx(4.72839, abs=1e-5)
    assert renyi.epsilon(run, delta=DELTA, conversion="mironov").upper == pytest.approx(
        5.29853, abs=1e-5
    )


@pytest.mark.parametrize("conversion", renyi.CONVERSIONS)
@pytest.mark.parametrize(
    ("moment", "order", "delta"), [(0.5, 3.0, 1e-6), (1e-9, 40.5, 1e-12), (1e5, 1.01, 0.3)]
)
def test_conversion_rounds_up(conversion, moment, order, delta):
    with mpmath.workdps(50):
        m, a, d = (mpmath.mpf(x) for x in (moment, order, delta))
        exact = (m - mpmath.log(d)) / (a - 1)
        if conversion == "improved":
            exact += mpmath.log(1 - 1 / a) - mpmath.log(a) / (a - 1)
        value = renyi.epsilon_at(moment, order, delta, conversion)
        assert exact <= value <= exact + mpmath.mpf("1e-13") * (abs(exact) + 100)
        log_delta = renyi.log_delta_at(moment, order, value, conversion)
        assert log_delta == pytest.approx(log(delta), abs=1e-9 * (1 + abs(moment)))


def test_pure_laplace_limit():
    """Laplace noise with scale 1 is 1-DP; RDP at high orders must come close from above."""
    run = Settings(sample_rate=1.0, noise_multiplier=1.0, steps=1, noise="laplace")
    assert 1.0 - 1e-3 < renyi.epsilon(run, delta=1e-12).upper < 1.01


def test_scaling_law_of_theorem_4_2():
    """Epsilon ~ tau^(-1/2) for p = 1 in the paper's range: a law of the size of the amplification,
    never a bound."""
    run = Settings(sample_rate=0.02, steps=5000, noise_multiplier=1.0)
    gaps = np.array([7.5, 15.0, 30.0, 60.0])
    epsilons = [renyi.epsilon(replace(run, mixing=gap), delta=DELTA).upper for gap in gaps]
    slope = np.polyfit(np.log(gaps), np.log(epsilons), 1)[0]
    assert -0.65 < slope < -0.4


# -------------------------------------------------------------------------------------------- laws

RUNS = st.builds(
    Settings,
    sample_rate=st.floats(1e-4, 1.0),
    steps=st.integers(1, 5000),
    noise_multiplier=st.floats(0.3, 5.0),
    mixing=st.just(0.0) | st.floats(0.1, 40.0),
    truncation=st.floats(1.0, 1e4),
    noise=st.sampled_from(["gaussian", "laplace"]),
)


@hypothesis_settings(max_examples=40, deadline=None)
@given(run=RUNS, factor=st.floats(1.01, 3.0))
def test_monotone_in_every_setting(run, factor):
    upper = renyi.epsilon(run, delta=DELTA).upper
    # of the search over orders: with mixing the chords make it stop at another local minimum now
    # and then
    slack = 1.02
    assert renyi.epsilon(run, delta=DELTA / factor).upper >= upper / slack
    assert (
        renyi.epsilon(replace(run, steps=round(run.steps * 2 * factor)), delta=DELTA).upper
        >= upper / slack
    )
    assert (
        renyi.epsilon(replace(run, sample_rate=run.sample_rate / factor), delta=DELTA).upper
        <= upper * slack
    )
    assert (
        renyi.epsilon(
            replace(run, noise_multiplier=run.noise_multiplier * factor), delta=DELTA
        ).upper
        <= upper * slack
    )
    assert (
        renyi.epsilon(replace(run, mixing=run.mixing * factor + factor), delta=DELTA).upper
        <= upper * slack
    )
    assert (
        renyi.epsilon(replace(run, truncation=run.truncation * factor), delta=DELTA).upper
        <= upper * slack
    )


@hypothesis_settings(max_examples=30, deadline=None)
@given(run=RUNS, epsilon=st.floats(0.0, 20.0))
def test_delta_and_epsilon_are_inverse(run, epsilon):
    found = renyi.delta(run, epsilon=epsilon).upper
    assert 0.0 < found <= 1.0
    if 1e-200 < found < 0.9:
        back = renyi.epsilon(run, delta=found).upper
        assert (
            back <= epsilon * 1.02 + 0.02
        )  # the two searches over orders may stop at different local minima


@hypothesis_settings(max_examples=30, deadline=None)
@given(runs=st.lists(RUNS, min_size=1, max_size=4), data=st.data())
def test_phases_add_in_any_order(runs, data):
    shuffled = data.draw(st.permutations(runs))
    split = [
        replace(run, steps=part)
        for run in runs
        for part in {1, run.steps - 1}
        if 0 < part <= run.steps
    ]
    whole = [
        replace(
            run, steps=sum(part.steps for part in split if replace(part, steps=run.steps) == run)
        )
        for run in runs
    ]
    for a in (1.5, 2, 7, 33.5):
        assert renyi.log_moment(shuffled, a) == pytest.approx(renyi.log_moment(runs, a), rel=1e-12)
        total = sum(renyi.log_moment([run], a) for run in runs)
        assert renyi.log_moment(runs, a) == pytest.approx(total, rel=1e-12)
    once = [run for run in runs if run.steps > 2]
    if len(set(whole)) == len(runs) == len(once):
        assert renyi.epsilon(split, delta=DELTA).upper == pytest.approx(
            renyi.epsilon(runs, delta=DELTA).upper, rel=1e-9
        )


def test_mixed_and_plain_phases_compose(resnet, plain):
    both = renyi.epsilon([resnet, plain], delta=DELTA).upper
    assert both == renyi.epsilon([plain, resnet], delta=DELTA).upper
    assert both > max(
        renyi.epsilon(resnet, delta=DELTA).upper, renyi.epsilon(plain, delta=DELTA).upper
    )
    assert (
        both
        < renyi.epsilon(resnet, delta=DELTA / 2).upper + renyi.epsilon(plain, delta=DELTA / 2).upper
    )


def test_one_unmixed_step_doubles_the_cost(resnet):
    """Spec section 8.1: sign(0) = 0 leaves the first step unmixed; 14.121 at order 2 (proofs
    section 8)."""
    leak = [replace(resnet, steps=3399), replace(resnet, steps=1, mixing=0.0)]
    bound = renyi.epsilon(leak, delta=DELTA, orders=range(2, 20))
    assert bound.upper == pytest.approx(14.121, abs=2e-3)
    assert bound.order == 2


# ------------------------------------------------------------------------------------------ search


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
@pytest.mark.parametrize("which", ["best", "all", "odd"])
def test_a_broken_order_never_lowers_epsilon(resnet, plain, monkeypatch, bad, which):
    for run in (resnet, plain):
        honest = renyi.epsilon(run, delta=DELTA)
        with monkeypatch.context() as patch:
            original = renyi.step_log_moment

            def broken(phase, order, original=original, honest=honest):
                hit = {
                    "best": abs(order - honest.order) < 0.3,
                    "all": True,
                    "odd": round(order * 1e6) % 2 == 1,
                }[which]
                return bad if hit else original(phase, order)

            patch.setattr(renyi, "step_log_moment", broken)
            assert renyi.epsilon(run, delta=DELTA).upper >= honest.upper
            assert renyi.delta(run, epsilon=honest.upper).upper >= DELTA * (1 - 1e-9)
            fixed = renyi.epsilon(run, delta=DELTA, orders=[1.5, 2, 3, 4, 8])
            assert fixed.upper >= honest.upper * (1 - 1e-9)


def test_the_grid_widens_until_the_best_order_is_inside():
    low = renyi.epsilon(Settings(sample_rate=0.5, steps=100_000, noise_multiplier=0.5), delta=DELTA)
    assert 1.001 < low.order < 1.05
    high = renyi.epsilon(
        Settings(sample_rate=1e-4, steps=10, noise_multiplier=20.0, mixing=5.0), delta=1e-9
    )
    assert 1000 < high.order < 65537


def test_orders_given_by_the_user_are_the_only_ones_tried(plain):
    bound = renyi.epsilon(plain, delta=DELTA, orders=[3, 7.5])
    assert bound.order == 3
    assert bound.upper >= renyi.epsilon(plain, delta=DELTA).upper
    assert renyi.epsilon(plain, delta=DELTA, orders=(a for a in (3, 7.5))) == bound


def test_unbounded_is_infinite_with_a_reason():
    bound = renyi.epsilon(Settings(sample_rate=0.1, steps=1, noise_multiplier=1e-200), delta=DELTA)
    assert bound.upper == inf
    assert "overflow" in bound.reason
    assert (
        renyi.delta(Settings(sample_rate=0.1, steps=1, noise_multiplier=1e-200), epsilon=5.0).upper
        == 1.0
    )


@pytest.mark.parametrize("delta", [1e-300, 1e-30, 0.5, 0.999999])
@pytest.mark.parametrize("z", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("mixing", [0.0, 1e-12, 1e9])
def test_hostile_settings_are_finite_and_silent(delta, z, mixing):
    for q, p, steps in itertools.product([1e-9, 1.0], [1.0, 1e7], [1, 10**7]):
        run = Settings(sample_rate=q, noise_multiplier=z, steps=steps, mixing=mixing, truncation=p)
        bound = renyi.epsilon(run, delta=delta)
        assert 0.0 <= bound.upper < inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: renyi.epsilon(s, delta=0.0), r"`delta` must be in \(0, 1\), got 0.0"),
        (lambda s: renyi.epsilon(s, delta=1), r"`delta` must be in"),
        (lambda s: renyi.epsilon(s, delta=nan), r"`delta` must be in"),
        (lambda s: renyi.delta(s, epsilon=-1), r"`epsilon` must be in \[0, inf\)"),
        (lambda s: renyi.delta(s, epsilon=inf), r"`epsilon` must be in"),
        (lambda s: renyi.epsilon(s, delta=DELTA, orders=[1.0]), r"`orders` must be in \(1, inf\)"),
        (lambda s: renyi.epsilon(s, delta=DELTA, orders=[]), r"`orders`"),
        (
            lambda s: renyi.epsilon(s, delta=DELTA, conversion="best"),
            r"`conversion` must be one of",
        ),
        (lambda s: renyi.epsilon([], delta=DELTA), r"`settings` must be"),
        (lambda s: renyi.epsilon([s, 3], delta=DELTA), r"`settings` must be"),
        (lambda s: renyi.epsilon(3, delta=DELTA), r"`settings` must be"),
        (lambda s: renyi.epsilon(s, delta="1e-5"), r"`delta` must be a number"),
    ],
)
def test_bad_arguments(plain, call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(plain)
