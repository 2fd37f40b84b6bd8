"""Batches that are not Poisson samples: published numbers, a simulated attack, refusals."""

import json
from math import exp, log

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import norm

import mmaccount as mm
from mmaccount.commands.main import main
from mmaccount.analysis.sampling_schemes import LARGEST_BATCH


def gaussian_epsilon(mu, delta):
    """Balle and Wang 2018, Theorem 8."""

    def excess(epsilon):
        return (
            norm.cdf(mu / 2 - epsilon / mu)
            - exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
            - delta
        )

    return brentq(excess, 0.0, mu * mu + 40 * mu, xtol=1e-13)


@pytest.mark.parametrize(
    ("z", "batches", "deterministic", "attack"),
    [(0.4, 10**4, 14.45, 14.45), (0.5, 10**4, 11.0, 10.99), (1.0, 1000, 4.89, 3.72)],
)
def test_one_epoch_has_the_published_numbers(z, batches, deterministic, attack):
    """Evaluated from Chua et al. 2024, arXiv 2403.17673, at delta 1e-6, to two digits after the
    point."""
    run = mm.Settings(sample_rate=1 / batches, steps=batches, noise_multiplier=z)
    found = mm.once_per_epoch(run, delta=1e-6)
    assert (found.upper, found.lower) == (
        pytest.approx(deterministic, abs=5e-3),
        pytest.approx(attack, abs=5e-3),
    )
    assert found.upper >= gaussian_epsilon(1 / z, 1e-6) * (1 - 1e-12)
    assert found.attack == LARGEST_BATCH
    assert found.lower > mm.epsilon(run, delta=1e-6).upper


@pytest.mark.parametrize(
    ("relation", "times"), [({}, 1), ({"neighbours": "replace-one"}, 2), ({"group_size": 3}, 3)]
)
def test_epochs_compose_to_a_gaussian(relation, times):
    run = mm.Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=20.0, **relation
    )  # 33 batches, 104 epochs begun
    found = mm.once_per_epoch(run, delta=1e-5)
    assert found.upper == pytest.approx(gaussian_epsilon(times * 104**0.5 / 20.0, 1e-5), rel=1e-6)
    assert (
        found.lower
        <= mm.once_per_epoch(
            mm.Settings(sample_rate=0.03, steps=34, noise_multiplier=20.0), delta=1e-5
        ).upper
    )


def test_mixing_is_credited_step_by_step(resnet):
    """Given who is where, an epoch is one step with everybody in the batch."""
    found = mm.once_per_epoch(resnet, delta=1e-5, tight=False)
    every = mm.Settings(**resnet.to_dict() | {"sample_rate": 1.0, "steps": 104})
    assert found.upper == mm.epsilon(every, delta=1e-5, tight=False).upper
    assert (found.lower, found.attack) == (None, None)


def test_the_attack_is_simulated():
    """The largest batch sum of 400,000 epochs, with and without the record, at the best threshold."""
    z, batches, delta, size = 1.0, 8, 0.1, 400_000
    rng = np.random.default_rng(3)
    noise = z * rng.normal(size=(size, batches))
    place = rng.integers(batches, size=size)
    sums = []
    for moved in (2.0, 1.0):
        moves = np.zeros_like(noise)
        moves[np.arange(size), place] = moved
        sums.append((noise + moves).max(axis=1))
    claimed = mm.once_per_epoch(
        mm.Settings(sample_rate=1 / batches, steps=batches, noise_multiplier=z), delta=delta
    ).lower
    best = 0.0
    for threshold in np.linspace(1.0, 4.5, 36):
        present, absent = (float(np.mean(side > threshold)) for side in sums)
        best = max(best, log(max(present - delta, 1e-12) / absent) if absent * size > 200 else 0.0)
    assert best == pytest.approx(claimed, abs=0.05)
    assert claimed <= gaussian_epsilon(1 / z, delta)


def test_shorter_runs_have_no_attack():
    run = mm.Settings(sample_rate=0.01, steps=99, noise_multiplier=0.5)
    assert mm.once_per_epoch(run, delta=1e-6).lower == 0.0
    assert mm.once_per_epoch(mm.Settings(**run.to_dict() | {"steps": 100}), delta=1e-6).lower > 1.0


OPTIONS = [
    "--sample-rate",
    "0.001",
    "--steps",
    "1000",
    "--noise-multiplier",
    "1",
    "--delta",
    "1e-6",
]


def test_the_command_refuses_with_the_numbers_beside_it(capsys):
    assert main(["epsilon", *OPTIONS, "--sampling", "shuffle"]) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err.count("\n") == 1
    assert text.err.startswith("mmaccount: `sampling` shuffle is not Poisson sampling")
    assert "epsilon <= 4.88" in text.err
    assert "an attack reaches 3.72" in text.err
    assert "Poisson sampling has at most 0.18" in text.err
    assert main(["epsilon", *OPTIONS, "--sampling", "balls-in-bins"]) == 2
    text = capsys.readouterr().err
    assert "epsilon <= 4.88" in text
    assert "attack" not in text


def test_poisson_is_not_refused(capsys):
    assert main(["epsilon", *OPTIONS, "--sampling", "poisson", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] < 0.2
    run = mm.Settings(sample_rate=0.001, steps=1000, noise_multiplier=1.0)
    assert mm.refuse_unless_poisson("poisson", run, delta=1e-6) is None
    with pytest.raises(
        ValueError, match="`sampling` must be one of poisson, shuffle, balls-in-bins"
    ):
        mm.refuse_unless_poisson("random", run, delta=1e-6)
    with pytest.raises(ValueError, match="shuffle is not Poisson sampling"):
        mm.refuse_unless_poisson("shuffle", run, delta=1e-6)
