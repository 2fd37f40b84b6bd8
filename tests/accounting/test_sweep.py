"""Many runs at once: the bounds of one run at a time."""

import numpy as np
import pytest

import mmaccount as mm
from mmaccount import Settings
from mmaccount.accounting import renyi
from mmaccount.accounting.accountant import upper_epsilon

DELTA = 1e-5


def random_runs(count, seed):
    rng = np.random.default_rng(seed)
    return [
        Settings(
            sample_rate=float(10 ** rng.uniform(-3, -0.7)),
            steps=int(10 ** rng.uniform(2, 4.5)),
            noise_multiplier=float(10 ** rng.uniform(-0.6, 0.5)),
            mixing=float(10 ** rng.uniform(0, 1.7)),
            truncation=float(10 ** rng.uniform(0, 3)),
        )
        for _ in range(count)
    ]


def test_a_sweep_agrees_with_one_run_at_a_time():
    runs = random_runs(40, seed=1)
    single = np.array([upper_epsilon([run], DELTA) for run in runs])
    exact = mm.sweep(runs, delta=DELTA, exact=True)
    assert np.all(np.abs(exact / single - 1.0) <= 1e-3)
    single = np.array([renyi.epsilon(run, delta=DELTA).upper for run in runs])
    fast = mm.sweep(runs, delta=DELTA)
    assert np.all(np.abs(fast / single - 1.0) <= 1e-3)
    assert np.all(fast >= single * (1 - 1e-3))
    assert np.median(fast / single) <= 1.1


def test_runs_outside_of_the_fast_path_are_priced_exactly():
    runs = [
        Settings(sample_rate=0.01, steps=100, noise_multiplier=1.0),
        Settings(sample_rate=0.01, steps=100, noise_multiplier=2.0, mixing=3.0, noise="laplace"),
        Settings(
            sample_rate=1.0, steps=3, noise_multiplier=2.0, mixing=3.0, mixing_law="raised-cosine"
        ),
        Settings(sample_rate=1e-3, steps=10, noise_multiplier=0.02, mixing=3.0),
    ]
    found = mm.sweep(runs, delta=DELTA)
    assert found.tolist() == [mm.epsilon(run, delta=DELTA, tight=False).upper for run in runs]


def test_progress_and_order():
    runs, seen = random_runs(70, seed=2), []
    found = mm.sweep(runs, delta=DELTA, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(64, 70), (70, 70)]
    assert mm.sweep(runs[::-1], delta=DELTA).tolist() == found[::-1].tolist()
    assert mm.sweep([], delta=DELTA).size == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`delta` must be in \(0, 1\)"):
        mm.sweep([], delta=0.0)
    with pytest.raises(TypeError, match="`runs` must be a sequence of Settings"):
        mm.sweep([*random_runs(1, seed=3), "no run"], delta=DELTA)
