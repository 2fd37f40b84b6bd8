"""Grids of losses, attacks on mixing, and the envelope of all shifts."""

from dataclasses import replace
from math import exp, sqrt

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve
from scipy.stats import norm

import mmaccount as mm
from mmaccount.accounting import mixing_bounds, mixing_tight
from mmaccount.accounting.mixing_envelope import COMPLEX_MOMENT_ERROR, envelope
from mmaccount.accounting.pld import Atoms, GridPld, lowered, merge, power, split, subsampled
from mmaccount.accounting.step_moments import StepShape
from mmaccount.kernels.gaussian import log_moments
from mmaccount.kernels.complex_moments import lines_of_moments

PAPER = mm.Settings(
    sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100
)


def profile(pair, x):
    over = np.exp(pair.losses)[:, None] - np.atleast_1d(x)
    return np.sum(pair.masses[:, None] * np.maximum(0.0, over), axis=0) + pair.infinite


# ---------------------------------------------------------------------------------------- grids


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(1e-9, 1)), min_size=1, max_size=30),
    st.floats(0.01, 1.5),
)
def test_splitting_is_above_and_merging_below(atoms, spacing):
    losses, masses = (np.array(column) for column in zip(*atoms))
    pair = Atoms(losses, masses)
    x = np.exp(np.linspace(-4, 4, 200))
    above, below = profile(split(pair, spacing), x), profile(merge(pair, spacing), x)
    true = profile(pair, x)
    rounding = 1e-12 * np.sum(masses * np.exp(losses))
    assert np.all(above >= true - rounding)
    assert np.all(below <= true + rounding)


def test_merging_keeps_both_masses_and_errs_by_the_square_of_the_spacing():
    losses = np.linspace(-4, 4, 40_001)
    masses = norm.pdf(losses, -0.5, 1.0) * (losses[1] - losses[0])
    pair = Atoms(losses, masses)
    gaps = []
    for spacing in (0.2, 0.1):
        lower, upper = merge(pair, spacing), split(pair, spacing)
        for law in (lower, upper):
            assert np.sum(law.masses) == pytest.approx(np.sum(masses), rel=1e-6)
            assert np.sum(law.masses * np.exp(law.losses)) == pytest.approx(
                np.sum(masses * np.exp(losses)), rel=1e-3
            )
        gaps.append(float(np.mean(profile(upper, [1.0, 2.0]) - profile(lower, [1.0, 2.0]))))
    assert 2.5 < gaps[0] / gaps[1] < 6.0


@pytest.mark.parametrize("upper", [True, False])
def test_power_is_repeated_convolution(upper):
    spacing = 0.01
    masses = norm.pdf(np.arange(-300, 301) * spacing, -0.02, 0.2) * spacing
    law = split(Atoms(np.arange(-300, 301) * spacing, masses), spacing)
    made = power(law, 3, upper=upper)
    direct = np.convolve(np.convolve(law.masses, law.masses), law.masses)
    at = np.rint((made.losses - 3 * law.start) / spacing).astype(int)
    held = (at >= 0) & (at < direct.size)
    expected = np.zeros(at.size)
    expected[held] = direct[at[held]]
    difference = made.masses - expected
    assert np.all(difference >= 0.0) if upper else np.all(difference <= 0.0)
    assert np.max(np.abs(difference)) < 2e-13 * np.max(direct) + 1e-16


@pytest.mark.parametrize(
    ("z", "steps", "epsilon"),
    [(1.0, 1, 1.0), (10.0, 100, 2.0), (100.0, 10_000, 0.3), (1.0, 1, 8.0)],
)
def test_gaussian_composition_encloses_the_closed_form(z, steps, epsilon):
    mu = sqrt(steps) / z
    true = norm.cdf(mu / 2 - epsilon / mu) - exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    lower = mixing_bounds.OneSidedPld(
        [(mixing_bounds.shifted(1 / z, 0.0, 1), 1.0, steps)], remove=True, upper=False
    ).delta(epsilon)
    upper = mixing_bounds.OneSidedPld(
        [(mixing_bounds.gaussian(1 / z), 1.0, steps)], remove=True, upper=True
    ).delta(epsilon)
    assert lower <= true <= upper
    assert upper / lower < 1.02


