"""Grids of plain DP-SGD for few steps and tiny rates: narrow bounds that hold the truth, each
rule on its own side."""

from math import exp, expm1, log1p

import mpmath
import numpy as np
import pytest

import mmaccount as mm
from mmaccount import Settings
from mmaccount.accounting import mixing_bounds, plain_closed_form, plain_pld, pld, roots
from mmaccount.accounting.pld import Atoms


def run(q, z, steps):
    return Settings(sample_rate=q, noise_multiplier=z, steps=steps)


def exact_delta(q, z, epsilon):
    """delta of one subsampled Gaussian step at 50 digits, from the definition: the larger
    direction."""
    with mpmath.workdps(50):
        q, v, e = mpmath.mpf(q), 1 / mpmath.mpf(z), mpmath.mpf(epsilon)

        def threshold(ratio):  # x at which 1 - q + q exp(v x - v^2 / 2) is the ratio
            return mpmath.log((ratio - 1 + q) / q) / v + v / 2

        if q == 1:
            return mpmath.ncdf(v / 2 - e / v) - mpmath.exp(e) * mpmath.ncdf(-v / 2 - e / v)
        x = threshold(mpmath.exp(e))
        found = [
            (1 - q) * mpmath.ncdf(-x) + q * mpmath.ncdf(v - x) - mpmath.exp(e) * mpmath.ncdf(-x)
        ]
        if mpmath.exp(-e) > 1 - q:
            x = threshold(mpmath.exp(-e))
            found.append(
                mpmath.ncdf(x) - mpmath.exp(e) * ((1 - q) * mpmath.ncdf(x) + q * mpmath.ncdf(x - v))
            )
        return max(found)


ONE_STEP = [
    (0.3, 0.5),
    (0.3, 3.0),
    (1e-2, 0.5),
    (1e-2, 1.0),
    (1e-3, 0.5),
    (1e-3, 1.0),
    (1e-4, 0.5),
    (1e-4, 3.0),
    (1e-6, 1.0),
]


@pytest.mark.parametrize(("q", "z"), ONE_STEP)
@pytest.mark.parametrize("delta", [1e-6, 1e-11])
def test_one_step_against_fifty_digits(q, z, delta):
    bound = mm.epsilon(run(q, z, 1), delta=delta)
    assert exact_delta(q, z, bound.upper) <= delta
    assert (
        bound.upper - bound.lower <= 1e-6 * bound.upper
    )  # the closed form: down to the rounding and the search
    if bound.lower > 0.0:
        assert exact_delta(q, z, bound.lower) >= delta


@pytest.mark.parametrize(
    ("q", "z"), [*ONE_STEP, (0.9, 0.05), (0.5, 0.01), (1e-9, 1e4), (0.02, 30.0)]
)
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.01, 0.5, 3.0, 40.0, 800.0])
def test_closed_form_against_fifty_digits(q, z, epsilon):
    exact = exact_delta(q, z, epsilon)
    bound = plain_closed_form.profile([run(q, z, 1)])(epsilon)
    assert bound.lower <= exact <= bound.upper
    assert bound.upper - bound.lower <= 1e-9 * exact + 1e-13 * q


WIDTHS = [
    (0.5, 1e-2, 2, 1e-6),
    (0.5, 1e-3, 5, 1e-6),
    (0.5, 1e-4, 20, 1e-6),
    (1.0, 1e-2, 5, 1e-6),
    (1.0, 1e-3, 20, 1e-6),
    (1.0, 1e-4, 2, 1e-6),
    (3.0, 1e-3, 2, 1e-6),
    (3.0, 1e-4, 5, 1e-11),
    (1.0, 1e-3, 5, 1e-11),
]


@pytest.mark.parametrize(("z", "q", "steps", "delta"), WIDTHS)
def test_few_steps_at_a_tiny_rate_are_narrow(z, q, steps, delta):
    """Fourier inversion alone leaves nothing of the lower side here, and an upper one up to 20 times too
    large."""
    bound = mm.epsilon(run(q, z, steps), delta=delta)
    assert 0.0 <= bound.upper - bound.lower <= 1e-3 * bound.upper
    inverse = mm.delta(run(q, z, steps), epsilon=bound.upper)
    assert inverse.lower <= delta
    assert inverse.upper - inverse.lower <= 2e-3 * inverse.upper


