"""Error terms that were once too small, and bounds that fell on the wrong side: none may come back."""

import itertools
from fractions import Fraction
from math import exp, inf

import mpmath
import numpy as np
import pytest
from scipy.stats import binom, norm

import mmaccount as mm
from mmaccount.accounting import mixing_envelope as envelopes
from mmaccount.accounting import mixing_bounds, mixing_tight, plain_fourier, plain_steps, pld
from mmaccount.accounting.pld import Atoms, GridPld
from mmaccount.accounting.step_moments import StepShape, step_shape
from mmaccount.kernels import complex_moments, loss, smooth_density
from mmaccount.kernels.pld import coordinate_cells
from mmaccount.kernels.complex_moments import lines_of_moments_of_law


@pytest.mark.parametrize(
    ("q", "z", "t", "y"),
    [(1 - 1e-9, 1.0, 0.5, 6.3), (1 - 1e-12, 1.0, 1.0, 7.0), (0.3, 0.5, 1e-3, 0.01)],
)
def test_small_moments_keep_their_error(q, z, t, y):
    """|E[r^k]| of 1e-9 came out wrong by its own size, through |E|^2 - 1; and k near 1 makes the
    two terms cancel."""
    nodes = loss.subsampled_nodes(z, q, 1.0 + t, y, 1e3)
    real, imag, error = loss.log_mgf(1.0 + t, np.array([y]), *nodes)
    with mpmath.workdps(40):
        k, rate, shift, step = (
            mpmath.mpc(1 + t, y),
            mpmath.mpf(q),
            1 / mpmath.mpf(z),
            mpmath.mpf(min(1.0, z)) / 10,
        )
        points = (step * j for j in range(int(-15 / step), int((15 + 2 / z) / step)))
        exact = step * mpmath.fsum(
            mpmath.npdf(x) * (1 - rate + rate * mpmath.exp(shift * (x - shift / 2))) ** k
            for x in points
        )
        off = abs(mpmath.exp(mpmath.mpc(float(real[0]), float(imag[0]))) - exact)
    assert off <= float(error[0])


@pytest.mark.parametrize(
    ("q", "z", "order"),
    [(0.01, 1.0, 3.9), (0.3, 0.2, 1.05), (1e-6, 2.0, 40.0), (0.9, 0.5, -6.0), (0.01, 5.0, -900.0)],
)
def test_uniform_parts_fit_under_the_density_of_the_loss(q, z, order):
    """Also between nodes, where it had been taken to be at least 0.9 of what it is at them."""
    law = plain_steps.steps_of(mm.Settings(sample_rate=q, steps=1, noise_multiplier=z), 1e-12)
    start, step, count = loss.subsampled_grid(z, q, order, 0.0, 1e3)
    nodes = loss.subsampled_nodes(z, q, order, 0.0, 1e3)
    total = np.sum(np.exp(nodes[1] + order * nodes[0]))
    x = start + step / 16 * np.arange(16 * int(count) + 1)
    within = q * np.exp((x - 0.5 / z) / z)
    slope = within / (1 - q + within) / z
    density = norm.pdf(x) * (1 - q + within) ** order / total / slope
    for cells, (weights, widths) in zip(
        plain_fourier.CELL_COUNTS, plain_fourier._uniform_parts(nodes, order, step / z), strict=True
    ):
        edges = 16 * np.linspace(0, int(count), cells + 1).astype(int)
        lowest = [np.min(density[i : j + 1]) for i, j in itertools.pairwise(edges)]
        assert np.all(weights <= np.array(lowest) * widths)
        assert np.sum(weights) > (0.2 if cells == 96 else 0.0)
    assert law.turn(order) > 0.0


def test_masses_of_cells_far_out():
    """Three nodes a cell lost 1e-11 of the mass at 8 standard deviations, more than MASS_ERROR."""
    low, _, without, moved, _ = coordinate_cells(2.0, 0.0, mixing_bounds.CELL_WIDTH)
    for at in (0.0, 4.0, 8.0, 12.0):
        i = int(np.searchsorted(low, 2.0 * (at - 1.0)))
        with mpmath.workdps(40):
            left, right = (float(x) / 2 + mpmath.mpf(1) for x in (low[i], low[i + 1]))
            exact = [mpmath.ncdf(m - left) - mpmath.ncdf(m - right) for m in (0, 2)]
        assert without[i] == pytest.approx(
            float(exact[0]), rel=4e-14, abs=0
        )  # of which 3e-14 are the ends of the cell
        assert moved[i] == pytest.approx(float(exact[1]), rel=4e-14, abs=0)


