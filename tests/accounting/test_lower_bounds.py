"""No attack is better than the truth: mechanisms whose delta is bounded by a few lines of
arithmetic, at every edge.

One step. P_0 is the density p of mixing (width W) plus N(0, 1), unimodal, so one coordinate's total
variation at a shift v is P(|X| < v/2) <= v sup p, and sup p <= min(M/W, 1/sqrt(2 pi)), M the mode
of the mixing law at width 1 (a convolution is nowhere above either density). Over m coordinates it
adds up to m v sup p at most, over T steps with sampling rate q to T q times that, and delta(eps) <=
delta(0) = total variation. So m coordinates with v = 1/(z sqrt m):
    delta(eps) <= T q sqrt(m) sup p / z.
The dense limit m -> inf of one step is N(mu, 1) against N(0, 1), mu^2 = I/z^2, whose total
variation is below mu/sqrt(2 pi); I is the Fisher information of p, below the bounds of
`information`.
"""

from math import exp, lgamma, log, pi, sqrt

import mpmath
import numpy as np
import pytest
from scipy.stats import norm

import mmaccount as mm
from mmaccount.records import mixing_laws
from mmaccount.accounting import methods, mixing_bounds, plain_gaussian
from mmaccount.accounting.pld import Atoms, merge, reverse, subsampled
from mmaccount.kernels.pld import LOSS_ERROR, coordinate_cells

LAWS = ["uniform", "raised-cosine", "beta-1.5", "beta-4", "beta-10"]
ALLOWED = 1e-9  # relative: rounding of these few lines and of the search


def highest(law, width):
    """sup p at most."""
    if law == "raised-cosine":
        mode = 2.0
    else:  # (1/4 - x^2)^(B - 1) / B(B, B) at x = 0
        b = mixing_laws.exponent(law)
        mode = exp(lgamma(2 * b) - 2 * lgamma(b) - (b - 1) * log(4))
    return min(mode / width if width > 0 else 1.0, 1 / sqrt(2 * pi))


def information(law, width):
    """Fisher information of p at most: 1, that of the Gaussian; J of the mixing alone where it is
    finite; and for B <= 1.5 3 sup p: I = Int |p'| |score|, Int |p'| = 2 sup p, the score is
    nondecreasing, at the edge at most 1.05, rises with a slope of at most 1 beyond it, and the mass
    there is at most E[N_+] sup p = 0.4 sup p."""
    if width == 0:
        return 1.0
    b = mixing_laws.exponent(law)
    if b <= 1.5:
        return min(1.0, 3 * highest(law, width))
    if law == "raised-cosine":
        return min(1.0, 4 * pi**2 / width**2)
    # score (B - 1) 2x / (1/4 - x^2): E = 4 (B - 1)^2 E[x^2 / (1/4 - x^2)^2], X + 1/2 a Beta(B, B)
    # variable
    if b <= 2:
        return 1.0
    ratio = exp(
        lgamma(2 * b) - 2 * lgamma(b) + 2 * lgamma(b - 2) - lgamma(2 * b - 4)
    )  # E[(1/4 - x^2)^-2]
    variance = 1 / (4 * (2 * (b - 2) + 1))
    return min(1.0, 4 * (b - 1) ** 2 * ratio * variance / width**2)


def spread(phase, coordinates):
    sup = highest(phase.mixing_law, phase.mixing / phase.noise_multiplier)
    return min(
        1.0, phase.steps * phase.sample_rate * sqrt(coordinates) * sup / phase.noise_multiplier
    )


def dense(phase):
    """`at most 1`, of the limit."""
    known = information(phase.mixing_law, phase.mixing / phase.noise_multiplier)
    return min(1.0, phase.steps * phase.sample_rate * sqrt(known / 2 / pi) / phase.noise_multiplier)


def check(reported_delta, reported_epsilon, truth, case):
    """`truth` bounds delta at every epsilon: where it is below delta, epsilon is 0."""
    assert reported_delta <= truth * (1 + ALLOWED), case
    for delta in (0.5, 1e-5, 1e-20, 1e-300):
        if truth <= delta:
            assert reported_epsilon(delta) == 0.0, (case, delta)


ISSUE = [
    ("beta-4", 1e12, 100),
    ("beta-10", 1e12, 100),
    ("raised-cosine", 1e8, 100),
    ("beta-4", 1e12, 1),
]


@pytest.mark.parametrize(("law", "width", "p"), ISSUE)
def test_wide_mixing_leaves_no_attack(law, width, p):
    """Reported once: lower bounds of 0.0015 to 0.0246, where epsilon is 0."""
    run = mm.Settings(
        sample_rate=0.01,
        steps=100,
        noise_multiplier=1.0,
        mixing=width,
        truncation=p,
        mixing_law=law,
    )
    for factor, (_, sides) in zip(mixing_bounds.COPIES_FACTORS, mixing_bounds.attacks([run])):
        assert spread(run, p * factor) < 1e-5
        assert [side.epsilon(1e-5) for side in sides] == [0.0, 0.0]


RUNS = [  # law, width over the noise, q, z, T, p
    ("uniform", 1e15, 0.01, 1.0, 100, 1),
    ("uniform", 1e3, 1.0, 1.0, 1, 100),
    ("raised-cosine", 1e5, 1.0, 1.0, 1, 25),
    ("beta-1.5", 1e8, 0.01, 0.3, 10, 100),
    ("beta-4", 1e15, 0.5, 1.0, 10**9, 1),
    ("beta-10", 1e5, 1e-4, 1.0, 10**6, 1),
]