# ----------------------------------------------------------------------------------------- attacks

# q, z, rho, p, T, then both bounds of the p-sparse shift and the upper bound by Renyi moments; delta 1e-5
ATTACKS = [
    (0.03, 0.335, 11.25, 100, 3400, 6.6807, 6.6843, 7.2502),
    (0.02, 0.366945, 3.75, 1, 5000, 48.0, 48.1146, 63.83),
    (0.02, 0.366945, 3.75, 25, 5000, 13.9690, 13.9742, 16.495),
    (0.02, 0.366945, 7.5, 1, 5000, 33.99, 34.0206, 43.81),
    (0.02, 0.366945, 7.5, 25, 5000, 7.2020, 7.2040, 8.2025),
    (0.02, 0.366945, 15.0, 100, 5000, 3.9339, 3.9362, 4.2853),
    (0.02, 1.0, 3.75, 25, 5000, 5.0436, 5.0447, 5.4764),
    (0.02, 1.0, 15.0, 1, 5000, 2.7272, 2.7286, 3.0695),
]


@pytest.mark.parametrize(("q", "z", "rho", "p", "steps", "low", "high", "renyi"), ATTACKS)
def test_sparse_attack_meets_the_reference_and_stays_below_every_upper_bound(
    q, z, rho, p, steps, low, high, renyi
):
    run = mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z, mixing=rho, truncation=p)
    found = mm.epsilon(run, delta=1e-5)
    assert low <= found.lower <= high
    assert found.lower <= found.upper <= renyi
    assert found.attack == "gradient spread evenly over p coordinates"


def one_hot_step(q, z, rho, epsilon):
    """delta of one step that shifts one coordinate by 1/z, from the densities, removal direction."""
    width, x = rho / z, np.linspace(-rho / z / 2 - 12, rho / z / 2 + 1 / z + 12, 400_001)

    def density(y):
        y = -np.abs(y)
        return (norm.cdf(y + width / 2) - norm.cdf(y - width / 2)) / width

    without, moved = density(x), density(x - 1 / z)
    return float(
        np.sum(np.maximum(0.0, (1 - q) * without + q * moved - exp(epsilon) * without))
        * (x[1] - x[0])
    )


@pytest.mark.parametrize(
    ("q", "z", "rho"), [(0.01, 0.3, 10.0), (0.003, 0.3, 4.0), (0.1, 0.5, 10.0)]
)
def test_attack_on_a_step_that_is_hardly_ever_sampled(q, z, rho):
    """Merging outcomes once lost the rare large losses: 0.0006 where 5.96 is reached."""
    side = next(
        mixing_bounds.attacks([mm.Settings(sample_rate=q, steps=1, noise_multiplier=z, mixing=rho)])
    )[1][0]
    found = side.epsilon(1e-5)
    assert one_hot_step(q, z, rho, found) >= 1e-5
    assert one_hot_step(q, z, rho, 1.01 * found) < 1e-5


def test_attack_on_many_large_steps_is_looked_for_near_its_epsilon():
    """Once 30 of 459: far below the epsilon that a tilt is for, errors drown delta, and the search
    began there."""
    run = mm.Settings(sample_rate=0.5643, steps=1182, noise_multiplier=0.326, mixing=5.76)
    removal = next(mixing_bounds.attacks([run]))[1][0]
    above = mixing_bounds.OneSidedPld(
        [(mixing_bounds.shifted(1 / 0.326, 5.76 / 0.326, 1), 0.5643, 1182)], remove=True, upper=True
    )
    assert 0.99 * above.epsilon(1e-5) < removal.epsilon(1e-5) <= above.epsilon(1e-5)


