"""One contract for every method behind the front door: what each has to keep, whatever it rests on."""

import inspect
import itertools
from dataclasses import replace
from math import inf, nan

import pytest

import mmaccount as mm
from mmaccount.accounting import methods, renyi
from mmaccount.records.bound import TwoSided

SLACK = 1e-9  # relative, of a search
PLAIN = mm.Settings(sample_rate=0.02, steps=300, noise_multiplier=1.0)
RARE = mm.Settings(sample_rate=1e-4, steps=20, noise_multiplier=0.7)
WHOLE = mm.Settings(sample_rate=1.0, steps=10, noise_multiplier=5.0)
MIXED = mm.Settings(sample_rate=0.02, steps=300, noise_multiplier=0.5, mixing=4.0, truncation=25.0)
ONE_HOT = replace(MIXED, truncation=1.0, noise_multiplier=0.8)
COSINE = replace(MIXED, mixing_law="raised-cosine")
RUNS = {"plain": PLAIN, "rare": RARE, "whole": WHOLE, "mixed": MIXED, "one-hot": ONE_HOT}
RUNS |= {"cosine": COSINE}
QUESTIONS = [methods.EpsilonAt(1e-5), methods.DeltaAt(1.0, 1e-3)]


def concentrated(phases, question):
    """The best of the concentrated attacks."""
    found = methods.concentrated(phases, question).values()
    return TwoSided(max(bounds.lower for bounds in found), question.largest)


UPPER_SIDES = [methods.mixing_not_credited, methods.envelope, methods.tight_pair]
ATTACKS = [methods.spread_out, concentrated]
ANY_NOISE = [methods.renyi_moments]


def methods_for(run: mm.Settings) -> list:
    """Every method that has an answer for a run."""
    return ANY_NOISE + (UPPER_SIDES + ATTACKS if run.mixing > 0.0 else [methods.plain_gaussian])


CASES = [(name, method) for name, run in RUNS.items() for method in methods_for(run)]
NAMES = [f"{name}-{method.__name__}" for name, method in CASES]


def near(one: float, other: float, tolerance: float) -> bool:
    return one == other or abs(one - other) <= tolerance * max(one, other)


@pytest.mark.parametrize("question", QUESTIONS, ids=["epsilon", "delta"])
@pytest.mark.parametrize("name", RUNS)
def test_no_attack_of_any_method_is_above_a_bound_of_any_method(name, question):
    found = [method([RUNS[name]], question) for method in methods_for(RUNS[name])]
    for one, other in itertools.product(found, repeat=2):
        assert 0.0 <= one.lower <= other.upper * (1 + SLACK) <= question.largest * (1 + SLACK)


