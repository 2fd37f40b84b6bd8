"""The mechanism file against its definitions: clip-truncate-sum, coins, noise, mixing, one step."""

import math
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from scipy import stats

from mmaccount import Phase, Plan
from mmaccount.records import mixing_laws
from mmaccount.kernels import smooth_density as kernels
from trainer import ahead, mechanism
from trainer.mechanism import (
    Execution,
    Randomness,
    Run,
    clip_truncate_sum,
    coins,
    mix,
    mixing_coefficients,
    normals,
    private_step,
)

# seeds are fixed: a law that is right passes always, one that is off by 3/2 fails by far
P_VALUE = 1e-4


def definition(gradients, clip_norm, truncation):
    """Record by record in float64."""
    total = np.zeros(sum(part.shape[1:].numel() for part in gradients))
    for i in range(len(gradients[0])):
        flat = np.concatenate([part[i].double().numpy().ravel() for part in gradients])
        if np.isfinite(flat).all():
            flat = flat * min(1.0, clip_norm / max(np.linalg.norm(flat), 1e-300))
            total += np.clip(
                flat, -clip_norm / math.sqrt(truncation), clip_norm / math.sqrt(truncation)
            )
    return total


@given(
    rows=st.integers(0, 9),
    shapes=st.lists(st.sampled_from([(1,), (3, 2), (257,), (600,)]), min_size=1, max_size=3),
    clip_norm=st.sampled_from([1e-3, 1.0, 20.0]),
    truncation=st.sampled_from([1.0, 2.5, 100.0]),
    size=st.floats(-12, 12),
    seed=st.integers(0, 2**32),
)
def test_clip_truncate_sum_is_its_definition_and_bounded(
    rows, shapes, clip_norm, truncation, size, seed
):
    torch.manual_seed(seed)
    gradients = [torch.randn(rows, *shape) * 10.0**size for shape in shapes]
    found = clip_truncate_sum(gradients, clip_norm, truncation).total.numpy()
    expected = definition(gradients, clip_norm, truncation)
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=rows * clip_norm * 2 * (1 - mechanism.SHRINK)
    )
    for i in range(rows):  # one record at a time: the bounds hold exactly, not up to rounding
        one = clip_truncate_sum(
            [part[i : i + 1] for part in gradients], clip_norm, truncation
        ).total
        assert float(one.norm()) <= clip_norm
        assert float(one.abs().max()) <= clip_norm / math.sqrt(truncation)


def test_the_norm_is_never_taken_too_small_by_float32_sums():
    row = torch.full((1, 300_000), 0.1)  # a running float32 sum of squares would be far off
    assert float(clip_truncate_sum([row], 1.0, 1.0).total.norm()) <= 1.0
    assert float(clip_truncate_sum([row], 1.0, 1.0).total.norm()) >= 1.0 - 1e-4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38])
def test_a_record_that_is_not_finite_counts_as_zero(bad):
    good = torch.randn(3, 10)
    with_bad = torch.cat([good, torch.full((1, 10), bad)])
    found = clip_truncate_sum([with_bad], 1.0, 1.0)
    assert torch.equal(clip_truncate_sum([good], 1.0, 1.0).total, found.total)
    assert found.norms.isfinite().tolist() == [True, True, True, False]


@given(
    clip_norm=st.floats(mechanism.SMALLEST_CLIP_NORM, 1e-4),
    sizes=st.lists(st.floats(1e17, 3.4e38), min_size=2, max_size=2),
    rows=st.integers(1, 2),
)
def test_no_record_is_too_long_to_be_clipped(clip_norm, sizes, rows):
    """The norm of one coordinate is its absolute value, which does not overflow where the square
    does."""
    gradients = [torch.full((rows, 1), size) for size in sizes]
    found = clip_truncate_sum(gradients, clip_norm, 1.0).total
    assert float(found.norm()) <= rows * clip_norm


def test_parameters_without_dimensions_are_clipped_like_others():
    parts = [torch.tensor([3.0, 0.3]), torch.tensor([[4.0], [0.4]])]
    assert clip_truncate_sum(parts, 1.0, 1.0).total.tolist() == pytest.approx([0.9, 1.2], rel=1e-4)


def test_a_tiny_clip_norm_is_refused():
    with pytest.raises(ValueError, match="clip_norm"):
        clip_truncate_sum([torch.ones(1, 1)], 1e-12, 1.0)