@pytest.mark.parametrize("rho", [5.0, 0.0])
def test_lowered_stays_below_and_keeps_rare_large_losses(rho):
    step = subsampled(mixing_bounds.shifted(3.0, 3.0 * rho, 1), 0.003)
    made = lowered(step, 0.003, 1.5)
    x = np.exp(np.concatenate([np.linspace(-0.01, 0.01, 41), np.linspace(0.1, 8.0, 40)]))
    true = profile(step, x)
    assert np.all(profile(made, x) <= true * (1 + 1e-12) + 1e-16)
    assert np.all(profile(made, x)[x > 1.6] >= 0.95 * true[x > 1.6])


GOALS = [
    (0, 0.014),
    (2, 0.016),
    (4, 0.011),
    (5, 0.016),
    (6, 0.007),
]  # of ATTACKS, and the slack that is allowed


@pytest.mark.parametrize(("row", "slack"), GOALS)
def test_slack_for_truncated_gradients(row, slack):
    q, z, rho, p, steps, *_ = ATTACKS[row]
    found = mm.epsilon(
        mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z, mixing=rho, truncation=p),
        delta=1e-5,
    )
    assert found.upper <= (1 + slack) * found.lower
    assert ("auxiliary mechanism" if row == 4 else "envelope") in found.method


def test_fast_bounds_are_looser_and_enclose_the_tight_ones():
    tight, fast = mm.epsilon(PAPER, delta=1e-5), mm.epsilon(PAPER, delta=1e-5, tight=False)
    assert fast.lower <= tight.lower <= tight.upper <= fast.upper
    assert fast.upper == pytest.approx(7.2502, abs=1e-4)


def test_delta_and_epsilon_agree():
    found = mm.epsilon(PAPER, delta=1e-5)
    assert mm.delta(PAPER, epsilon=found.upper).upper == pytest.approx(1e-5, rel=1e-3)
    assert mm.delta(PAPER, epsilon=found.lower).lower == pytest.approx(1e-5, rel=1e-3)


def test_phases_of_different_kinds_compose():
    plain = mm.Settings(sample_rate=0.01, steps=500, noise_multiplier=1.0)
    both = mm.epsilon([PAPER, plain], delta=1e-5)
    assert mm.epsilon([plain, PAPER], delta=1e-5).upper == pytest.approx(both.upper, rel=1e-5)
    assert mm.epsilon(PAPER, delta=1e-5).upper < both.upper < 7.4321  # by Renyi moments
    assert both.upper < 1.02 * both.lower


# ---------------------------------------------------------------------------------------- envelope


def test_complex_moments_against_50_digits():
    width, shift, tilt, spacing = 3.0, 0.4, 1.5, 2.5
    made, real = lines_of_moments(np.array([shift]), width, np.array([tilt]), spacing, 5)
    with mpmath.workdps(30):

        def p(x):
            return (
                mpmath.ncdf(x + mpmath.mpf(width) / 2) - mpmath.ncdf(x - mpmath.mpf(width) / 2)
            ) / width

        for j in (0, 1, 4):
            w = mpmath.mpc(1 + tilt, j * spacing)
            true = (
                mpmath.quad(lambda x, w=w: p(x) * ((p(x - shift) / p(x)) ** w), [-12, -3, 0, 3, 14])
                - 1
            )
            assert abs(complex(true) - made[0, 0, j]) < 1e-14
        one = mpmath.quad(lambda x: p(x) * (p(x - shift) / p(x)) ** (1 + tilt), [-12, -3, 0, 3, 14])
    assert real[0, 0, 0] == pytest.approx(float(one), rel=1e-13)


def test_curvature_by_parts_is_the_integral_of_the_second_derivative():
    width, shift, tilt = 5.0, 0.3, 2.0
    _, real = lines_of_moments(np.array([shift]), width, np.array([tilt]), 1.0, 1)
    x = np.linspace(-12, 12, 24_001)
    log_p = norm.logcdf(width / 2 - np.abs(x)) + np.log1p(
        -np.exp(norm.logcdf(-width / 2 - np.abs(x)) - norm.logcdf(width / 2 - np.abs(x)))
    )
    step = x[1] - x[0]
    held = np.abs(x) < 6.0
    curve = -np.gradient(np.gradient(log_p, step), step)
    back = round(shift / step)
    ratio = np.exp((1 + tilt) * (np.roll(log_p, back) - log_p) + log_p) / width
    direct = float(np.sum((ratio * np.roll(curve, back))[held]) * step)
    assert real[0, 0, 3] == pytest.approx(direct, rel=1e-3)


