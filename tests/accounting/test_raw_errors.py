"""Arguments of a wrong kind and settings at the ends of the range: one clear line, or a bound."""

from dataclasses import replace

import numpy as np
import pytest

import mmaccount as mm

RUN = mm.Settings(sample_rate=0.1, steps=1, noise_multiplier=1.0)
NO_SERIES = [0.5, 1, True, float("nan"), np.array(0.5), object()]


@pytest.mark.parametrize("value", NO_SERIES)
def test_a_number_is_no_series(value):
    with pytest.raises(TypeError, match="`rates` must be a series"):
        mm.trade_off(RUN, value)
    with pytest.raises(TypeError, match="`epsilons` must be a series"):
        mm.privacy_profile(RUN, value)
    with pytest.raises(TypeError, match="`orders` must be a series"):
        mm.epsilon(RUN, delta=1e-5, orders=value)


@pytest.mark.parametrize("value", ["uniform", 1.0, None, float("inf")])
def test_what_is_no_run_is_refused_by_name(value):
    with pytest.raises(TypeError, match="`settings`"):
        mm.solve(value, "noise_multiplier", epsilon=1.0, delta=1e-5)
    with pytest.raises(TypeError, match="`settings`"):
        mm.compare(value, delta=1e-5)


@pytest.mark.parametrize("noise", [1e16, 1e30, 1e105, 1e137])
@pytest.mark.parametrize("kind", [{"group_size": 5}, {"neighbours": "replace-one"}])
def test_groups_at_any_noise_have_a_bound(noise, kind):
    run = mm.Settings(sample_rate=0.3, steps=100, noise_multiplier=noise, **kind)
    bound = mm.delta(run, epsilon=0.0)
    # by Gaussians without subsampling: TV <= shift / sqrt(2 pi)
    most = 10.0 * 10.0 / noise / 2.5
    assert bound.lower <= most
    assert 0.0 < bound.upper <= 1e-3


def test_hardly_any_noise_and_many_steps_cost_without_end():
    run = mm.Settings(sample_rate=1.0, steps=1_528_911_618_064, noise_multiplier=2.8e-149)
    assert mm.epsilon(run, delta=1e-5).upper == float("inf")


@pytest.mark.parametrize("noise", [1.1e15, 1e30, 1e137])
@pytest.mark.parametrize("kind", [{"group_size": 2}, {"neighbours": "replace-one"}])
def test_more_noise_costs_no_more_than_the_most_that_is_computed(noise, kind):
    run = mm.Settings(sample_rate=0.9, steps=10**6, noise_multiplier=1e15, **kind)
    noisier = replace(run, noise_multiplier=noise)
    assert mm.delta(noisier, epsilon=0.0).upper <= mm.delta(run, epsilon=0.0).upper < 1e-11
    assert mm.epsilon(noisier, delta=1e-5).upper <= mm.epsilon(run, delta=1e-5).upper


def test_a_phase_with_too_much_noise_neither_hides_nor_raises_the_others():
    alone = mm.Settings(sample_rate=0.1, steps=100, noise_multiplier=2.0, group_size=2)
    silent = replace(alone, noise_multiplier=1e40)
    one, both = (mm.epsilon(phases, delta=1e-5) for phases in (alone, [silent, alone]))
    assert both.lower == pytest.approx(one.lower, rel=1e-6)
    assert both.upper == pytest.approx(one.upper, rel=1e-5)
    one, both = (mm.delta(phases, epsilon=1.0) for phases in (alone, [silent, alone]))
    assert both.lower == pytest.approx(one.lower, rel=1e-4)
    assert both.upper == pytest.approx(one.upper, rel=1e-4)


def test_several_phases_are_no_run_to_solve_for():
    with pytest.raises(TypeError, match="one Settings"):
        mm.solve([RUN, RUN], "noise_multiplier", epsilon=1.0, delta=1e-5)