# -------------------------------------------------------------------------------------------- laws


def counts_of_batches(rate, size=40, steps=4000):
    return np.array(
        [coins(Randomness(5).words("sampling", step), size, rate) for step in range(steps)], float
    )


def chi_square(member, rate):
    steps, size = member.shape
    found = ((member.sum(0) - steps * rate) ** 2 / (steps * rate * (1 - rate))).sum()
    return stats.chi2.sf(found, size)


def test_every_record_has_its_own_coin():
    rate = 0.3
    member = counts_of_batches(rate)
    steps, size = member.shape
    assert chi_square(member, rate) > P_VALUE
    assert chi_square(member, rate * 2 / 3) < P_VALUE
    assert chi_square(member, rate * 3 / 2) < P_VALUE
    variance = member.sum(1).var() / (size * rate * (1 - rate))  # 0 for batches of fixed size
    assert abs(variance - 1) < 5 * math.sqrt(2 / steps)
    pairs = np.corrcoef(member.T)[np.triu_indices(size, 1)] * math.sqrt(steps)
    assert abs(pairs).max() < 5.5
    assert abs(pairs.mean()) < 5 / math.sqrt(len(pairs))


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 3), (1e-9, 3), (2.0**-53, 3)])
def test_extreme_rates(rate, steps):
    batches = [
        int(coins(Randomness(0).words("sampling", step), 1000, rate).sum()) for step in range(steps)
    ]
    assert batches == [1000 if rate == 1 else 0] * steps


