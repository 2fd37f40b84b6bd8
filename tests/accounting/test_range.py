"""The ends of what `Settings` takes: every question is answered soundly, without warning, and from
bounded work."""

from fractions import Fraction
from math import isfinite, nextafter, sqrt

import numpy as np
import pytest

import mmaccount as mm
from mmaccount.accounting import plain_fourier, plain_gaussian, plain_pld, renyi
from mmaccount.kernels import loss
from mmaccount.records.bound import TwoSided
from mmaccount.records.settings import Settings


def run(q, steps, z, **others):
    return Settings(sample_rate=q, steps=steps, noise_multiplier=z, **others)


def sound(phases):
    bound = mm.epsilon(phases, delta=1e-5)
    assert 0.0 <= (bound.lower or 0.0) <= bound.upper
    assert isfinite(bound.upper) or bound.reason
    there = mm.delta(phases, epsilon=1.0)
    assert 0.0 <= (there.lower or 0.0) <= there.upper <= 1.0
    return bound


@pytest.mark.parametrize("z", [0.032, 0.04])
@pytest.mark.parametrize(
    "others",
    [
        {"neighbours": "replace-one"},
        {"group_size": 2},
        {"group_size": 3, "neighbours": "replace-one"},
    ],
)
def test_where_no_pair_is_known_renyi_moments_hold(z, others):
    phases = [run(0.01, 1000, z, **others), run(0.01, 10, 1.0, **others)]
    for settings in (phases[:1], phases):
        bound = sound(settings)
        assert bound.upper <= renyi.epsilon(settings, delta=1e-5).upper
    solved = mm.solve(phases[0], "noise_multiplier", epsilon=5.0, delta=1e-5, tight=False)
    assert mm.epsilon(solved, delta=1e-5, tight=False).upper <= 5.0


@pytest.mark.parametrize(("q", "z"), [(0.5, 1e8), (1e-8, 1.0), (0.999999, 1e8), (0.002, 4e4)])
def test_long_runs_of_small_steps_are_nearly_gaussian(q, z):
    # per step the loss has variance q^2 (e^{1/z^2} - 1) and a third moment that 1e15 steps leave
    # nothing of
    bound = mm.epsilon(run(q, 10**15, z), delta=1e-5)
    mu = q * sqrt(1e15 * np.expm1(z**-2))
    gaussian = mm.epsilon(run(1.0, 1, 1.0 / mu), delta=1e-5)
    assert bound.upper - bound.lower <= 2e-6 * bound.upper
    assert gaussian.upper == pytest.approx(bound.upper, rel=1e-5)


def test_more_digits_agree_with_fewer_within_both_errors():
    nodes = [
        loss.subsampled_nodes(1.0, 0.01, 3.0, 40.0, 50.0, log_accuracy)
        for log_accuracy in (loss.LOG_ACCURACY, loss.HIGH_LOG_ACCURACY)
    ]
    assert nodes[1][0].size > nodes[0][0].size
    frequencies = np.linspace(0.0, 40.0, 9)
    few = loss.log_mgf(3.0, frequencies, *nodes[0])
    more = loss.log_mgf(3.0, frequencies, *nodes[1], loss.HIGH_LOG_ACCURACY)
    moments = [np.exp(real + 1j * imag) for real, imag, _ in (few, more)]
    assert np.all(np.abs(moments[0] - moments[1]) <= few[2] + more[2] + 1e-15)


def test_loss_of_the_sinc_keeps_its_digits():
    u = np.array([1e-9, 1e-6, 9e-4, 2e-3])
    exact = [
        float(Fraction(x) ** 2 / 6 - Fraction(x) ** 4 / 120 + Fraction(x) ** 6 / 5040)
        for x in u.tolist()
    ]
    assert np.all(plain_fourier._sinc_loss(u) <= np.array(exact) * (1.0 + 1e-9))
    assert plain_fourier._sinc_loss(u) == pytest.approx(exact, rel=1e-9)


def test_grids_are_left_where_they_cannot_hold_so_many_steps():
    assert plain_pld.within_reach([run(0.5, 10**9, 1e4)])
    assert not plain_pld.within_reach([run(0.5, 10**15, 1e8)])


def test_delta_is_not_searched_for_without_end():
    seen = []

    def shrinking(phases, epsilon, about, *, remove):
        seen.append(about)
        return lambda _: TwoSided(0.0, 1e-3 * about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_gaussian, "direction", shrinking)
        found = plain_gaussian.delta([run(0.01, 10, 1.0)], 3.0, 1.0)
    assert len(seen) == 2 * plain_gaussian.MOST_TRIES
    assert found == TwoSided(0.0, 1e-3**plain_gaussian.MOST_TRIES) or found.upper == pytest.approx(
        1e-3**plain_gaussian.MOST_TRIES
    )


@pytest.mark.parametrize("order", [1.001, 1.5, 7.3, 200.0])
@pytest.mark.parametrize("z", [0.03, 1.0, 50.0])
def test_moments_off_chords_are_above_moments(order, z):
    phases = (run(0.01, 10, z),)
    read, exact = renyi._chord(renyi._on_grid(phases), order), renyi._one_change(phases, order)
    assert exact * (1.0 - 1e-9) <= read <= exact * 1.02


@pytest.mark.parametrize("order", [1.5, 3.0, 40.0])
def test_far_moments_by_the_norm_are_above_the_quadrature(order, monkeypatch):
    from mmaccount.accounting import step_moments

    settings = run(0.01, 1, 0.3)
    exact = step_moments._plain_gaussian(settings, order)
    monkeypatch.setattr(step_moments, "LARGEST_QUADRATURE_ORDER", 0.0)
    assert exact * (1.0 - 1e-12) <= step_moments._plain_gaussian(settings, order)


@pytest.mark.parametrize("z", [1e-3, 1e9])
@pytest.mark.parametrize("q", [1e-12, 0.5, 1.0])
@pytest.mark.parametrize("noise", ["gaussian", "laplace"])
def test_noise_at_the_ends_of_its_range(z, q, noise):
    for steps, mixing, truncation in ((1, 0.0, 1.0), (10**15, 0.0, 1e12)):
        sound(run(q, steps, z, noise=noise, mixing=mixing, truncation=truncation))


@pytest.mark.parametrize(
    "value", [10**27, 10**400, -(10**400), 10**5000, Fraction(10**400, 3)], ids="abcde"
)
@pytest.mark.parametrize(
    "name", ["sample_rate", "steps", "group_size", "truncation", "noise_multiplier", "mixing"]
)
def test_numbers_beyond_float64_are_refused_by_name(name, value):
    good = {"sample_rate": 0.1, "steps": 10, "noise_multiplier": 1.0}
    if value == 10**27 and name in ("noise_multiplier", "truncation", "mixing"):
        return
    with pytest.raises(ValueError, match=f"`{name}` must be in") as error:
        Settings(**good | {name: value})
    assert len(str(error.value)) < 200


def test_full_batches_but_for_a_rounding():
    bound = mm.epsilon(run(nextafter(1.0, 0.0), 100, 10.0), delta=1e-5)
    assert bound.upper == pytest.approx(mm.epsilon(run(1.0, 100, 10.0), delta=1e-5).upper, rel=1e-6)
