"""The trainer's probe: against definitions on digits, and all the way from probe to advice to a
trained, priced run."""

import json
from math import log

import numpy as np
import pytest
import torch

import mmaccount as mm
from mmaccount.advice import histogram, probe
from mmaccount.commands import main
from trainer import __main__ as command
from trainer import data, models
from trainer import probe as probing
from trainer.loop import losses

ADVISE = [
    "--dataset-size",
    "1437",
    "--target-epsilon",
    "3",
    "--delta",
    "1e-4",
    "--epochs",
    "10",
    "--steps",
    "20",
]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def seen(digits):
    return probing.public(digits, losses, model="linear", rows=100)


def test_linear_model_at_zero_by_closed_form(digits, seen):
    """At zero weights the gradient is (1/10 - y) x', the loss log 10, the Hessian (I/10 - 1 1'/100)
    times mean x x'."""
    x = digits.prepare(digits.held_out_x[:100]).flatten(1).double().numpy()
    x = np.concatenate([x, np.ones((100, 1))], axis=1)
    error = 0.1 - np.eye(10)[digits.held_out_y[:100].numpy()]
    assert seen.gram == pytest.approx((error @ error.T) * (x @ x.T), rel=1e-4, abs=1e-4)
    assert seen.loss == pytest.approx(log(10), rel=1e-5)
    second = x.T @ x / 100
    assert seen.curvature == pytest.approx(
        0.9 * np.trace(second), rel=0.3
    )  # eight random directions
    assert seen.smoothness == pytest.approx(0.1 * np.linalg.eigvalsh(second)[-1], rel=0.05)
    assert (seen.dimension, seen.size, seen.public) == (650, 100, True)
    assert "held-out" in seen.about


def test_the_second_point_is_further_on(seen):
    assert np.diagonal(seen.later).mean() < np.diagonal(seen.gram).mean()


def test_chunks_do_not_matter(digits, seen, monkeypatch):
    monkeypatch.setattr(probing, "COORDINATES_AT_ONCE", 650 * 7)
    other = probing.public(digits, losses, model="linear", rows=100)
    assert other.gram == pytest.approx(seen.gram, rel=1e-5, abs=1e-5)
    assert other.kept == pytest.approx(seen.kept, rel=1e-5)


def test_private_histogram_has_the_noise_it_says(digits):
    made = probing.private(digits, losses, model="linear", noise_multiplier=20.0)
    layer = models.build("linear", tuple(digits.x.shape[1:]), 10)
    x = digits.prepare(digits.x).flatten(1)
    errors = torch.softmax(layer(digits.prepare(digits.x)), 1) - torch.eye(10)[digits.y]
    norms = (errors.norm(dim=1) * (x.square().sum(1) + 1).sqrt()).detach().numpy()
    noise = made.counts - histogram.true_counts(norms)
    assert noise.std() == pytest.approx(20.0, rel=0.35)  # 160 bins: six standard deviations
    assert abs(noise.mean()) < 6 * 20.0 / len(noise) ** 0.5
    first, second = (
        probing.private(digits, losses, model="linear", noise_multiplier=20.0, seed=1).counts
        for _ in range(2)
    )
    assert not np.array_equal(
        first, second
    )  # a plan charges it as a release: its noise cannot be repeated
    assert made.loss == log(10)


@pytest.mark.parametrize("private", [[], ["--private"]])
def test_from_probe_to_a_priced_run(tmp_path, capsys, private):
    gradients, plan, out = (str(tmp_path / name) for name in ("probe.npz", "plan.json", "run"))
    assert command.main(["--probe", gradients, "--data", "digits", "--rows", "100", *private]) == 0
    assert main.main(["advise", *ADVISE, "--probe", gradients, "--out", plan]) == 0
    assert command.main(["--plan", plan, "--data", "digits", "--out", out]) == 0
    capsys.readouterr()
    assert main.main(["spent", f"{out}/ledger.json", "--json"]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert 2.9 < spent["epsilon"] <= 3.0
    assert len(spent["settings"]) == 1 + len(private)
    assert (len(mm.Plan.load(plan).assumptions), len(mm.Plan.load(plan).releases)) == (
        1 - len(private),
        len(private),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "x"], "comes before a plan"),
        (["--rows", "2"], "at least 3 records"),
        (["--rows", "0"], "rows"),
        (["--private", "--probe-noise", "-1"], "noise_multiplier"),
        (["--private", "--probe-noise", "1000"], "hides all counts"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    assert command.main(["--probe", str(tmp_path / "p.npz"), "--data", "digits", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "p.npz").exists()


def test_a_probe_file_is_what_was_measured(tmp_path, seen):
    seen.save(tmp_path / "p.npz")
    back = probe.load(tmp_path / "p.npz")
    assert np.array_equal(back.later, seen.later)
    assert (back.loss, back.smoothness, back.curvature, back.about) == (
        seen.loss,
        seen.smoothness,
        seen.curvature,
        seen.about,
    )
