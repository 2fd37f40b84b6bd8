"""solve: the answer meets the target, and nothing less private by more than the tolerance does."""

from dataclasses import replace
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmaccount as mm
from mmaccount import Infeasible, Settings
from mmaccount.analysis import calibrate
from mmaccount.analysis.calibrate import KNOBS, solve_batch_size
from mmaccount.accounting.search import safe_end

DELTA = 1e-5


@pytest.mark.parametrize("run", ["resnet", "plain"])
@pytest.mark.parametrize("name", ["noise_multiplier", "steps", "sample_rate", "mixing"])
@pytest.mark.parametrize("epsilon", [2.0, 3.0, 20.0])
def test_the_answer_is_safe_and_next_to_the_edge(run, name, epsilon, request):
    start = request.getfixturevalue(run)
    found = mm.solve(start, name, epsilon=epsilon, delta=DELTA, tight=False)
    assert mm.epsilon(found, delta=DELTA, tight=False).upper <= epsilon
    assert replace(found, **{name: getattr(start, name)}) == start
    value = getattr(found, name)
    if value == KNOBS[name].useful:
        return
    away = 1 if KNOBS[name].useful > KNOBS[name].private else -1
    beyond = value + away if name == "steps" else value * (1 + away * 1e-6)
    assert mm.epsilon(replace(found, **{name: beyond}), delta=DELTA, tight=False).upper > epsilon


@pytest.mark.parametrize(("name", "move"), [("noise_multiplier", 0.99), ("steps", 1.02)])
def test_the_tight_answer_is_safe_and_less_private_than_the_fast_one(resnet, name, move):
    found = mm.solve(resnet, name, epsilon=3.0, delta=DELTA)
    assert mm.epsilon(found, delta=DELTA).upper <= 3.0
    value, fast = (
        getattr(run, name)
        for run in (found, mm.solve(resnet, name, epsilon=3.0, delta=DELTA, tight=False))
    )
    assert value < 0.9 * fast if name == "noise_multiplier" else value > 1.1 * fast
    beyond = round(value * move) if name == "steps" else value * move
    assert mm.epsilon(replace(found, **{name: beyond}), delta=DELTA).upper > 3.0


def test_truncation():
    run = Settings(sample_rate=0.02, steps=5000, noise_multiplier=0.366945, mixing=7.5)
    found = mm.solve(run, "truncation", epsilon=8.0, delta=DELTA, tight=False)
    assert mm.epsilon(found, delta=DELTA, tight=False).upper <= 8.0
    assert (
        mm.epsilon(
            replace(found, truncation=found.truncation * 0.99), delta=DELTA, tight=False
        ).upper
        > 8.0
    )
    assert 25 < found.truncation < 100  # 8.20 at p = 25, 7.18 at p = 100


def test_noise_for_epsilon_three_agrees_with_the_optimum_of_a_peer():
    """dp_accounting's PLD at grid 1e-5: 1.564966 (its calibration returns 1.564987, opacus'
    1.572266)."""
    run = Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
    found = mm.solve(run, "noise_multiplier", epsilon=3.0, delta=DELTA).noise_multiplier
    assert found == pytest.approx(1.564966, rel=1e-5)


def test_where_the_search_starts_does_not_matter(plain):
    found = [
        mm.solve(
            replace(plain, noise_multiplier=z), "noise_multiplier", epsilon=3.0, delta=DELTA
        ).noise_multiplier
        for z in (1e-9, 0.1, 1.6, 50.0, 1e9)
    ]
    assert found == pytest.approx([found[0]] * 5, rel=3e-9)


def test_a_target_met_at_the_useful_end_needs_no_search(resnet):
    easy = Settings(sample_rate=1e-6, steps=10, noise_multiplier=3.0, mixing=5.0)
    assert mm.solve(easy, "mixing", epsilon=5.0, delta=DELTA).mixing == 0.0
    assert mm.solve(easy, "sample_rate", epsilon=50.0, delta=DELTA).sample_rate == 1.0


