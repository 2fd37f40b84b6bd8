"""Kernels against tables of 30 digits made from the definitions (tests/reference), and against
mpmath."""

from itertools import pairwise
from math import inf, log

import mpmath
import numba
import numpy as np
import pytest
from conftest import table

from mmaccount.kernels import before_compiling, gaussian, laplace, logspace, subsampling

# what the kernels are trusted to; MOMENT_ERROR, STEP_ERROR of step_moments.py rest on it
ACCURATE = 1e-12


def relative(value: float, exact: str) -> float:
    """Relative error, computed at 40 digits so that neither side is rounded."""
    with mpmath.workdps(40):
        return float(mpmath.mpf(value) / mpmath.mpf(exact) - 1)


def name(row: dict) -> str:
    return " ".join(f"{key}={row[key]}" for key in ("q", "z", "alpha", "k", "v", "L") if key in row)


def test_the_step_of_the_highest_order_is_the_finest():
    orders = 1.0 + np.geomspace(1e-3, 1e6, 500)
    assert all(
        after < before for before, after in pairwise(gaussian._step(order, 1.0) for order in orders)
    )


def among_others(k: float, v: float, width: float) -> float:
    """h_k, computed together with orders below and above it: by the recurrence from k - 1 where
    that is an order."""
    orders = np.array([order for order in (0.7 * k, k - 1.0, k, 1.3 * k) if order > 1.0])
    return gaussian.log_moments(orders, v, width)[list(orders).index(k)]


@pytest.mark.parametrize("row", table("ball_moments"), ids=name)
def test_gaussian_moments_in_ball_arithmetic(row):
    k, v, width = (float(row[key]) for key in ("k", "v", "L"))
    assert abs(relative(gaussian.log_moments(np.array([k]), v, width)[0], row["h"])) < ACCURATE
    assert abs(relative(among_others(k, v, width), row["h"])) < ACCURATE


@pytest.mark.parametrize("row", table("mixing"), ids=name)
def test_gaussian_moments(row):
    k, v, width = (float(row[key]) for key in ("k", "v", "L"))
    assert abs(relative(gaussian.log_moments(np.array([k]), v, width)[0], row["h"])) < ACCURATE
    assert abs(relative(among_others(k, v, width), row["h"])) < ACCURATE


@pytest.mark.parametrize("row", table("laplace"), ids=name)
def test_laplace_moments(row):
    value = laplace.log_moments(np.array([float(row["k"])]), float(row["v"]), float(row["L"]))[0]
    assert abs(relative(value, row["h"])) < ACCURATE


@pytest.mark.parametrize("row", table("subsampled_mixing"), ids=name)
def test_subsampled_one_coordinate(row):
    q, v, width, order = (float(row[key]) for key in ("q", "v", "L", "alpha"))
    assert (
        abs(relative(gaussian.mixed_log_moment(order, v, width, q), row["log_moment"])) < ACCURATE
    )
    if order.is_integer() and q < 1:
        moments = np.array([0.0, 0.0, *gaussian.log_moments(np.arange(2.0, order + 1), v, width)])
        assert (
            abs(
                relative(
                    subsampling.subsampled_log_moment(int(order), q, moments), row["log_moment"]
                )
            )
            < ACCURATE
        )


@pytest.mark.parametrize(
    "row", [row for row in table("subsampled_gaussian") if row["q"] != "1"], ids=name
)
def test_subsampled_gaussian(row):
    q, z, order = float(row["q"]), float(row["z"]), float(row["alpha"])
    assert abs(relative(gaussian.subsampled_log_moment(order, z, q), row["log_moment"])) < ACCURATE
    if order.is_integer():
        k = np.arange(order + 1)
        value = subsampling.subsampled_log_moment(int(order), q, k * (k - 1) / (2 * z * z))
        assert abs(relative(value, row["log_moment"])) < ACCURATE