@pytest.mark.parametrize(("law", "width", "q", "z", "steps", "p"), RUNS)
def test_no_attack_exceeds_the_total_variation(law, width, q, z, steps, p):
    run = mm.Settings(
        sample_rate=q,
        steps=steps,
        noise_multiplier=z,
        mixing=width * z,
        truncation=p,
        mixing_law=law,
    )
    name, sides = next(iter(mixing_bounds.attacks([run])))
    for side in sides:
        check(side.delta(0.0), side.epsilon, spread(run, p), (name, run))
    limit = methods.spread_out_limit([run])
    found = plain_gaussian.delta(limit, 0.0, 1.0).lower
    check(
        found, lambda delta: plain_gaussian.epsilon(limit, delta).lower, dense(run), ("dense", run)
    )


@pytest.mark.parametrize("steps", [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize("mu", [1e-6, 0.01, 1.0, 5.0])
def test_attacks_on_plain_noise_stay_below_the_closed_form(steps, mu):
    z = sqrt(steps) / mu
    for remove in (True, False):
        pair = mixing_bounds.shifted(1 / z, 0.0, 1, remove=remove)
        side = mixing_bounds.OneSidedPld([(pair, 1.0, steps)], remove=remove, upper=False)
        for epsilon in (0.0, 0.1 * mu, mu, 3.0 * mu):
            truth = norm.cdf(mu / 2 - epsilon / mu) - exp(epsilon) * norm.cdf(
                -mu / 2 - epsilon / mu
            )
            assert side.delta(epsilon) <= truth * (1 + 1e-7)


def delta(pair, epsilon, remove):
    """Of one direction, from atoms in the removal direction."""
    pair = pair if remove else reverse(pair)
    return float(np.sum(pair.masses * np.maximum(0.0, np.exp(pair.losses) - exp(epsilon))))


@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("width", [0.3, 33.6, 1e4, 1e9])
def test_a_coordinate_tells_at_most_what_its_cells_do_in_either_direction(law, width, remove):
    """Merging lowers losses in the direction that it is for, and raised them in the other."""
    cells = mixing_bounds._coordinate(0.3, width, law, mixing_bounds.ATTACK_CELL_WIDTH)
    alone, merged = (mixing_bounds.shifted(0.3, width, 1, law, remove=remove) for _ in range(2))
    merged = merge(
        cells if remove else reverse(cells), 0.3 / mixing_bounds.POINTS_PER_SHIFT
    ).atoms()
    merged = merged if remove else reverse(merged)
    for epsilon in (0.0, 1e-6, 1e-3, 0.1, 0.3, 1.0):
        true = delta(cells, epsilon, remove)
        assert delta(alone, epsilon, remove) <= true
        assert delta(merged, epsilon, remove) <= true + 1e-15 * exp(epsilon)


@pytest.mark.parametrize("shift", [1e-6, 0.005, 0.02, 0.3, 3.0])
@pytest.mark.parametrize("width", [0.5, 30.0, 1e7, 1e15])
def test_losses_of_cells_of_the_uniform(shift, width):
    """Masses of cells at 60 digits, from antiderivatives of Phi; the ends of cells are where both
    edges leave no doubt."""
    low, _, without, moved, losses = coordinate_cells(shift, width, 0.02)
    size = losses.size
    with mpmath.workdps(80):
        v, w = mpmath.mpf(shift), mpmath.mpf(width)

        def upper_tail(x):  # Int_x^inf Phi(-y) dy
            return mpmath.npdf(x) - x * mpmath.ncdf(-x)

        def mass(a, b):  # of p between distances a < b beyond an edge
            return (upper_tail(a) - upper_tail(b) - upper_tail(a + w) + upper_tail(b + w)) / w

        apart = width - shift - 26.0
        inner = -13.0 if apart > 0.0 else 0.5 * (shift - width)
        cells = int(np.ceil((shift + 13.0 - inner) / 0.02))
        fine = (shift + 13.0 - inner) / cells
        largest = float(np.max(np.abs(losses)))
        for k in range(0, cells, max(1, cells // 25)):
            a, b = (mpmath.mpf(inner + fine * j) for j in (k, k + 1))
            exact = mpmath.log(mass(a - v, b - v) / mass(a, b))
            assert (
                abs(float(losses[size - cells + k] - exact))
                <= 0.1 * LOSS_ERROR * largest + 1e-13 * largest * 0.02
            )
    assert np.all(np.diff(low) >= -LOSS_ERROR * largest)
    assert np.sum(without) == pytest.approx(1.0, abs=1e-13)
    assert np.sum(moved) == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("q", [0.5, 0.999, 1 - 1e-9, 1 - 1e-15, 1e-12])
def test_losses_after_subsampling(q):
    """Once formed as log1p(q (r - 1)) for every r: next to q = 1 without digits."""
    losses = np.array([-800.0, -50.0, -30.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 29.0, 31.0, 500.0, 800.0])
    made = subsampled(Atoms(losses, np.ones(losses.size)), q).losses
    for loss, found in zip(losses, made):
        with mpmath.workdps(500):
            exact = mpmath.log(1 - mpmath.mpf(q) + mpmath.mpf(q) * mpmath.exp(mpmath.mpf(loss)))
        assert float(found) == pytest.approx(
            float(exact), rel=1e-15, abs=1e-13 if loss > 700 else 0
        )
