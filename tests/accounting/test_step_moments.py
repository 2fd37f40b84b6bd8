"""The bounds on one step: never below the truth, and as near to it as they say."""

import json
from dataclasses import replace
from math import exp, inf, log

import mpmath
import numpy as np
import pytest
from conftest import ROOT, table
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from mmaccount import BoundError, Settings
from mmaccount.accounting import step_moments
from mmaccount.accounting.step_moments import (
    StepShape,
    check_worst_shift,
    fisher_information,
    step_shape,
    step_log_moment,
)
from mmaccount.kernels import gaussian, laplace

WIDTHS = st.just(0.0) | st.floats(step_moments.SMALLEST_WIDTH, 200)
PROMISED = 1e-10  # relative, over the range that step_log_moment documents


def run(**changes):
    return replace(Settings(sample_rate=0.02, steps=1, noise_multiplier=1.0), **changes)


def above(value: float, exact: str) -> float:
    with mpmath.workdps(40):
        return float(mpmath.mpf(value) / mpmath.mpf(exact) - 1)


@pytest.mark.parametrize(
    "row", table("subsampled_gaussian"), ids=lambda row: f"{row['q']} {row['z']} {row['alpha']}"
)
def test_plain_dp_sgd_is_bounded_from_above_within_the_promise(row):
    settings = run(sample_rate=float(row["q"]), noise_multiplier=float(row["z"]))
    assert 0 <= above(step_log_moment(settings, float(row["alpha"])), row["log_moment"]) < PROMISED


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in table("subsampled_mixing")
        if float(row["alpha"]).is_integer() or row["q"] == "1"
    ],
    ids=lambda row: f"{row['q']} {row['v']} {row['L']} {row['alpha']}",
)
def test_modelmix_is_bounded_from_above_within_the_promise(row):
    z = 1 / float(row["v"])
    settings = run(sample_rate=float(row["q"]), noise_multiplier=z, mixing=float(row["L"]) * z)
    assert 0 <= above(step_log_moment(settings, float(row["alpha"])), row["log_moment"]) < PROMISED


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in table("subsampled_mixing")
        if not float(row["alpha"]).is_integer() and row["q"] != "1"
    ],
    ids=lambda row: f"{row['q']} {row['v']} {row['L']} {row['alpha']}",
)
def test_fractional_orders_of_modelmix_stay_above_the_one_hot_pair(row):
    z = 1 / float(row["v"])
    settings = run(sample_rate=float(row["q"]), noise_multiplier=z, mixing=float(row["L"]) * z)
    assert above(step_log_moment(settings, float(row["alpha"])), row["log_moment"]) >= 0


@pytest.mark.parametrize(
    "row", table("laplace"), ids=lambda row: f"{row['k']} {row['v']} {row['L']}"
)
def test_laplace_without_subsampling(row):
    z = 1 / float(row["v"])
    settings = run(sample_rate=1.0, noise_multiplier=z, mixing=float(row["L"]) * z, noise="laplace")
    assert 0 <= above(step_log_moment(settings, float(row["k"])), row["h"]) < PROMISED


