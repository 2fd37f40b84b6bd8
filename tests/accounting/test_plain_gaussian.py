"""Certified bounds of plain DP-SGD: against closed forms, brute force at few steps, and the
peers."""

import itertools
from math import exp, inf, log, log1p

import mpmath
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

import mmaccount as mm
from mmaccount import Settings
from mmaccount.accounting import plain_fourier
from mmaccount.accounting.plain_fourier import LossTransform
from mmaccount.accounting.plain_steps import GaussianSteps, steps_of
from mmaccount.kernels import loss


def run(q, z, steps):
    return Settings(sample_rate=q, noise_multiplier=z, steps=steps)


def one_step(q: float, z: float, epsilon: float, *, remove: bool) -> float:
    """delta of one subsampled Gaussian step, exactly. Loss of removal: log(1 - q + q e^{v x -
    v^2/2}), increasing in x."""
    v = 1 / z
    lowest = log1p(-q)
    if remove:
        if epsilon <= lowest:
            return 1 - exp(epsilon)
        x = (log((exp(epsilon) - 1 + q) / q) + v * v / 2) / v
        return (1 - q) * ndtr(-x) + q * ndtr(v - x) - exp(epsilon) * ndtr(-x)
    if epsilon >= -lowest:
        return 0.0
    x = (log((exp(-epsilon) - 1 + q) / q) + v * v / 2) / v
    return ndtr(x) - exp(epsilon) * ((1 - q) * ndtr(x) + q * ndtr(x - v))


def two_steps(q: float, z: float, epsilon: float, *, remove: bool) -> float:
    """delta of two steps: the mean over the first step's loss of delta of the second at what is
    left."""
    v = 1 / z

    def integrand(x):
        ratio = 1 - q + q * exp(v * x - v * v / 2)
        density = exp(-x * x / 2) / (2 * np.pi) ** 0.5
        if remove:
            return density * ratio * one_step(q, z, epsilon - log(ratio), remove=True)
        return density * one_step(q, z, epsilon + log(ratio), remove=False)

    return quad(integrand, -12, 12 + v, limit=400, epsabs=1e-13, epsrel=1e-11)[0]


def truth(q, z, steps, epsilon):
    exact = one_step if steps == 1 else two_steps
    return max(exact(q, z, epsilon, remove=True), exact(q, z, epsilon, remove=False))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("q", "z"), [(0.5, 1.0), (0.1, 0.7), (0.9, 2.0), (0.02, 0.5), (0.3, 5.0)])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.7, 2.0])
def test_delta_of_few_steps_lies_inside(q, z, steps, epsilon):
    """Few steps are the hard case: the characteristic function hardly decays, the bounds rest on
    its error terms."""
    exact = truth(q, z, steps, epsilon)
    bound = mm.delta(run(q, z, steps), epsilon=epsilon)
    assert bound.lower * (1 - 1e-9) - 1e-13 <= exact <= bound.upper * (1 + 1e-9) + 1e-13


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("q", "z"), [(0.3, 0.05), (0.01, 0.08), (1e-4, 0.05), (0.9, 0.05), (0.5, 0.15), (0.5, 0.3)]
)
@pytest.mark.parametrize("epsilon", [0.0, 0.001, 0.05, 0.3])
@pytest.mark.parametrize("remove", [True, False])
def test_each_direction_by_itself_at_small_noise(q, z, steps, epsilon, remove):
    """The two directions are bounded separately; taking the larger would hide a wrong smaller one."""
    exact = (one_step if steps == 1 else two_steps)(q, z, epsilon, remove=remove)
    side = LossTransform([steps_of(run(q, z, steps), 1e-12)], remove=remove)
    for t in (0.1, 1.0):
        inversion = side.inversion(t, epsilon)
        if inversion is not None:
            bound = inversion.delta(epsilon)
            assert bound.lower * (1 - 1e-9) - 1e-10 <= exact <= bound.upper * (1 + 1e-9) + 1e-10


@pytest.mark.parametrize("k", [-0.5, -3.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("q", "z"), [(0.5, 0.05), (0.5, 0.1), (0.01, 0.2), (0.9, 0.5), (0.3, 3.0)])
def test_moments_in_their_stated_error(q, z, k):
    """E[r^k] with nothing left out, against a fine trapezoid sum at 40 digits that reaches past
    every peak."""
    everything = 1e3
    real, imag, error = loss.log_mgf(
        k, np.zeros(1), *loss.subsampled_nodes(z, q, k, 0.0, everything)
    )
    with mpmath.workdps(40):
        rate, shift, power, step = (
            mpmath.mpf(q),
            1 / mpmath.mpf(z),
            mpmath.mpf(k),
            mpmath.mpf(min(1.0, z)) / 4,
        )
        points = (step * j for j in range(int(-16 / step), int((16 + max(1.0, k) / z) / step)))
        exact = step * mpmath.fsum(
            mpmath.npdf(x) * (1 - rate + rate * mpmath.exp(shift * (x - shift / 2))) ** power
            for x in points
        )
        assert imag[0] == 0.0
        off = abs(mpmath.exp(mpmath.mpf(float(real[0]))) - exact)
        assert off <= float(error[0]) + 2e-16 * abs(float(real[0])) * exact


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(("q", "z"), [(0.5, 1.0), (0.1, 0.7), (0.02, 0.5)])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-9])
def test_epsilon_of_few_steps_lies_inside(q, z, steps, delta):
    bound = mm.epsilon(run(q, z, steps), delta=delta)
    assert truth(q, z, steps, bound.upper) <= delta * (1 + 1e-7)
    if bound.lower > 0:
        assert truth(q, z, steps, bound.lower * (1 - 1e-9)) >= delta * (1 - 1e-7)