@pytest.mark.parametrize("x", [-5.0, -1.0, -1e-9, 0.0, 0.3, 3.999, 4.0, 7.5, 30.0, 1e3, 1e6])
def test_erfcx(x):
    with mpmath.workdps(40):
        big = mpmath.mpf(x)
        exact = (
            mpmath.exp(big * big) * mpmath.erfc(big)
            if x < 100
            else 1 / (big * mpmath.sqrt(mpmath.pi))
        )
        error = float(mpmath.mpf(logspace.erfcx(x)) / exact - 1)
    assert abs(error) < (1e-14 if x < 100 else 1 / x**2)


@pytest.mark.parametrize("order", [1.001, 1.5, 2.0, 30.0, 1e4])
@pytest.mark.parametrize("log_r", [-50.0, -0.3, -1e-4, -1e-12, 1e-12, 1e-4, 0.2, 3.0, 80.0])
def test_log_excess(order, log_r):
    with mpmath.workdps(80):
        r = mpmath.exp(mpmath.mpf(log_r))
        exact = float(mpmath.log(r ** mpmath.mpf(order) - 1 - mpmath.mpf(order) * (r - 1)))
    assert logspace.log_excess(order, log_r) == pytest.approx(
        exact, rel=1e-14, abs=1e-15 / (order - 1) + 1e-14
    )


def test_log_excess_at_ratio_one_adds_nothing():
    assert logspace.log_excess(2.0, 0.0) == -inf
    assert logspace.scaled_add(-inf, 0.0, -inf, 1.0) == (-inf, 0.0)


@pytest.mark.parametrize("noise", [gaussian, laplace])
def test_small_width_meets_plain_noise(noise):
    orders, shift = np.array([1.5, 2.0, 20.0]), 0.4
    plain = noise.log_moments(orders, shift, 0.0)
    for width in (1e-8, 1e-5, 1e-2):
        mixed = noise.log_moments(orders, shift, width)
        assert np.all(mixed <= plain * (1 + ACCURATE))
        assert np.all(mixed >= plain * (1 - width - ACCURATE))


@pytest.mark.parametrize("noise", [gaussian, laplace])
def test_wide_limit_scales_as_one_over_width(noise):
    orders = np.array([1.5, 2.0, 5.0])
    wide = [noise.log_moments(orders, 0.3, width) * width for width in (1e4, 1e6, 1e9)]
    for narrow, wider in pairwise(wide):
        assert narrow == pytest.approx(wider, rel=1e-3)


@pytest.mark.parametrize("noise", [gaussian, laplace])
@pytest.mark.parametrize("width", [0.0, 0.3, 3.0, 33.58, 1e6])
def test_moments_are_convex_in_order(noise, width):
    orders = np.array([1.1, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0, 64.0])
    values = noise.log_moments(orders, 0.5, width)
    slopes = np.diff(np.concatenate([[0.0], values])) / np.diff(np.concatenate([[1.0], orders]))
    assert np.all(np.diff(slopes) > 0)


def test_log_of_binomial_coefficients_at_high_order():
    order, q = 20_000, 0.3
    level = 0.7
    flat = np.full(order + 1, level)
    flat[:2] = 0.0
    with mpmath.workdps(40):
        p, n = mpmath.mpf(q), mpmath.mpf(order)
        head = (1 - p) ** n + n * p * (1 - p) ** (n - 1)
        exact = mpmath.log(head + (1 - head) * mpmath.exp(mpmath.mpf(level)))
    assert subsampling.subsampled_log_moment(order, q, flat) == pytest.approx(
        float(exact), rel=1e-9
    )
    assert log(2.0) == pytest.approx(logspace.softplus(0.0))


def test_compiling_is_announced_once_and_before_it_starts():
    told = []
    before_compiling(lambda: told.append(len(compiled)))
    compiled = []
    for power in (2, 3):
        compiled.append(numba.njit(lambda x, power=power: x**power)(2.0))
    assert told == [0]
    assert compiled == [4.0, 8.0]