@pytest.mark.parametrize("question", QUESTIONS, ids=["epsilon", "delta"])
@pytest.mark.parametrize(("name", "method"), CASES, ids=NAMES)
def test_phases_add_up(name, method, question):
    """One phase of T steps is two of T/2, in any order beside another one, which costs more."""
    run = RUNS[name]
    half = replace(run, steps=run.steps // 2)
    more = replace(run, steps=1)
    whole = method([run], question)
    halves = method([half, half], question)
    assert near(whole.lower, halves.lower, 2e-3)
    assert near(whole.upper, halves.upper, 2e-3)
    one, other = method([run, more], question), method([more, run], question)
    assert near(one.lower, other.lower, 1e-6)
    assert near(one.upper, other.upper, 1e-6)
    assert whole.lower <= one.upper * (1 + SLACK)


# Of these methods every change of noise or mixing asks for another envelope, which takes a second.
SLOW = (methods.envelope, methods.tight_pair, concentrated)
HARDER = {  # changes that never make a run more private
    "steps": lambda run: replace(run, steps=2 * run.steps),
    "noise": lambda run: replace(run, noise_multiplier=0.8 * run.noise_multiplier),
    "rate": lambda run: replace(run, sample_rate=min(1.0, 2.0 * run.sample_rate)),
    "mixing": lambda run: replace(run, mixing=0.5 * run.mixing),
}


HARDER_CASES = [
    (name, method, change)
    for name, method in CASES
    for change in HARDER
    if method not in SLOW or change in ("steps", "rate") or name == "mixed"
]


@pytest.mark.parametrize(("name", "method", "change"), HARDER_CASES)
def test_less_privacy_costs_more(name, method, change):
    """Upper bounds grow, and no attack on the easier run exceeds the bound on the harder one."""
    question = QUESTIONS[0]
    run, harder = RUNS[name], HARDER[change](RUNS[name])
    here, there = method([run], question), method([harder], question)
    assert here.lower <= there.upper * (1 + SLACK)
    assert here.upper <= there.upper * (1 + 1e-6) or there.upper == inf


# ------------------------------------------------------------------------------ NaN never lowers


class Broken:
    """A question whose numerics answer NaN."""

    largest, patience = inf, 0.02

    def by_moments(self, phases):
        return mm.Bound(upper=nan, method="broken")

    def by_inversion(self, phases):
        return TwoSided(nan, nan)

    def by_losses(self, losses):
        return nan


@pytest.mark.parametrize(("name", "method"), CASES, ids=NAMES)
def test_nan_says_nothing(name, method):
    assert method([RUNS[name]], Broken()) == TwoSided(0.0, inf)


@pytest.mark.parametrize("name", RUNS)
def test_nan_of_one_method_leaves_the_others(name, monkeypatch):
    run = RUNS[name]
    moments = renyi.epsilon(run, delta=1e-5).upper
    for question in (methods.EpsilonAt, methods.DeltaAt):
        monkeypatch.setattr(question, "by_inversion", lambda self, phases: TwoSided(nan, nan))
        monkeypatch.setattr(question, "by_losses", lambda self, losses: nan)
    bound = mm.epsilon(run, delta=1e-5)
    assert (bound.lower, bound.upper) == (0.0, moments)


@pytest.mark.parametrize("name", RUNS)
def test_moments_that_are_nan_count_as_infinite(name, monkeypatch):
    monkeypatch.setattr(renyi, "step_log_moment", lambda settings, order: nan)
    bound = renyi.epsilon(RUNS[name], delta=1e-5)
    assert bound.upper == inf
    assert bound.reason is not None


# -------------------------------------------------------------------------------------- extremes

EXTREMES = [
    mm.Settings(sample_rate=1e-12, steps=1, noise_multiplier=1e-3),
    mm.Settings(sample_rate=1.0, steps=10**15, noise_multiplier=1e9),
    mm.Settings(sample_rate=0.5, steps=10**15, noise_multiplier=1e-3),
    mm.Settings(sample_rate=1e-12, steps=10**15, noise_multiplier=1e6),
    mm.Settings(sample_rate=0.3, steps=1, noise_multiplier=1.0, mixing=1e15, truncation=1e12),
    mm.Settings(sample_rate=1e-9, steps=10**9, noise_multiplier=1e-3, mixing=1e-3),
    mm.Settings(
        sample_rate=0.01, steps=100, noise_multiplier=1.0, mixing=1e12, mixing_law="beta-4"
    ),
]
ENDS = [methods.EpsilonAt(1e-300), methods.EpsilonAt(0.9), methods.DeltaAt(0.0, 1.0)]
ENDS += [methods.DeltaAt(1e6, 1e-300)]
CORNERS = [
    (run, question) for run in EXTREMES for question in ENDS[: 4 if run.mixing == 0.0 else 2]
]


@pytest.mark.parametrize("number", range(len(CORNERS)))
def test_the_ends_of_the_range_have_an_answer(number):
    run, question = CORNERS[number]
    for method in methods_for(run):
        if method is concentrated:
            continue  # takes seconds at great width; test_lower_bounds.py looks at it
        bounds = method([run], question)
        assert 0.0 <= bounds.lower <= bounds.upper * (1 + SLACK) <= question.largest * (1 + SLACK)


# ------------------------------------------------------------------------------ the front door


@pytest.mark.parametrize("name", RUNS)
def test_the_front_door_keeps_the_best_of_each_side(name):
    run, question = RUNS[name], QUESTIONS[0]
    found = [method([run], question) for method in methods_for(run)]
    bound = mm.epsilon(run, delta=1e-5)
    assert bound.upper >= min(bounds.upper for bounds in found) * (1 - SLACK)
    assert bound.lower == pytest.approx(max(bounds.lower for bounds in found), rel=1e-6)


def test_delta_of_a_run_whose_bounds_are_far_apart():
    """What is looked at without mixing, as a last resort, has attacks of its own: they do not count."""
    run = mm.Settings(sample_rate=0.02, steps=500, noise_multiplier=0.7, mixing=2.0)
    bound = mm.delta(run, epsilon=0.8 * mm.epsilon(run, delta=1e-5).upper)
    assert 0.0 < bound.lower <= bound.upper < 1.0


def test_no_method_is_left_out():
    """Whatever in methods.py takes phases and a question is held to this contract."""
    held = {method.__name__ for method in [*ANY_NOISE, *UPPER_SIDES, *ATTACKS]}
    held |= {"plain_gaussian", "nothing_in_its_place"}
    asked = {
        name
        for name, value in vars(methods).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and list(inspect.signature(value).parameters) == ["phases", "question"]
    }
    assert asked == held