GDP_ONE = [(1e-5, 4.377178), (1e-10, 6.54792), (1e-12, 7.2385), (1e-14, 7.869)]


@pytest.mark.parametrize(("delta", "epsilon"), GDP_ONE)
@pytest.mark.parametrize("steps", [1, 100, 10_000, 1_000_000])
def test_gaussian_mechanism_in_many_pieces(delta, epsilon, steps):
    """mu = 1 however it is cut into steps; every peer's "upper" falls below at delta 1e-12, or
    refuses."""
    bound = mm.epsilon(run(1.0, steps**0.5, steps), delta=delta)
    assert bound.lower <= bound.upper <= bound.lower * (1 + 1e-6)
    assert bound.upper == pytest.approx(epsilon, abs=3e-4 if delta < 1e-6 else 1e-6)
    with mpmath.workdps(50):
        mu = mpmath.sqrt(steps) / mpmath.mpf(steps**0.5)
        for side, sign in ((bound.lower, -1), (bound.upper, 1)):
            e = mpmath.mpf(side)
            exact = mpmath.ncdf(mu / 2 - e / mu) - mpmath.exp(e) * mpmath.ncdf(-mu / 2 - e / mu)
            assert sign * (delta - exact) >= 0


@pytest.mark.parametrize(
    ("mu", "epsilon"), list(itertools.product([0.1, 1.0, 5.0], [0.0, 0.5, 3.0, 20.0]))
)
def test_delta_of_the_gaussian_mechanism(mu, epsilon):
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        exact = mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)
        bound = mm.delta(run(1.0, 10 / mu, 100), epsilon=epsilon)
        assert mpmath.mpf(bound.lower) <= exact <= mpmath.mpf(bound.upper)
        if exact > 1e-300:
            assert bound.upper - bound.lower <= 1e-4 * float(exact)


TRUTHS = [  # q, z, steps, delta, what independent privacy-loss accountants agree on, to how much
    (0.01, 1.0, 10_000, 1e-5, 6.18771, 1e-5),
    (0.03, 0.335, 3400, 1e-5, 277.2843, 2e-4),
    (0.02, 0.36694, 5000, 1e-5, 177.4678, 2e-4),
    (0.001, 0.8, 20_000, 1e-6, 1.28592, 1e-5),
    (4e-3, 0.6, 1_000_000, 1e-5, 168.4666, 5e-4),
    (1e-4, 2.0, 1_000_000, 1e-6, 0.2028, 6e-4),
]


@pytest.mark.parametrize(("q", "z", "steps", "delta", "epsilon", "digits"), TRUTHS)
def test_common_runs(q, z, steps, delta, epsilon, digits):
    bound = mm.epsilon(run(q, z, steps), delta=delta)
    assert bound.upper == pytest.approx(epsilon, abs=digits)
    assert 0 <= bound.upper - bound.lower <= 1e-3 * bound.upper
    assert bound.attack is not None


def test_tiny_rate_many_steps():
    """q 1e-6, z 1, T 1e6, delta 1e-6: dp_accounting's default grid is 8.6 times too large; here at
    most 5 % wide."""
    bound = mm.epsilon(run(1e-6, 1.0, 1_000_000), delta=1e-6)
    assert 0.0034 < bound.lower <= bound.upper < 0.0039
    assert bound.upper <= 1.05 * bound.lower


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta"),
    [(0.01, 1.0, 1000, 1e-5), (0.05, 2.0, 500, 1e-6), (0.004, 0.7, 11250, 1e-5)],
)
def test_dp_accounting_is_on_both_sides(q, z, steps, delta):
    from dp_accounting.pld import privacy_loss_distribution as pld

    ours = mm.epsilon(run(q, z, steps), delta=delta)
    grid = {"value_discretization_interval": 1e-4}
    above = (
        pld.from_gaussian_mechanism(z, sampling_prob=q, **grid)
        .self_compose(steps)
        .get_epsilon_for_delta(delta)
    )
    optimistic = pld.from_gaussian_mechanism(z, sampling_prob=q, pessimistic_estimate=False, **grid)
    below = optimistic.self_compose(steps).get_epsilon_for_delta(delta)
    assert below <= ours.lower * (1 + 1e-6)
    assert ours.lower <= above
    assert ours.upper <= above * (1 + 1e-6)


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta"), [(0.01, 1.0, 1000, 1e-5), (0.04, 1.5, 2249, 1e-5)]
)
def test_opacus_prv_bounds_overlap(q, z, steps, delta):
    from opacus.accountants import PRVAccountant

    peer = PRVAccountant()
    peer.history = [(z, q, steps)]
    upper = peer.get_epsilon(delta, eps_error=0.01)
    ours = mm.epsilon(run(q, z, steps), delta=delta)
    assert upper - 0.0202 <= ours.lower <= ours.upper <= upper