def test_the_rate_is_rounded_down():
    def words(count):
        return np.array([(2**53 // 3) << 11, ((2**53 // 3) - 1) << 11], dtype=np.uint64)

    assert coins(words, 2, 1 / 3).tolist() == [0, 1]


def test_noise_is_standard_normal_in_float64():
    drawn = normals(Randomness(1).words("noise", 1), 1_000_000)
    assert drawn.dtype == torch.float64
    values = drawn.numpy()
    assert stats.kstest(values, "norm").pvalue > P_VALUE
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(values[:2000] * factor, "norm").pvalue < P_VALUE
    for bound in (3.0, 4.0):  # tails on both sides
        expected = len(values) * stats.norm.sf(bound)
        assert abs((values > bound).sum() - expected) < 5 * math.sqrt(expected)
        assert abs((values < -bound).sum() - expected) < 5 * math.sqrt(expected)
    assert len(np.unique(values)) == len(values)


def test_noise_reaches_beyond_what_float32_can():
    smallest = normals(lambda count: np.zeros(count, dtype=np.uint64), 1)
    assert -8.6 < float(smallest) < -8.2
    assert float(normals(lambda count: np.full(count, 2**64 - 1, dtype=np.uint64), 1)) == 0.0


LAWS = {
    "uniform": stats.uniform(),
    "raised-cosine": stats.cosine(loc=0.5, scale=1 / (2 * math.pi)),
    "beta-1": stats.uniform(),
    "beta-2": stats.beta(2, 2),
    "beta-3.5": stats.beta(3.5, 3.5),
}


@pytest.mark.parametrize("law", LAWS)
def test_mixing_coefficients_follow_their_law(law):
    drawn = mixing_coefficients(Randomness(2).words("mixing", 1), 200_000, law).numpy()
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, LAWS[law].cdf).pvalue > P_VALUE
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(0.5 + (drawn[:5000] - 0.5) * factor, LAWS[law].cdf).pvalue < P_VALUE
    assert len(np.unique(drawn)) == len(drawn)


def test_mixing_coefficients_have_53_bits():
    ends = mixing_coefficients(
        lambda count: np.array([0, 2**11, 2**64 - 1], dtype=np.uint64), 3, "uniform"
    )
    assert ends.tolist() == [0.0, 2.0**-53, 1.0 - 2.0**-53]


@pytest.mark.parametrize("law", sorted(set(LAWS) - {"uniform", "beta-1"}))
def test_the_law_that_is_drawn_is_the_law_that_is_priced(law):
    """The density that alpha is drawn from against the accountant's, where the mixing is so wide
    that noise is nothing."""
    width, drawn = 1e7, mechanism.peak_one(law)
    priced = kernels.named(law, width)
    for alpha in (0.01, 0.1, 0.3, 0.49):
        height = kernels.log_density(-alpha * width, priced) - kernels.log_density(
            -0.5 * width, priced
        )
        assert (
            math.exp(height)
            == pytest.approx(drawn(alpha), rel=1e-9)
            == pytest.approx(drawn(1 - alpha), rel=1e-12)
        )


@pytest.mark.parametrize("law", ["beta-0.5", "beta-x", "normal", ""])
def test_unknown_laws_are_refused(law):
    with pytest.raises(ValueError, match=r"mixing_law|convert"):
        mixing_coefficients(Randomness(2).words("mixing", 1), 10, law)


def test_streams_are_fresh_or_repeatable_and_independent():
    def draw(seed, purpose, step):
        return tuple(Randomness(seed).words(purpose, step)(4))

    assert draw(None, "noise", 1) != draw(None, "noise", 1)
    assert draw(7, "noise", 1) == draw(7, "noise", 1)
    streams = [
        draw(seed, purpose, step)
        for seed in (7, 8)
        for purpose in ("noise", "mixing", "sampling")
        for step in (1, 2)
    ]
    assert len(set(streams)) == len(streams)
    words = Randomness(7).words("noise", 1)
    assert tuple(words(4)) != tuple(words(4))
    a, b = (
        normals(Randomness(7).words(purpose, 1), 100_000).numpy() for purpose in ("noise", "mixing")
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))


# ------------------------------------------------------------------------------------------ mixing


def test_mixing_is_the_papers_with_a_side_chosen_where_the_gap_is_zero():
    torch.manual_seed(0)
    prev, last, alpha, tau = (
        torch.randn(500).double(),
        torch.randn(500).double(),
        torch.rand(500).double(),
        0.8,
    )
    last[:50] = prev[:50]  # sign(0) = 0 would leave these unmixed
    gap = prev - last
    side = torch.where(gap >= 0, 1.0, -1.0)
    push = (tau - gap.abs()).clamp_min(0.0) / 2 * side
    a, b = prev + push, last - push
    expected = (
        torch.where(side > 0, alpha, 1 - alpha) * a + torch.where(side > 0, 1 - alpha, alpha) * b
    )
    torch.testing.assert_close(mix(prev, last, tau, alpha), expected, rtol=0, atol=1e-12)
    assert float((a - b).abs().min()) >= tau * (1 - 1e-12)


def test_mixing_refuses_what_it_cannot_mix():
    with pytest.raises(AssertionError, match="mixed"):
        mix(torch.tensor([math.nan]).double(), torch.zeros(1).double(), 1.0, torch.ones(1).double())


# ---------------------------------------------------------------------------------------- one step


class Charged(list):
    """A ledger in memory that also says in which order things happened."""

    def charge(self, step):
        self.append(("charged", step))


def one_step(
    records,
    *,
    seed=3,
    gap=0.0,
    z=1.0,
    steps=2,
    step=1,
    n=20,
    rate=0.5,
    chunk=4,
    law="uniform",
    truncation=4.0,
    lr=0.5,
    **how,
):
    phase = Phase(
        steps=steps,
        noise_multiplier=z,
        clip_norm=2.0,
        learning_rate=lr,
        gap=gap,
        truncation=truncation,
        mixing_law=law,
    )
    plan = Plan(dataset_size=n, sample_rate=rate, batch_size=rate * n, phases=(phase,), delta=1e-5)
    log = Charged()

    def gradients(weights, indices):
        log.append(("data", len(indices)))
        for part in indices.split(chunk):
            if len(part):
                yield [records[part]]

    weights = torch.zeros(records.shape[1])
    run = Run(plan=plan, ledger=log, randomness=Randomness(seed), records=len(records))
    released = private_step(run, step, weights, weights, gradients=gradients, **how)
    return released, log, plan


RECORDS = torch.randn(21, 300, generator=torch.Generator().manual_seed(0)) * 3


@pytest.mark.parametrize("gap", [0.0, 0.3])
@pytest.mark.parametrize("extra", [0, 7, 20])
def test_neighbours_with_the_same_coins_differ_by_at_most_the_sensitivity(gap, extra):
    """Record and replay: D without one record (at the end, so that the others keep their coins)
    against D with it."""
    swapped = RECORDS.clone()
    swapped[[extra, 20]] = RECORDS[[20, extra]]
    (large, large_log, plan), (small, small_log, _) = (
        one_step(part, gap=gap) for part in (swapped, swapped[:20])
    )
    moved = (large.weights - small.weights) / plan.phases[0].learning_rate * plan.batch_size
    assert 0 < float(moved.norm()) <= 2.0 * (1 + 1e-9)
    assert float(moved.abs().max()) <= 2.0 / 2.0 * (1 + 1e-9)
    assert [name for name, _ in large_log] == [name for name, _ in small_log] == ["charged", "data"]


def test_neighbour_bound_also_holds_when_the_batch_was_empty():
    (with_one, _, plan), (empty, log, _) = (
        one_step(RECORDS[:size], n=1, rate=1.0) for size in (1, 0)
    )
    assert log == [("charged", 1), ("data", 0)]
    assert float((with_one.weights - empty.weights).norm()) * plan.batch_size / 0.5 <= 2.0


def test_result_does_not_depend_on_the_microbatch():
    results = [one_step(RECORDS, n=20, chunk=chunk)[0].weights for chunk in (1, 7, 1000)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-13)


def test_noise_is_added_once_with_the_planned_size_and_divided_by_the_constant():
    silent = torch.zeros(20, 100_000)
    made, _, plan = one_step(silent, z=1.5, chunk=1)
    noise = -made.weights / 0.5 * plan.batch_size / (1.5 * 2.0)
    assert stats.kstest(noise.numpy(), "norm").pvalue > P_VALUE
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(noise.numpy() * factor, "norm").pvalue < P_VALUE
    assert len(made.noisy) == 100_000
    assert torch.equal(made.noisy, made.noisy.float().double())


@pytest.mark.parametrize("law", LAWS)
def test_the_first_step_mixes_every_coordinate_by_the_law_that_is_priced(law):
    made, _, plan = one_step(torch.zeros(20, 20_000), gap=0.4, z=1e-9, law=law)
    assert made.noisy is None
    (priced,) = plan.settings()
    assert (
        LAWS[priced.mixing_law].var()
        == pytest.approx(mixing_laws.variance(priced.mixing_law), rel=1e-12)
        == LAWS[law].var()
    )
    centred = made.weights.numpy() / (0.4 * 0.5) + 0.5
    assert stats.kstest(centred, LAWS[law].cdf).pvalue > P_VALUE
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(0.5 + (centred - 0.5) * factor, LAWS[law].cdf).pvalue < P_VALUE


@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_many_draws_are_made_by_threads_and_are_the_same(monkeypatch, gap):
    found, threads = [], []

    def drawn(words, size):
        threads.append(threading.current_thread() is threading.main_thread())
        return normals(words, size)

    monkeypatch.setattr(mechanism, "normals", drawn)
    for least in (RECORDS.shape[1] + 1, RECORDS.shape[1]):
        monkeypatch.setattr(ahead, "SMALLEST_FOR_A_THREAD", least)
        found.append(
            one_step(RECORDS, gap=gap, execution=Execution(ahead=ahead.by_thread))[0].weights
        )
    assert torch.equal(*found)
    assert threads == [True, False]


def step_of(plan, ledger, step, gradients):
    run = Run(plan=plan, ledger=ledger, randomness=Randomness(), records=20)
    return private_step(run, step, torch.zeros(1), torch.zeros(1), gradients=gradients)


def test_a_step_beyond_the_plan_touches_nothing():
    def never(weights, indices):
        raise AssertionError("data were touched")

    log = Charged()
    plan = one_step(RECORDS, n=20)[2]
    with pytest.raises(ValueError, match="step"):
        step_of(plan, log, 3, never)
    assert log == []


def test_the_charge_comes_first_and_a_failed_charge_stops_the_step():
    class Full:
        def charge(self, step):
            raise OSError("disk full")

    def never(weights, indices):
        raise AssertionError("data were touched")

    plan = one_step(RECORDS, n=20)[2]
    with pytest.raises(OSError, match="full"):
        step_of(plan, Full(), 1, never)


def test_empty_batches_are_steps_of_noise():
    sizes = []
    for step in range(1, 101):
        made, log, _ = one_step(RECORDS[:20], n=20, rate=1 / 20, steps=100, step=step)
        assert log[0] == ("charged", step)
        assert bool((made.noisy != 0).all())
        sizes.append(len(made.norms))
    assert 15 < sizes.count(0) < 60  # about (1 - 1/20)^20 = 36 %