def _any_shift(levels, width):
    """A pair below that of the shifts {v: count}."""
    masses, spacing, start = None, min(levels) / 60.0, 0.0
    for shift, count in levels.items():
        _, _, without, moved, _ = mixing_bounds.coordinate_cells(
            shift, width, mixing_bounds.CELL_WIDTH
        )
        held = (without > 0) & (moved > 0)
        law = power(
            merge(Atoms(np.log(moved[held] / without[held]), without[held]), spacing),
            count,
            upper=False,
        )
        start += law.start
        masses = law.masses if masses is None else np.convolve(masses, law.masses)
    return Atoms(start + spacing * np.arange(masses.size), np.maximum(masses, 0.0))


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([(0.3, 33.6, 60), (0.3, 5.0, 20), (0.5, 12.0, 10)]), st.data())
def test_no_shift_exceeds_the_envelope(case, data):
    """Random search: part of the budget at the largest shift, the rest at two smaller ones."""
    shift, width, copies = case
    pair = envelope(StepShape("gaussian", shift, width, float(copies)))
    whole = data.draw(st.integers(0, copies))
    part = data.draw(st.floats(0.25, 0.95))
    other = data.draw(st.floats(0.15, 1.0)) * part
    rest = (copies - whole) * shift**2
    middle = int(data.draw(st.floats(0, 1)) * rest / (part * shift) ** 2)
    small = int((rest - middle * (part * shift) ** 2) / (other * shift) ** 2)
    counts = [(shift, whole), (part * shift, middle), (other * shift, small)]
    levels = {v: count for v, count in counts if count > 0}
    x = np.exp(np.array([-3.0, -1.0, -0.3, -0.03, 0.0, 0.01, 0.1, 0.4, 1.0, 2.0, 4.0]))
    assert np.all(profile(_any_shift(levels, width), x) <= profile(pair.atoms(), x) * (1 + 1e-9))


def shifted_coordinate(shift, width, spacing):
    """(first point, masses) of the loss of one coordinate, rounded down to multiples of the
    spacing; from the densities."""
    x = np.arange(-width / 2 - 12, width / 2 + shift + 12, 0.004)

    def log_density(y):
        near, far = norm.logcdf(width / 2 - np.abs(y)), norm.logcdf(-width / 2 - np.abs(y))
        return near + np.log1p(-np.exp(far - near)) - np.log(width)

    points = np.floor((log_density(x - shift) - log_density(x)) / spacing + 1e-6).astype(int)
    return points.min(), np.bincount(points - points.min(), np.exp(log_density(x)) * 0.004)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(
        [(1.0, 10.0, 1.0), (3.0, 8.0, 1.0), (0.6, 2.0, 1.0), (1.5, 20.0, 2.0), (2.5, 3.0, 1.7)]
    ),
    st.data(),
)
def test_few_copies_no_shift_exceeds_the_envelope(case, data):
    """Random directions of the gradient, in up to four coordinates that its norm or truncation
    stop."""
    shift, width, copies = case
    pair = envelope(StepShape("gaussian", shift, width, copies))
    squares = np.array(data.draw(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4)))
    squares = np.minimum(1.0, squares * copies / np.sum(squares))
    start, masses, spacing = 0, np.ones(1), 0.01 * shift**2
    for square in squares[squares > 0.02]:
        first, more = shifted_coordinate(shift * square**0.5, width, spacing)
        start, masses = start + first, np.convolve(masses, more)
    epsilons = np.array([0.0, 0.03, 0.1, 0.3, 0.7, 1.0, 2.0, 3.0, 5.0, 8.0]) * shift
    lower = Atoms(spacing * (start + np.arange(masses.size)), masses)
    assert np.all(
        profile(lower, np.exp(epsilons))
        <= profile(pair.atoms(), np.exp(epsilons)) * (1 + 1e-9) + 1e-15
    )