def test_phases_compose_and_commute():
    phases = [run(0.01, 1.0, 1000), run(0.05, 2.0, 300), run(1.0, 20.0, 10)]
    bounds = [mm.epsilon(order, delta=1e-6) for order in itertools.permutations(phases)]
    assert all(bound.upper == pytest.approx(bounds[0].upper, rel=1e-6) for bound in bounds)
    assert bounds[0].upper <= bounds[0].lower * 1.001
    halves = [run(0.01, 1.0, 500), run(0.01, 1.0, 500)]
    assert mm.epsilon(halves, delta=1e-6).upper == pytest.approx(
        mm.epsilon(phases[0], delta=1e-6).upper, rel=1e-6
    )


def test_delta_and_epsilon_are_inverse_across_the_profile():
    base = run(0.01, 1.0, 10_000)
    for delta in (0.1, 1e-3, 1e-8, 1e-12, 1e-30, 1e-100):
        bound = mm.epsilon(base, delta=delta)
        assert bound.upper - bound.lower <= 1e-3 * bound.upper
        assert mm.delta(base, epsilon=bound.upper).lower <= delta * 1.001
        assert mm.delta(base, epsilon=bound.lower).upper >= delta * 0.999


def test_aliases_are_what_the_poisson_sum_says():
    """On a line with a spacing far too coarse the rule returns the sum of the aliases, all of them
    bounded."""
    side = LossTransform([GaussianSteps(1.0)], remove=True)
    inversion = side.inversion(1.0, 0.5)
    exact = ndtr(0.5 - 0.5) - exp(0.5) * ndtr(-0.5 - 0.5)
    assert inversion.delta(0.5).lower <= exact <= inversion.delta(0.5).upper
    from dataclasses import replace

    period, count = 4.0, 12
    frequencies = 2 * np.pi / period * np.arange(count)
    z = 1.0 + 1j * frequencies
    moments = 0.5 * z * (1 + z) - np.log(z * (1 + z))
    coarse = replace(
        inversion,
        rule=replace(inversion.rule, period=period, count=count, log_left_out=-inf),
        frequencies=frequencies,
        log_size=moments.real,
        log_high=moments.real,
        phase=moments.imag,
    )
    shifted = [0.5 + k * period for k in range(-8, 9)]
    poisson = sum(
        exp(k * period) * (ndtr(0.5 - e) - exp(e) * ndtr(-0.5 - e))
        for k, e in zip(range(-8, 9), shifted, strict=True)
    )
    assert coarse.delta(0.5).upper == pytest.approx(poisson, rel=1e-9)
    assert coarse.delta(0.5).lower <= exact < coarse.delta(0.5).upper


@pytest.mark.parametrize(("q", "z"), [(0.01, 1.0), (0.3, 0.5), (1e-4, 2.0), (0.9, 0.3)])
@pytest.mark.parametrize("remove", [True, False])
def test_the_characteristic_function_stays_below_its_bound(q, z, remove):
    side = LossTransform([steps_of(run(q, z, 1), 1e-12)], remove=remove)
    for t in (0.2, 2.0, 8.0):
        cut = side.frequency_cut(t)
        real = side.log_moment(t)
        for y in np.geomspace(0.1, 300, 25):
            order = side.order(t)
            nodes = side.laws[0].nodes(order, 3 * y)
            there = np.array([y, 1.1 * y, 1.7 * y, 3 * y])
            size = loss.log_mgf(order, there, *nodes)[0]
            assert np.all(size - real <= cut(y) + 1e-9)


def test_sinc_loss():
    u = np.linspace(1e-3, 80, 400_001)
    actual = np.maximum.accumulate(np.abs(np.sin(u) / u)[::-1])[::-1]
    assert np.all(plain_fourier._sinc_loss(u) <= 1.0 - actual + 1e-12)


@pytest.mark.parametrize("q", [1e-9, 1e-3, 1.0])
@pytest.mark.parametrize("z", [0.05, 1.0, 1e4])
@pytest.mark.parametrize("steps", [1, 10**7])
@pytest.mark.parametrize("delta", [0.5, 1e-12])
def test_hostile_runs_are_sound_and_silent(q, z, steps, delta):
    bound = mm.epsilon(run(q, z, steps), delta=delta)
    assert 0 <= bound.lower <= bound.upper < inf
    assert bound.upper <= mm.epsilon(run(q, z, steps), delta=delta, conversion="improved").upper