def test_half_known_values_of_mtz():
    """Sign-correct fractional orders, where dp_accounting 0.6.0 is 3 % high or diverges (spec
    literature F1)."""
    assert step_log_moment(run(sample_rate=0.2, noise_multiplier=0.7), 1.1) / 0.1 == pytest.approx(
        0.075953, rel=1e-5
    )
    assert step_log_moment(run(sample_rate=0.04, noise_multiplier=0.5), 1.3) / 0.3 == pytest.approx(
        0.0221984, rel=1e-5
    )


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
@pytest.mark.parametrize("mixing", [0.0, 0.5, 11.25])
def test_integer_orders_follow_from_the_definition_of_the_worst_product_pair(noise, mixing):
    """E[(1-q+qR)^3] over p equal coordinates, expanded by hand: 1 + 3 q^2 (1-q) (A_2 - 1) + q^3
    (A_3 - 1)."""
    q, z, p = 0.1, 0.8, 9.0
    shift, width = 1 / z / p**0.5, mixing / z
    copies, kernel = (p, gaussian) if noise == "gaussian" else (p**0.5, laplace)
    a2, a3 = np.expm1(copies * kernel.log_moments(np.array([2.0, 3.0]), shift, width))
    settings = run(sample_rate=q, noise_multiplier=z, truncation=p, mixing=mixing, noise=noise)
    assert step_log_moment(settings, 3) == pytest.approx(
        np.log1p(3 * q**2 * (1 - q) * a2 + q**3 * a3), rel=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(
    noise=st.sampled_from(["gaussian", "laplace"]),
    width=WIDTHS,
    shift=st.floats(0.01, 4),
    order=st.floats(1.01, 60),
    cuts=st.lists(st.floats(0.001, 1), min_size=1, max_size=6),
)
def test_no_way_to_spread_a_gradient_costs_more(noise, width, shift, order, cuts):
    """(S): sum_j h_k(v_j) <= copies * h_k(s) whenever |v_j| <= s and sum |v_j|^power is within the
    budget."""
    power, kernel = step_moments.POWER[noise], step_moments.MOMENT_KERNELS[noise]
    parts = shift * np.array(cuts)
    copies = np.sum((parts / shift) ** power)
    spread = sum(kernel(np.array([order]), part, width)[0] for part in parts)
    assert spread <= copies * kernel(np.array([order]), shift, width)[0] * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    noise=st.sampled_from(["gaussian", "laplace"]),
    width=WIDTHS,
    more=st.floats(0.01, 100),
    shift=st.floats(0.001, 4),
    order=st.floats(1.01, 60),
)
def test_a_wider_uniform_never_costs_more(noise, width, more, shift, order):
    kernel = step_moments.MOMENT_KERNELS[noise]
    narrow = kernel(np.array([order]), shift, width)[0]
    assert kernel(np.array([order]), shift, width + more)[0] <= narrow * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    q=st.floats(1e-4, 0.999),
    z=st.floats(0.2, 5),
    mixing=st.just(0.0) | st.floats(1e-6, 50),
    p=st.floats(1, 1000),
    order=st.floats(1.01, 12),
    noise=st.sampled_from(["gaussian", "laplace"]),
)
def test_add_direction_is_smaller(q, z, mixing, p, order, noise):
    """(D) on one coordinate of the worst pair, by brute force; and the bound covers both."""
    shift, width = 1 / z / p**0.5, mixing / z
    module = gaussian if noise == "gaussian" else laplace
    reach = 30 + order * shift
    x = np.linspace(
        -width - reach, shift + reach, 20_001
    )  # the reflection x -> v - x maps this grid to itself

    def log_p(points):
        if width == 0.0:
            return -0.5 * points**2 if noise == "gaussian" else -abs(points)
        return np.array([module.log_density(t, width) for t in points])

    log_0, log_1 = log_p(x), log_p(x - shift)
    log_mix = np.logaddexp(np.log1p(-q) + log_0, np.log(q) + log_1)
    norm = trapezoid(np.exp(log_0), x)
    remove = trapezoid(np.exp(order * log_mix + (1 - order) * log_0), x) / norm
    add = trapezoid(np.exp(order * log_0 + (1 - order) * log_mix), x) / norm
    assert add <= remove * (1 + 1e-9)
    settings = run(sample_rate=q, noise_multiplier=z, mixing=mixing, truncation=p, noise=noise)
    assert step_log_moment(settings, order) >= log(remove) - 2e-4 * abs(log(remove)) - 1e-9


@pytest.mark.parametrize("order", [1.05, 1.3, 1.7, 1.99])
def test_am_gm_bound_holds_for_pairs_that_are_not_worst(order):
    """Spread shifts at fractional order with subsampling: the 2-coordinate integral stays below the
    bound."""
    q, z, mixing = 0.1, 0.7, 3.0
    bound = step_log_moment(run(sample_rate=q, noise_multiplier=z, mixing=mixing), order)
    x = np.linspace(-mixing / z - 12, 14, 1201)
    for angle in (0.0, 0.3, np.pi / 4):
        density, ratio = [], []
        for part in (np.cos(angle) / z, np.sin(angle) / z):
            log_0 = np.array([gaussian.log_density(t, mixing / z) for t in x])
            log_1 = np.array([gaussian.log_density(t - part, mixing / z) for t in x])
            density.append(np.exp(log_0))
            ratio.append(np.exp(log_1 - log_0))
        joint = np.outer(*density)
        moment = np.sum(joint * (1 - q + q * np.outer(*ratio)) ** order) / np.sum(joint)
        assert np.log(moment) <= bound