@pytest.mark.parametrize("size", [64, 81, 125, 240, 1000])
def test_transforms_err_by_less_than_is_granted(size):
    """Against sums in extended precision: both ways, in norm and at each frequency."""
    masses = np.random.default_rng(size).pareto(1.0, size)
    angle = 2 * np.arctan2(np.longdouble(0), np.longdouble(-1)) * np.arange(size) / size
    turns = np.cos(angle) - 1j * np.sin(angle)
    exact = np.array(
        [np.sum(masses * turns[k * np.arange(size) % size]) for k in range(size // 2 + 1)]
    )
    found, granted = np.fft.rfft(masses), pld.FFT_ERROR * np.log2(size)
    assert np.max(np.abs(found - exact)) < granted * np.sum(masses)
    assert np.linalg.norm((found - exact).astype(complex)) < granted * size**0.5 * np.linalg.norm(
        masses
    )
    assert np.linalg.norm(np.fft.irfft(found, size) - masses) < 2 * granted * np.linalg.norm(masses)


@pytest.mark.parametrize("rare", [0.5, 1e-3, 1e-9])
def test_a_composed_grid_knows_its_own_error(rare):
    """Also where the transform stays near 1 at every frequency, as most of the mass is an atom."""
    steps, spacing = 10_000_000, 1e-3
    coin = GridPld(0.0, spacing, np.array([1.0 - rare, rare]))
    made = pld.compose([(coin, steps)], -1.0)
    count = np.rint(made.losses / spacing).astype(int)
    off = np.abs(made.masses - binom.pmf(count, steps, rare))
    assert np.max(off) <= made.error.largest
    assert np.sum(off**2) ** 0.5 <= made.error.norm


def test_losses_of_many_steps_are_exact():
    """start * steps was rounded at the size of the sum, not of the losses that are left."""
    start, spacing, steps = -1.1, 2.0**-10, 999_999
    first, losses = pld._points([(GridPld(start, spacing, np.ones(3)), steps)], -1.0, 1.0)
    exact = steps * Fraction(start) + (first + 7) * Fraction(spacing)
    assert abs(losses[7] - exact) < 1e-15


def test_mass_without_a_loss_is_not_forgotten_where_epsilon_is_0():
    """The Renyi start of the search does not see an infinite loss; at delta 0.1 it said 0."""
    pair = Atoms(np.array([0.0]), np.array([0.8]), 0.2)
    assert mixing_bounds.OneSidedPld([(pair, 1.0, 1)], remove=True, upper=True).epsilon(0.1) == inf


def test_huge_truncation_does_not_underflow():
    """(1/z)^2 is left however small the shift of one coordinate."""
    assert (
        step_shape(
            mm.Settings(sample_rate=1.0, steps=1, noise_multiplier=1e20, truncation=1e308)
        ).copies
        > 0.0
    )


@pytest.mark.parametrize("case", [(0.3, 33.6, 100.0), (0.545, 10.2, 25.0), (1.0, 3.0, 10.0)])
def test_both_directions_of_the_envelope_are_the_same(case):
    """Slopes near x = 0 are rounding: adding a record once came out 3e-2 too large, and 0 where it
    is 1e-20."""
    pair = envelopes.envelope(StepShape("gaussian", *case))
    assert np.sum(pair.masses) + pair.absent == pytest.approx(1.0, rel=1e-13)
    for epsilon in (0.0, 1.0, 5.0, 12.0):
        remove = (
            np.sum(pair.masses * np.maximum(0.0, np.exp(pair.losses) - exp(epsilon)))
            + pair.infinite
        )
        add = (
            np.sum(pair.masses * np.maximum(0.0, 1.0 - np.exp(pair.losses + epsilon))) + pair.absent
        )
        assert add == pytest.approx(remove, rel=1e-10)


def test_no_frequency_is_compared_too_far(monkeypatch):
    """e^|A| - 1 - |A| was cut off at |A| = 50 and used beyond. Where the comparison ends must not
    lower the envelope."""
    shift, width, copies = 0.4, 20.0, 30.0
    epsilons = np.linspace(0.0, 6.0, 40)
    (terms,) = envelopes.inversion_terms(
        StepShape("gaussian", shift, width, copies), (1.0,), 0.07, 25.0
    )
    far = envelopes._bound(terms, copies * shift**2, epsilons)
    monkeypatch.setattr(envelopes, "LARGEST_EXPANSION", 5.0)
    near = envelopes._bound(terms, copies * shift**2, epsilons)
    assert np.all(near >= far * (1 - 1e-12))


def test_moments_at_high_frequencies_keep_their_error():
    """Errors of log r count |w| times: 1e-14 was granted at every frequency, and mixing by other
    laws went beyond."""
    shift, width, tilt, spacing, count = 0.1, 4.0, 2.0, 200.0, 4
    law = smooth_density.named("raised-cosine", width)
    made, real = lines_of_moments_of_law(np.array([shift]), law, np.array([tilt]), spacing, count)
    points, weights = complex_moments._trapezoid(
        -width - 12.0, 4.0 * shift + 12.0, complex_moments._step(shift, spacing * count)
    )
    w = mpmath.mpc(1.0 + tilt, spacing * (count - 1))

    def normal(z):
        return mpmath.erfc(-z / mpmath.sqrt(2)) / 2

    def p(x):  # (1 + cos(turn u)) / width, smoothed
        x, turn = abs(x + width / 2), 2 * mpmath.pi / width
        wave = normal(mpmath.mpc(width / 2 - x, -turn)) - normal(mpmath.mpc(-width / 2 - x, -turn))
        wave *= mpmath.exp(mpmath.mpc(-turn * turn / 2, turn * x))
        return (normal(width / 2 - x) - normal(-width / 2 - x) + wave.real) / width

    with mpmath.workdps(30):
        total = mpmath.mpc(0)
        for x, weight in zip(points.tolist(), weights.tolist(), strict=True):
            here, ratio = p(mpmath.mpf(x)), p(mpmath.mpf(x) - shift)
            ratio /= here
            total += weight * here * (mpmath.exp(w * mpmath.log(ratio)) - 1 - w * (ratio - 1))
        off = abs(complex(total - mpmath.mpc(complex(made[0, 0, -1]))))
    assert off <= envelopes.COMPLEX_MOMENT_ERROR * abs(w) * real[0, 0, 0]


def test_the_bound_next_to_the_sparse_shift_covers_a_function_that_dips():
    """Between the last two grid shifts a negative value at the first one was taken off in full from
    what is missed."""
    step = StepShape("gaussian", 0.4, 20.0, 30.0)
    (terms,) = envelopes.inversion_terms(step, (1.0,), 0.07, 25.0)
    v = np.sqrt(terms.parts)  # s = 1
    last, bend = v[-2], 3.0
    missed = np.zeros((1, v.size - 1))
    missed[0, -1] = (1.0 - last) ** 2 * bend / (8.0 * last**2)
    values = np.full((1, v.size), -1.0)
    values[0, -2:] = -3.9 * missed[0, -1], 0.0
    between = np.linspace(last, 1.0, 10_001)[:-1]
    function = values[0, -2] * last**2 * (1.0 - between) / (1.0 - last)
    function += bend * (between - last) * (1.0 - between) / 2.0
    function /= between**2 * (1.0 - between**2)
    (bound,) = mixing_tight._per_distance(terms, values, missed, np.zeros(1))
    assert 0.0 < np.max(function) <= bound


@pytest.mark.parametrize("part", [0.999, 0.98, 0.95])
def test_a_pair_that_is_too_small_is_not_accepted(part):
    epsilons, deviation = np.arange(41) * 0.05, 0.05
    values = norm.cdf(0.25 - 2 * epsilons) - np.exp(epsilons) * norm.cdf(-0.25 - 2 * epsilons)
    spacing = -np.log1p(-0.1) / 32
    cell, pair = (
        mixing_tight._law(epsilons, np.where(values < 1e-4, 1.0, share) * values, 0.1, spacing)
        for share in (1.0, part)
    )
    beside = mixing_tight._auxiliary(4.0 * deviation, 5.0, spacing)
    assert mixing_tight._dominated(cell, cell, beside)
    assert mixing_tight._dominated(pair, cell, beside)
    assert not mixing_tight._dominated(cell, pair, beside)
    lighter = cell._replace(masses=cell.masses * (1.0 - 1e-9))
    assert not mixing_tight._dominated(cell, lighter, beside)
    assert not mixing_tight._dominated(cell._replace(infinite=2.0 * cell.infinite), cell, beside)