def test_infeasible_says_the_best_and_which_knob_would_do(resnet):
    with pytest.raises(
        Infeasible,
        match=r"`truncation` alone cannot reach epsilon 3.*noise_multiplier = 1.20884 would",
    ) as caught:
        mm.solve(resnet, "truncation", epsilon=3.0, delta=DELTA, tight=False)
    most = replace(resnet, truncation=KNOBS["truncation"].private)
    assert caught.value.best == mm.epsilon(most, delta=DELTA, tight=False).upper
    with pytest.raises(Infeasible, match=r"`steps` alone .* at steps = 1\."):
        mm.solve(
            replace(resnet, noise_multiplier=0.05, mixing=0.0), "steps", epsilon=0.1, delta=1e-12
        )


def test_infeasible_for_every_knob(resnet, monkeypatch):
    monkeypatch.setattr(calibrate, "upper_epsilon", lambda runs, delta, tight=False: 9.0)
    with pytest.raises(Infeasible, match="Nor can any other knob alone"):
        mm.solve(resnet, "steps", epsilon=3.0, delta=DELTA)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "clip_norm"}, "`name` must be one of noise_multiplier, steps"),
        ({"epsilon": 0.0}, r"`epsilon` must be in \(0, inf\)"),
        ({"epsilon": float("nan")}, r"`epsilon` must be in \(0, inf\)"),
        ({"delta": 1.0}, r"`delta` must be in \(0, 1\)"),
    ],
)
def test_bad_arguments(plain, arguments, message):
    call = {"name": "steps", "epsilon": 1.0, "delta": DELTA} | arguments
    with pytest.raises(ValueError, match=message):
        mm.solve(plain, call["name"], epsilon=call["epsilon"], delta=call["delta"])


@settings(max_examples=200, deadline=None)
@given(
    edge=st.floats(1e-6, 1e6),
    slope=st.floats(0.01, 100),
    low=st.floats(1.01, 1e3),
    high=st.floats(1.01, 1e3),
)
def test_safe_end_brackets_any_monotone_function(edge, slope, low, high):
    tried = []

    def excess(x):
        tried.append(x)
        return slope * log(x / edge)

    found = safe_end(excess, edge / low, edge * high)
    assert found <= edge * (1 + 1e-15)
    assert found in tried
    assert found == pytest.approx(edge, rel=2e-9)
    assert len(tried) < 80


@given(edge=st.integers(1, 10**6), jump=st.floats(1e-9, 1e9))
def test_safe_end_on_whole_numbers_is_the_last_one_that_meets(edge, jump):
    found = safe_end(lambda x: -jump if x <= edge else jump, 1, 10**6 + 1, whole=True)
    assert found == edge


def test_a_larger_batch_at_fixed_gap_is_not_monotone(resnet):
    """Widening the mixing can outweigh the higher rate: 4.3 at one record, 18 at 50, 5.9 near 660,
    and up again."""

    def build(batch):
        return Settings.from_training(
            dataset_size=50_000,
            batch_size=batch,
            steps=3400,
            noise_multiplier=0.335,
            clip_norm=20,
            gap=0.15,
            truncation=100,
        )

    def upper(batch):
        return mm.epsilon(build(batch), delta=DELTA, tight=False).upper

    found = solve_batch_size(build, dataset_size=50_000, epsilon=8.0, delta=DELTA, tight=False)
    assert upper(found) <= 8.0 < upper(found + 1)
    assert upper(1) < 8.0 < upper(50)
    assert found > 660
    with pytest.raises(Infeasible, match=r"best reachable is 3\.8.*, at batch_size = 1\."):
        solve_batch_size(build, dataset_size=50_000, epsilon=3.0, delta=DELTA, tight=False)


def test_the_target_pays_for_other_phases_too(plain):
    before = Settings(sample_rate=1.0, steps=1, noise_multiplier=2.0)
    found = mm.solve(plain, "noise_multiplier", epsilon=3.0, delta=1e-5, besides=[before])
    assert 3.0 * (1 - 1e-6) < mm.epsilon([before, found], delta=1e-5).upper <= 3.0
    with pytest.raises(mm.Infeasible, match="best reachable"):
        mm.solve(plain, "noise_multiplier", epsilon=0.1, delta=1e-5, besides=[before])