def test_orders_between_integers_lie_on_or_below_the_chord(resnet):
    two, three = step_log_moment(resnet, 2), step_log_moment(resnet, 3)
    assert step_log_moment(resnet, 2.25) == pytest.approx(0.75 * two + 0.25 * three, rel=1e-10)
    assert step_log_moment(resnet, 1.5) <= 0.5 * two * (1 + 1e-10)


def test_high_orders_read_off_chords_are_above_and_close():
    settings = run(noise_multiplier=5.0, mixing=10.0)
    for order, slack in ((65, 1e-4), (1000, 1e-4), (4097, 1e-3)):
        step = step_shape(settings)
        exact = step_moments.log_moments(step, np.array([float(order)]))[0]
        read = step_moments._table(step, 8192)[order]
        assert exact * (1 - 1e-12) <= read <= exact * (1 + slack)


@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_tiny_shifts_are_raised_never_lowered(noise):
    settings = run(noise_multiplier=10.0, truncation=1e30, mixing=3.0, noise=noise)
    step = step_shape(settings)
    assert step.shift == step_moments.SMALLEST_SHIFT
    norm = 1 / settings.noise_multiplier
    assert step.copies * step.shift ** step_moments.POWER[noise] == pytest.approx(
        norm ** step_moments.POWER[noise]
    )


def test_outside_the_range_of_the_kernels_mixing_is_not_credited():
    hostile = run(noise_multiplier=1e-4, mixing=5.0)
    assert step_shape(hostile) == StepShape("gaussian", 1e4, 0.0, 1.0)
    assert step_log_moment(hostile, 2) == step_log_moment(replace(hostile, mixing=0.0), 2)


def test_small_noise_fractional_orders_are_bounded_by_convexity():
    settings = run(noise_multiplier=0.04)
    exact = gaussian.subsampled_log_moment(1.1, 0.04, 0.02)
    assert exact <= step_log_moment(settings, 1.1) <= exact + log(1 / 0.02)


def test_overflow_is_infinite_not_nan():
    for hostile in (run(noise_multiplier=1e-200), run(noise_multiplier=1e-200, mixing=1.0)):
        for order in (1.5, 2, 7.3, 100):
            assert step_log_moment(hostile, order) == inf
    assert step_log_moment(run(noise_multiplier=1e-200, noise="laplace"), 2.0) == pytest.approx(
        1e200
    )


def test_worst_shift_check_raises_when_spreading_out_is_worse(resnet, monkeypatch):
    check_worst_shift(resnet, 4)
    monkeypatch.setitem(
        step_moments.MOMENT_KERNELS, "gaussian", lambda orders, shift, width: orders * shift**1.9
    )
    with pytest.raises(BoundError, match="costs more"):
        check_worst_shift(resnet, 4)


def test_fisher_information():
    """I V against a table made independently, and L I(L) -> 1.806394571."""
    cases = json.loads((ROOT / "tests" / "reference" / "published_cases.json").read_text())["cases"]
    known = next(case for case in cases if case["id"] == "noise_constants")
    curve = known["uniform_conv_gaussian_I_times_V"]
    for width, times_variance in zip(curve["L_over_sigma"], curve["IV"], strict=True):
        found = fisher_information(run(mixing=width)) * (1 + width**2 / 12)
        assert found == pytest.approx(times_variance, abs=1.1e-4)
    assert fisher_information(run(mixing=1e5)) * 1e5 == pytest.approx(
        2 * known["kappa_int_phi2_over_Phi"], rel=1e-7
    )
    assert fisher_information(run(mixing=0.0)) == 1.0


def test_mixing_is_post_processing_at_every_order():
    """(M) with L = 0: a little mixing never costs more than none, also at fractional orders."""
    for order in (1.01, 1.5, 1.99, 2.5, 12.9, 80.3):
        plain = step_log_moment(run(), order)
        for mixing in (1e-12, 1e-3, 0.3, 2.0):
            assert step_log_moment(run(mixing=mixing), order) <= plain * (1 + 1e-10)


def test_laplace_without_mixing_is_mironovs_formula():
    a, v = 3.0, 1 / 0.7
    exact = log((a * exp((a - 1) * v) + (a - 1) * exp(-a * v)) / (2 * a - 1))
    assert step_log_moment(
        run(sample_rate=1.0, noise_multiplier=0.7, noise="laplace"), a
    ) == pytest.approx(exact, rel=1e-10)
