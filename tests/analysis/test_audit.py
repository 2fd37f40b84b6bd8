"""What errors prove: coverage by simulation, mechanisms of known epsilon, scores against the
accountant's densities."""

import math

import numpy as np
import pytest
from scipy import stats

from mmaccount import Phase, Plan
from mmaccount.analysis import audit
from mmaccount.analysis.audit import (
    Errors,
    epsilon_of_errors,
    lower_bound,
    one_run_epsilon,
    one_run_p_value,
    upper_limit,
)
from mmaccount.kernels import gaussian, smooth_density


def test_the_limit_is_exceeded_as_rarely_as_stated():
    """For every probability: the exact chance that the limit lies below it is at most the level,
    and near it somewhere."""
    trials, level = 60, 0.05
    successes = np.arange(trials + 1)
    limits = upper_limit(successes, trials, level)
    assert limits[-1] == 1.0
    assert (np.diff(limits) >= 0).all()
    truths = np.linspace(0.001, 0.999, 400)
    missed = [stats.binom.pmf(successes[limits < truth], trials, truth).sum() for truth in truths]
    assert level / 2 < max(missed) <= level * (1 + 1e-9)
    assert upper_limit(0, 1000, 0.025) == pytest.approx(-math.log(0.025) / 1000, rel=2e-3)


def randomised_response(generator, epsilon, size):
    """Scores 1 and 0 of a mechanism that is exactly (epsilon, 0)-private."""
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    return (generator.random(size) < right).astype(float), (
        generator.random(size) < 1 - right
    ).astype(float)


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_a_private_mechanism_is_rejected_no_more_often_than_stated(epsilon):
    generator, confidence, repeats = np.random.default_rng(1), 0.9, 1000
    found = [
        lower_bound(
            *randomised_response(generator, epsilon, 200), delta=0.0, confidence=confidence
        ).epsilon
        for _ in range(repeats)
    ]
    wrong = sum(value > epsilon for value in found)
    assert wrong <= stats.binom.ppf(0.9999, repeats, 1 - confidence)
    assert max(found) >= 0.5 * epsilon  # not by being empty


def test_a_mechanism_of_larger_epsilon_is_rejected():
    scores = randomised_response(np.random.default_rng(2), 1.5, 4000)
    assert 1.0 < lower_bound(*scores, delta=0.0).epsilon < 1.5
    upside_down = (1.0 - scores[1], 1.0 - scores[0])
    assert 1.0 < lower_bound(*upside_down, delta=0.0).epsilon < 1.5


def test_the_threshold_is_chosen_on_one_half_and_judged_on_the_other():
    """Scores that fit the first half by accident (here: perfectly) prove nothing."""
    first = np.arange(400) % 2 == 0
    noise = np.random.default_rng(3).random(400)
    found = lower_bound(np.where(first, 2.0, noise), np.where(first, -1.0, noise[::-1]), delta=0.0)
    assert found.epsilon == 0.0
    assert found.errors.present == found.errors.absent == 200


def test_both_signs_are_used():
    rare_negatives = Errors(false_positives=500, absent=1000, false_negatives=0, present=1000)
    assert epsilon_of_errors(rare_negatives, delta=0.0) > 3
    assert epsilon_of_errors(Errors(1000, 1000, 1000, 1000), delta=0.0) == 0.0


@pytest.mark.parametrize("bad", [np.array([1.0]), np.array([math.nan, 1.0]), np.ones((2, 2))])
def test_scores_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="present"):
        lower_bound(bad, np.zeros(5), delta=0.1)


# ------------------------------------------------------------------------------- likelihood ratios


@pytest.mark.parametrize("width", [0.1, 1.0, 7.0, 40.0])
def test_densities_are_the_accountants(width):
    """Differences of log densities, over the edge and into the tail."""
    at = np.array([0.0, 0.3 * width, 0.5 * width, 0.5 * width + 2.0, 0.5 * width + 6.0])
    for law in ("uniform", "raised-cosine", "beta-2", "beta-3.5"):
        found = audit.log_density(at, width, law)
        if law == "uniform":
            expected = np.array([gaussian.log_density(x - 0.5 * width, width) for x in at])
        else:
            expected = np.array(
                [
                    smooth_density.log_density(x - 0.5 * width, smooth_density.named(law, width))
                    for x in at
                ]
            )
        np.testing.assert_allclose(
            found - found[0], expected - expected[0], rtol=1e-7, atol=1e-11
        )  # the rule, at width 40
        np.testing.assert_allclose(audit.log_density(-at, width, law), found, rtol=1e-12)