@pytest.mark.slow
def test_complex_moments_of_large_shifts_stay_within_the_error_that_is_granted():
    width, shift, tilt, spacing = 10.0, 4.0, 2.5, 0.7
    made, _ = lines_of_moments(np.array([shift]), width, np.array([tilt]), spacing, 4)
    with mpmath.workdps(30):

        def p(x):
            return (mpmath.ncdf(width / 2 - abs(x)) - mpmath.ncdf(-width / 2 - abs(x))) / width

        def moment(w):
            return mpmath.quad(
                lambda x: p(x) * (p(x - shift) / p(x)) ** w, [-17, -5, 0, 5, 9, 13, 17, 19, 23, 33]
            )

        for j in (0, 3):
            w = mpmath.mpc(1 + tilt, j * spacing)
            error = abs(moment(w) - 1 - mpmath.mpmathify(complex(made[0, 0, j])))
            assert error < COMPLEX_MOMENT_ERROR * shift**2 * abs(w) * moment(1 + tilt)


@pytest.mark.parametrize("law", ["uniform", "beta-4", "raised-cosine"])
def test_narrowed_mixing_is_narrower_and_only_where_few_coordinates_can_be_shifted(law):
    wide = StepShape("gaussian", 1.0, 1000.0, 1.0, law)
    made = mixing_bounds._narrowed(wide)
    assert 0.0 < made.width < wide.width
    assert mixing_bounds._divergence(made) >= mixing_bounds.NARROWED_DIVERGENCE[0]
    many = StepShape("gaussian", 0.3, 100.0, 25.0, law)
    assert mixing_bounds._narrowed(many) == many


@pytest.mark.parametrize(("law", "before"), [("uniform", 0.718), ("beta-4", 0.667)])
def test_wide_mixing_is_credited_with_what_narrower_mixing_brings(law, before):
    run = mm.Settings(
        sample_rate=0.01, steps=100, noise_multiplier=1.0, mixing=1000.0, mixing_law=law
    )
    found = mm.epsilon(run, delta=1e-5)
    assert found.upper < 0.6 * before
    assert "upper bound is believed loose" in found.note


FEW_STEPS = [
    (1, 0.01, 0.3, 10.0, 1.0, 1.2),
    (10, 0.01, 0.3, 10.0, 1.0, 1.1),
    (3, 0.1, 0.3, 10.0, 4.0, 1.15),
]


@pytest.mark.parametrize(("steps", "q", "z", "rho", "p", "ratio"), FEW_STEPS)
def test_few_large_steps_have_narrow_bounds(steps, q, z, rho, p, ratio):
    """Upper over lower bounds were 119, 67 and 3.4."""
    run = mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z, mixing=rho, truncation=p)
    found = mm.epsilon(run, delta=1e-5)
    assert found.lower <= found.upper <= ratio * found.lower
    assert found.note is None


def test_envelope_is_close_to_the_two_extremes():
    shift, width, copies = 1 / 0.335 / 10, 11.25 / 0.335, 100.0
    pair = envelope(StepShape("gaussian", shift, width, copies))
    information = float(log_moments(np.array([2.0]), 1e-4, width)[0]) / 1e-8
    mu = sqrt(information * copies) * shift
    for epsilon in (0.0, 0.5, 1.0, 2.0):
        dense = norm.cdf(mu / 2 - epsilon / mu) - exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
        sparse = float(profile(mixing_bounds.shifted(shift, width, 100), exp(epsilon))[0])
        found = float(profile(pair, exp(epsilon))[0])
        assert max(dense, sparse) <= found <= 1.03 * max(dense, sparse)