@pytest.mark.parametrize(
    ("q", "z", "steps", "delta"),
    [(0.01, 1.0, 100, 1e-6), (0.1, 2.0, 50, 1e-9), (0.3, 0.5, 10, 1e-5)],
)
def test_grids_and_fourier_inversion_agree(q, z, steps, delta):
    """Two methods that share no approximation, where both reach."""
    inverted = mm.epsilon(run(q, z, steps), delta=delta)
    grids = [
        plain_pld.TwoSidedPld([run(q, z, steps)], 1e-7 * delta, remove=remove).epsilon(delta)
        for remove in (True, False)
    ]
    lower, upper = (max(getattr(side, end) for side in grids) for end in ("lower", "upper"))
    assert inverted.lower <= upper * (1 + 1e-9)
    assert lower <= inverted.upper * (1 + 1e-9)
    assert upper - lower <= 1e-3 * upper


def profile(losses, masses, x):
    return float(np.sum(masses * np.maximum(0.0, np.exp(losses) - x)))


@pytest.mark.parametrize("spacing", [3e-5, 1e-3, 0.1])
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("q", [1e-4, 0.05])
def test_each_rule_stays_on_its_side_at_every_epsilon(q, spacing, remove):
    step = pld.subsampled(mixing_bounds.shifted(1.0, 0.0, 1, cell=0.02), q)
    pair = plain_pld.trimmed(step if remove else pld.reverse(step), 1e-12, upper=False)
    below = (pld.merged_low if remove else pld.merged_high)(pair, spacing)
    above = plain_pld.raised(pair, spacing)
    for epsilon in np.concatenate([np.linspace(-3.0, 3.0, 61), q * np.linspace(-1.0, 1.0, 21)]):
        exact = profile(pair.losses, pair.masses, exp(epsilon))
        assert profile(below.losses, below.masses, exp(epsilon)) <= exact + 1e-15
        assert profile(above.losses, above.masses, exp(epsilon)) >= exact - 1e-15


@pytest.mark.parametrize("upper", [True, False])
def test_trimming_stays_on_its_side(upper):
    atoms = Atoms(np.array([2.0, -1.0, 0.5, -4.0, 3.0]), np.array([0.01, 0.4, 0.2, 0.35, 1e-9]))
    made = plain_pld.trimmed(atoms, 1e-2, upper=upper)
    assert np.all(np.diff(made.losses) > 0)
    assert (made.losses[0], made.losses[-1]) == (-1.0, 2.0)
    for x in np.geomspace(1e-2, 30, 40):
        exact, found = (
            profile(atoms.losses, atoms.masses, x),
            profile(made.losses, made.masses, x) + made.infinite,
        )
        assert found >= exact * (1 - 1e-12) if upper else found <= exact


def test_only_outcomes_that_a_sampled_record_makes_cost_anything():
    """T steps of rate q tell nothing with probability (1 - q)^T: below that delta is 0 at epsilon 0
    for z -> inf, and at most 1 - (1 - q)^T ever."""
    bound = mm.delta(run(1e-6, 0.5, 3), epsilon=0.0)
    assert 0.0 < bound.lower <= bound.upper <= -expm1(3 * log1p(-1e-6)) * (1 + 1e-9)
    assert mm.epsilon(run(1e-6, 0.5, 3), delta=3.1e-6).upper < 1e-5


def test_a_search_that_starts_at_zero_ends():
    """Noise so large that the first guess of epsilon is 0: it once went on for ever."""
    assert roots.epsilon_from_delta_bounds(lambda _: 0.0, lambda _: 0.0, 1e-5, 0.0) == (0.0, 0.0)
    assert roots.epsilon_from_delta_bounds(lambda _: 1.0, lambda _: 0.0, 1e-5, 0.0) == (
        0.0,
        float("inf"),
    )