def test_without_mixing_it_is_the_gaussian():
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(
        audit.log_density(x, 0.0), stats.norm.logpdf(x) - stats.norm.logpdf(0)
    )


@pytest.mark.parametrize(("rate", "gap"), [(1.0, 0.0), (0.3, 0.0), (0.4, 0.05)])
def test_the_likelihood_ratio_has_mean_one_without_the_record(rate, gap):
    """E[exp(log ratio)] = 1 when the record is absent: true of likelihood ratios of any law, and of
    little else."""
    steps, runs, coordinates = 3, 40_000, 2
    phase = Phase(
        steps=steps, noise_multiplier=2.0, clip_norm=1.0, learning_rate=0.5, gap=gap, truncation=2.0
    )
    plan = Plan(
        dataset_size=30, sample_rate=rate, batch_size=30 * rate, phases=(phase,), delta=1e-3
    )
    generator, unit = np.random.default_rng(4), 0.5 * 2.0 / plan.batch_size
    iterates = [np.zeros((runs, coordinates))] * 2
    for _ in range(steps):
        before, last = iterates[-1], iterates[-2]
        width = np.maximum(np.abs(before - last), gap * 0.5)
        centre = (
            (before + last) / 2 + (generator.random(before.shape) - 0.5) * width if gap else before
        )
        iterates.append(centre + unit * generator.standard_normal(before.shape))
    ratio = np.exp(
        audit.log_likelihood_ratio(np.stack(iterates[1:]), plan, np.full(coordinates, 0.5**0.5))
    )
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(runs)
    assert ratio.std() > 0.05


# ----------------------------------------------------------------------------------------- one run


@pytest.mark.parametrize(("correct", "expected"), [(60, 0.05), (80, 0.96), (95, 2.17), (100, 3.47)])
def test_one_run_gives_the_published_numbers(correct, expected):
    """Steinke, Nasr, Jagielski (2023): 1000 canaries, 100 guesses, delta 1e-5, 95 %."""
    found = one_run_epsilon(correct, 100, 1000, delta=1e-5, confidence=0.95)
    assert found == pytest.approx(expected, abs=0.005)
    assert one_run_p_value(correct, 100, 1000, epsilon=found, delta=1e-5) <= 0.05


def test_one_run_of_a_private_mechanism_is_rejected_no_more_often_than_stated():
    """Randomised response on every coin: the worst case at delta 0, where the bound is as often
    wrong as it may be."""
    generator, epsilon, guesses = np.random.default_rng(5), 1.0, 300
    correct = generator.binomial(guesses, math.e / (1 + math.e), 2000)
    values = {
        v: one_run_p_value(int(v), guesses, guesses, epsilon=epsilon, delta=0.0)
        for v in set(correct)
    }
    rejected = sum(values[v] <= 0.1 for v in correct)
    assert 100 < rejected <= stats.binom.ppf(0.9999, 2000, 0.1)
    larger = generator.binomial(guesses, math.exp(2) / (1 + math.exp(2)), 50)
    assert all(
        one_run_p_value(int(v), guesses, guesses, epsilon=epsilon, delta=0.0) < 0.01 for v in larger
    )


def test_delta_of_one_over_canaries_makes_one_run_useless():
    assert one_run_epsilon(100, 100, 1000, delta=1e-3) == 0.0
    assert one_run_epsilon(0, 0, 1000, delta=0.0) == 0.0


def test_one_run_refuses_impossible_counts():
    with pytest.raises(ValueError, match="correct"):
        one_run_epsilon(11, 10, 100, delta=0.0)


def test_scores_of_one_run_are_guessed_from_both_ends():
    kept = np.random.default_rng(6).random(1000) < 0.5
    rows = audit.one_run(
        {"known": kept.astype(float), "nothing": np.arange(1000.0)}, kept, delta=1e-6
    )
    assert [row.guesses for row in rows] == 2 * [1000, 200, 50]
    known, nothing = rows[:3], rows[3:]
    assert max(row.epsilon for row in known) > 3.5
    assert known[1].correct == 200
    assert all(row.epsilon == 0.0 for row in nothing)
    with pytest.raises(ValueError, match="scores"):
        audit.one_run({"bad": np.full(1000, math.nan)}, kept, delta=0.0)