def test_envelope_is_a_pair_of_probability_laws():
    pair = envelope(StepShape("gaussian", 0.3, 10.0, 25.0))
    assert np.sum(pair.masses) + pair.absent == pytest.approx(1.0, rel=1e-9)
    assert np.sum(pair.masses * np.exp(pair.losses)) + pair.infinite == pytest.approx(1.0, rel=1e-9)
    x = np.exp(np.linspace(0.0, 3.0, 20))
    assert profile(pair, 1 / x) == pytest.approx(1 - 1 / x + profile(pair, x) / x, rel=2e-3)


# ----------------------------------------------------------------------------- auxiliary mechanism

SMOOTHED = StepShape("gaussian", 0.5, 12.0, 10.0)


def smaller(q):
    found = mixing_tight.smaller_pairs(SMOOTHED, q)
    assert found
    return found[0]


@pytest.mark.parametrize("q", [1e-3, 0.05, 1.0])
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_no_shift_exceeds_the_smaller_pair_beside_the_auxiliary_mechanism(q, data):
    pair, beside, _ = smaller(q)
    convolve = (
        fftconvolve if q < 0.01 else np.convolve
    )  # many points of small losses, or few of large ones
    _, shift, width, copies, _ = SMOOTHED
    whole = data.draw(st.integers(0, int(copies)))
    part = data.draw(st.floats(0.15, 0.95))
    rest = int((copies - whole) / part**2)
    levels = {v: count for v, count in ((shift, whole), (part * shift, rest)) if count > 0}
    x = np.exp(
        min(20.0 * q, 5.0) * np.array([-0.6, -0.3, -0.1, -0.03, 0.0, 0.03, 0.1, 0.3, 0.6, 1.0])
    )
    lower = merge(subsampled(_any_shift(levels, width), q), pair.spacing)
    below, above = (
        GridPld(law.start + beside.start, law.spacing, convolve(law.masses, beside.masses))
        for law in (lower, pair)
    )
    assert np.all(profile(below, x) <= profile(above, x) * (1 + 1e-9))


def test_the_smaller_pair_alone_does_not_dominate_every_shift():
    """Without the auxiliary mechanism the spread-out shift tells more near epsilon 0.

    The check has to see it, and does.
    """
    q, pair = 0.05, smaller(0.05).pair
    _, shift, width, copies, _ = SMOOTHED
    spread = subsampled(_any_shift({shift / 8: int(copies) * 64}, width), q)
    assert profile(spread, 1.0) > profile(pair, 1.0)
    nothing = split(Atoms(np.zeros(1), np.ones(1)), pair.spacing)
    assert not mixing_tight._dominated(split(spread, pair.spacing), pair, nothing)


def test_steps_of_several_kinds_stay_below_the_tight_bound():
    """An adversary who spreads the gradient in half of the steps and not in the others."""
    run = mm.Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=25
    )
    found = mm.epsilon(run, delta=1e-5)
    assert "auxiliary mechanism" in found.method
    assert found.upper <= 1.02 * found.lower
    pairs = [
        (mixing_bounds.shifted(1 / 0.335 / m**0.5, 11.25 / 0.335, m), 0.03, 1700) for m in (25, 400)
    ]
    assert mixing_bounds.OneSidedPld(pairs, remove=True, upper=False).epsilon(1e-5) < found.lower


def test_steps_of_one_kind_share_an_auxiliary_mechanism_in_whatever_phases_they_come():
    """Two phases of one kind had a smaller pair each, chosen by their length, and the
    auxiliary mechanism of the last."""
    run = mm.Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=25
    )
    whole = [
        side.epsilon(1e-5) for side in mixing_bounds.dominated_tightly([replace(run, steps=4300)])
    ]
    assert [
        side.epsilon(1e-5)
        for side in mixing_bounds.dominated_tightly([run, replace(run, steps=900)])
    ] == whole


def test_steps_that_tell_very_much_are_priced_without_an_auxiliary_mechanism():
    """Once an overflow: the smoothing of steps whose ratio has a standard deviation of 1e5."""
    run = mm.Settings(sample_rate=1.0, steps=1, noise_multiplier=0.1, mixing=5.0, truncation=100)
    found = mm.epsilon(run, delta=0.05)
    assert 0.0 < found.lower <= found.upper < 60.0
