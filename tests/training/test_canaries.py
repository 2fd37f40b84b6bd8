"""Canaries in a real run: planted as said, silent when left out, and guessed from where noise is
missing."""

import json

import pytest
import torch

from mmaccount import Phase, Plan
from mmaccount.commands import main
from trainer import __main__ as command
from trainer import mechanism
from trainer.attacks import canaries
from trainer.attacks.canaries import Canaries
from trainer.data import Dataset
from trainer.gradients.per_record import Fast, Oracle
from trainer.loop import Options, train
from trainer.models import build

N, WIDTH, CLASSES = 300, 1000, 3  # so wide that records hardly share directions


def data_of(n=N):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, WIDTH, generator=generator), torch.arange(n) % CLASSES
    return Dataset(
        name="made up",
        x=x,
        y=y,
        held_out_x=x[:6],
        held_out_y=y[:6],
        classes=CLASSES,
        centre=0.0,
        scale=1.0,
    )


def run(out, *, gap=0.0, noise=1.0, count=200, seed=3):
    phase = Phase(
        steps=8, noise_multiplier=noise, clip_norm=1.0, learning_rate=2.0, gap=gap, truncation=4.0
    )
    plan = Plan(dataset_size=N, sample_rate=1.0, batch_size=N, phases=(phase,), delta=1e-6)
    return train(plan, data_of(), out, Options(), seed=seed, quiet=True, canaries=count)


def test_coins_are_fair_and_labels_wrong():
    planted, data = Canaries(data_of(30_000), 30_000, seed=0), data_of(30_000)
    assert abs(float(planted.kept.double().mean()) - 0.5) < 5 * 0.5 / 30_000**0.5
    assert bool((planted.y != data.y).all())
    assert (
        abs(float(((planted.y - data.y) % CLASSES == 1).double().mean()) - 0.5)
        < 5 * 0.5 / 30_000**0.5
    )
    other = Canaries(data, 30_000)  # the operating system's coins
    assert not torch.equal(other.kept, planted.kept)
    few = Canaries(data, 10, seed=0)
    assert torch.equal(few.labels[10:], data.y[10:])
    assert set(few.labels[:10][~few.kept].tolist()) == {CLASSES}


@pytest.mark.parametrize("kind", [Fast, Oracle])
def test_a_canary_that_is_left_out_has_no_gradient(kind):
    planted, data = Canaries(data_of(), 100, seed=0), data_of()
    model = build("linear", (WIDTH,), CLASSES, 0)
    gradients = kind(model, planted.criterion)
    made, losses = gradients(gradients.layout.flat(model), data.x[:100], planted.labels[:100])
    out = ~planted.kept
    assert 0 < int(out.sum()) < 100
    norms = torch.cat([one.flatten(1) for one in made], 1).norm(dim=1)
    assert torch.equal(norms == 0.0, out)
    assert torch.equal(losses == 0.0, out)


@pytest.mark.parametrize("gap", [0.0, 0.01])
def test_a_run_that_keeps_its_promise_passes(gap, tmp_path, capsys):
    made = run(tmp_path, gap=gap)
    assert main.main(["audit", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["lower"] <= made["epsilon"]
    assert "200 of the labels wrong" in made["data"]
    assert found == json.loads((tmp_path / "audit.json").read_text())
    assert [row["guesses"] for row in found["attacks"]] == 2 * [200, 40, 10]
    assert (tmp_path / canaries.FILE).stat().st_mode & 0o77 == 0
    assert main.main(["audit", str(tmp_path)]) == 0
    assert "promised: epsilon <=" in capsys.readouterr().out


def test_a_run_without_its_noise_is_caught(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        mechanism, "normals", lambda words, size: torch.zeros(size, dtype=torch.float64)
    )
    run(tmp_path, noise=30.0)
    assert main.main(["audit", str(tmp_path)]) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize("count", [-1, N + 1])
def test_a_number_of_canaries_out_of_range_is_refused(count, tmp_path):
    with pytest.raises(ValueError, match="canaries"):
        run(tmp_path, count=count)


def test_canaries_cannot_be_resumed_and_other_runs_not_audited(tmp_path, capsys):
    phase = Phase(steps=1, noise_multiplier=1.0, clip_norm=1.0, learning_rate=1.0)
    plan = Plan(dataset_size=1437, sample_rate=0.01, batch_size=14.37, phases=(phase,), delta=1e-4)
    plan.save(tmp_path / "plan.json")
    run_of = [
        "--plan",
        str(tmp_path / "plan.json"),
        "--data",
        "digits",
        "--out",
        str(tmp_path / "run"),
    ]
    assert command.main([*run_of, "--canaries", "100", "--resume"]) == 2
    assert "resumed" in capsys.readouterr().err
    assert command.main(run_of) == 0
    assert main.main(["audit", str(tmp_path / "run")]) == 2
    assert main.main(["audit"]) == 2
    assert main.main(["audit", str(tmp_path / "run"), "--self"]) == 2
    assert "canaries" in capsys.readouterr().err
