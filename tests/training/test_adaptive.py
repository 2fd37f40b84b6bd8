"""Adaptive clipping: one Gaussian mechanism of sum and count, in plan, price, ledger and trainer."""

import json
from dataclasses import replace
from itertools import pairwise
from math import exp, hypot, inf, log, nan, sqrt

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

import mmaccount as mm
from mmaccount import AdaptiveClipping, Ledger, Phase, Plan
from mmaccount.analysis import calibrate
from mmaccount.commands import main
from mmaccount.reporting import wording
from mmaccount.records.bound import Infeasible
from trainer import PrivateTrainer, Update, data, mechanism
from trainer.loop import Options, losses, train
from trainer.mechanism import Randomness, next_clip_norm, normals, short

ADAPTIVE = AdaptiveClipping(noise=3.0, quantile=0.4, rate=0.3)
PHASE = Phase(steps=6, noise_multiplier=1.0, clip_norm=2.0, learning_rate=0.5, adaptive=ADAPTIVE)


def plan_of(*phases, n=40, rate=0.25, **options):
    return Plan(
        dataset_size=n, sample_rate=rate, batch_size=rate * n, phases=phases, delta=1e-4, **options
    )


def price(plan, delta=1e-4):
    return mm.epsilon(plan.settings(), delta=delta).upper


# ------------------------------------------------------------------------------------------- price


def both_ways(first, second, epsilon):
    """Hockey-stick divergences of two densities on a grid of cells."""
    return max(
        np.maximum(a - exp(epsilon) * b, 0.0).sum() for a, b in ((first, second), (second, first))
    )


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 2.0])
def test_price_is_that_of_sum_and_count_in_two_dimensions(relation, epsilon):
    """One step by brute force on the plane of noisy sum and noisy count: the worst record, one coin
    for both releases."""
    z, sigma, q = 1.1, 0.8, 0.3
    at = np.arange(-9.0, 9.0, 0.01)
    x, y = at[:, None], at[None, :]

    def gaussian(sign):
        return (
            np.exp(-0.5 * ((x - sign / z) ** 2 + (y - sign * 0.5 / sigma) ** 2))
            * 1e-4
            / (2.0 * np.pi)
        )

    present = (1 - q) * gaussian(0.0) + q * gaussian(1.0)
    absent = (
        gaussian(0.0)
        if relation == "add-or-remove"
        else (1 - q) * gaussian(0.0) + q * gaussian(-1.0)
    )
    phase = replace(PHASE, steps=1, noise_multiplier=z, adaptive=AdaptiveClipping(noise=sigma))
    found = mm.delta(plan_of(phase, rate=q, neighbours=relation).settings(), epsilon=epsilon)
    exact = both_ways(
        present, absent, epsilon
    )  # off by less than 1e-7: a sum over cells of a smooth function with kinks
    assert found.lower * (1 - 1e-6) <= exact <= found.upper * (1 + 1e-6)
    assert found.upper <= 1.006 * found.lower  # one step with another record is a grid


def test_without_sampling_it_is_two_gaussian_mechanisms():
    from dp_accounting import ComposedDpEvent, GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    phase = replace(PHASE, steps=7, noise_multiplier=4.0)
    accountant = PLDAccountant()
    accountant.compose(
        SelfComposedDpEvent(ComposedDpEvent([GaussianDpEvent(4.0), GaussianDpEvent(2 * 3.0)]), 7)
    )
    assert price(plan_of(phase, rate=1.0)) == pytest.approx(accountant.get_epsilon(1e-4), rel=1e-3)


@given(
    norms=st.lists(st.floats(0.0, 20.0) | st.sampled_from([inf, nan, 2.0]), max_size=5),
    record=st.floats(0.0, 20.0) | st.sampled_from([inf, nan, 2.0]),
    z=st.floats(0.05, 50.0),
    sigma=st.floats(0.05, 50.0),
)
def test_no_record_moves_sum_and_count_further_than_is_priced(norms, record, z, sigma):
    c = 2.0
    clipped = [min(norm, c) if norm < inf else 0.0 for norm in (*norms, record)]
    with_it, without = (
        torch.tensor(some, dtype=torch.float64) for some in ([*norms, record], norms)
    )
    moved = short(with_it, c) - short(without, c)
    assert abs(moved) == 0.5
    assert hypot(clipped[-1] / (z * c), moved / sigma) <= 1.0 / AdaptiveClipping(noise=sigma).joint(
        z
    )


def test_much_noise_on_the_count_costs_nothing_and_little_costs_much():
    plain = price(plan_of(replace(PHASE, adaptive=None)))
    found = [
        price(plan_of(replace(PHASE, adaptive=AdaptiveClipping(noise=noise))))
        for noise in (0.2, 1.0, 5.0, 1e9)
    ]
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(plain, rel=1e-6)
    assert found[0] > 2 * plain
    formula = [(1.0**-2 + (2 * noise) ** -2) ** -0.5 for noise in (0.2, 1.0)]
    assert [AdaptiveClipping(noise=noise).joint(1.0) for noise in (0.2, 1.0)] == pytest.approx(
        formula, rel=1e-14
    )
    assert all(
        AdaptiveClipping(noise=noise).joint(1.0) < f
        for noise, f in zip((0.2, 1.0), formula, strict=True)
    )


def test_the_least_noise_pays_for_the_count():
    run = mm.Settings(sample_rate=0.1, steps=50, noise_multiplier=1.0)
    target = {"epsilon": 2.0, "delta": 1e-5}
    found = calibrate.least_noise_multiplier(run, ADAPTIVE, **target)
    plain = calibrate.least_noise_multiplier(run, None, **target)
    assert plain == mm.solve(run, "noise_multiplier", **target).noise_multiplier
    assert ADAPTIVE.joint(found) == pytest.approx(plain, rel=1e-7)
    assert found > plain
    assert mm.epsilon(replace(run, noise_multiplier=ADAPTIVE.joint(found)), delta=1e-5).upper <= 2.0
    with pytest.raises(Infeasible, match="best reachable"):
        calibrate.least_noise_multiplier(run, AdaptiveClipping(noise=0.1), **target)


# ----------------------------------------------------------------------------------------- records


def test_it_is_part_of_plan_and_ledger():
    plan = plan_of(PHASE, replace(PHASE, adaptive=None, steps=3))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert ["adaptive" in phase for phase in plan.to_dict()["phases"]] == [True, False]
    others = [
        replace(PHASE, adaptive=replace(ADAPTIVE, **change))
        for change in ({"noise": 4}, {"rate": 1}, {"quantile": 0.5})
    ]
    assert (
        len(
            {
                plan_of(phase).fingerprint
                for phase in (PHASE, replace(PHASE, adaptive=None), *others)
            }
        )
        == 5
    )
    ledger = Ledger(plan=plan)
    for step in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        ledger = ledger.with_step(step)
    back = Ledger.from_dict(json.loads(json.dumps(ledger.to_dict())))
    assert back.settings() == plan.settings()
    assert [run.noise_multiplier for run in back.settings()] == [ADAPTIVE.joint(1.0), 1.0]
    text = " ".join([*wording.words(plan), *wording.conditions(plan)])
    assert "0.4 quantile" in text
    assert f"{ADAPTIVE.joint(1.0):.6g}" in text
    assert ["adaptive noise", "3", "-"] in wording.settings_rows(plan)
    assert "quantile" not in " ".join(wording.words(plan_of(replace(PHASE, adaptive=None))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adaptive": {"noise": 0}}, "noise"),
        ({"adaptive": {"noise": nan}}, "noise"),
        ({"adaptive": {"noise": 1, "quantile": 1}}, "quantile"),
        ({"adaptive": {"noise": 1, "rate": -1}}, "rate"),
        ({"adaptive": {"noise": 1, "speed": 1}}, "speed"),
        ({"adaptive": {}}, "noise"),
        ({"adaptive": 0.5}, "adaptive"),
        ({"gap": 0.1}, "gap"),
    ],
)
def test_bad_phases_are_named(change, message):
    data = plan_of(PHASE).to_dict()
    data["phases"][0] |= change
    with pytest.raises(ValueError, match=message) as caught:
        Plan.from_dict(data)
    assert "\n" not in str(caught.value)


def test_zero_out_is_refused():
    with pytest.raises(ValueError, match="zero-out"):
        plan_of(PHASE, neighbours="zero-out")


def test_usual_noise():
    assert AdaptiveClipping.usual(1000.0).noise == 50.0
    assert AdaptiveClipping.usual(16.0, 0.3) == AdaptiveClipping(noise=2.0, quantile=0.3, rate=0.2)


# ----------------------------------------------------------------------------------------- trainer


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_clip_norm_finds_the_quantile(quantile):
    rng, q, seen = np.random.default_rng(0), 0.25, []
    phase = replace(PHASE, clip_norm=50.0, adaptive=AdaptiveClipping.usual(500.0, quantile))
    norms = rng.lognormal(1.0, 0.7, 2000)
    for step in range(400):
        batch = torch.from_numpy(norms[rng.random(2000) < q])
        phase = replace(
            phase, clip_norm=float(next_clip_norm(phase, 500.0, step, batch, Randomness(0)))
        )
        seen.append((norms <= phase.clip_norm).mean())
    assert np.mean(seen[100:]) == pytest.approx(quantile, abs=0.02)


def test_the_next_clip_norm_by_definition_and_within_limits():
    norms, drawn = (
        torch.tensor([1.0, 2.0, 3.0, nan, inf]),
        float(normals(Randomness(7).words("count", 5), 1)),
    )
    share = 0.5 + (2 - 5 / 2 + 3.0 * drawn) / 30.0
    found = float(next_clip_norm(PHASE, 30.0, 5, norms, Randomness(7)))
    assert found == np.float32(2.0 * exp(-0.3 * (share - 0.4)))
    for quiet, limit in (
        (0.0 * norms[:1], mechanism.SMALLEST_CLIP_NORM),
        (norms[3:], mechanism.LARGEST_CLIP_NORM),
    ):
        phase = replace(
            PHASE,
            clip_norm=limit * 10.0 ** (1 if limit < 1 else -1),
            adaptive=replace(ADAPTIVE, noise=1e-9),
        )
        assert float(next_clip_norm(phase, 1e-6, 5, quiet, Randomness(7))) == limit


def trainer_of(out, plan, x=None, y=None, **options):
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(plan.dataset_size, 5, generator=generator) if x is None else x
    y = torch.randint(0, 3, (len(x),), generator=generator) if y is None else y
    given = {"module": nn.Linear(5, 3), "criterion": losses, "classes": 3, "seed": 1} | options
    return PrivateTrainer(plan=plan, out=out, data=(x, y), **given)


def clip_norms(trainer):
    made = [trainer.clip_norm()]
    while trainer.step_number < trainer.plan.steps:
        trainer.step()
        made.append(float(trainer.state["clip_norm"]))
    trainer.close()
    return made


def silent(out, plan, **options):
    """A run on records without a gradient: all of them are short. Many weights show the size of the
    noise."""
    x, y = torch.zeros(plan.dataset_size, 4000), torch.zeros(plan.dataset_size, 1)
    module, squares = nn.Linear(4000, 1, bias=False), lambda a, b: (a - b).square().sum(1)
    nn.init.zeros_(module.weight)
    return trainer_of(out, plan, x, y, module=module, criterion=squares, classes=None, **options)


def test_the_noise_goes_with_the_clip_norm_and_the_count_with_the_expected_batch(tmp_path):
    """Sums of squares of 4,000 noises are off by 1.1 %; shares follow from counts, whatever the
    size of the batch was."""
    adaptive = AdaptiveClipping(noise=1e-9, quantile=0.9, rate=1.0)
    plan = plan_of(replace(PHASE, steps=30, adaptive=adaptive), n=16)
    trainer, noises, batches = silent(tmp_path, plan), [], []
    c = [trainer.clip_norm()]
    for step in range(1, 31):
        before = trainer.state["weights"]
        trainer.step()
        c.append(float(trainer.state["clip_norm"]))
        noises.append(
            float((trainer.state["weights"] - before).double().std()) * plan.batch_size / 0.5
        )
        batches.append(
            int(mechanism.coins(trainer.randomness.words("sampling", step), 16, 0.25).sum())
        )
    trainer.close()
    assert len(set(batches)) > 4
    assert np.array(noises) == pytest.approx(np.array(c[:-1]), rel=0.06)
    shares = [0.9 - log(b / a) for a, b in pairwise(c)]
    assert shares == pytest.approx([0.5 + 0.5 * size / 4 for size in batches], abs=2e-7)


def test_the_count_gets_its_noise(tmp_path):
    adaptive = AdaptiveClipping(noise=3.0, quantile=0.5, rate=0.01)
    plan = plan_of(replace(PHASE, steps=100, adaptive=adaptive), n=4, rate=1.0)
    logs = np.diff(np.log(clip_norms(silent(tmp_path, plan))))
    noise = (0.5 - logs / 0.01 - 1.0) * 4.0
    assert noise.std() == pytest.approx(3.0, rel=5 / sqrt(200))
    assert abs(noise.mean()) < 5 * 3.0 / sqrt(100)
    drawn = [float(normals(Randomness(1).words(kind, 1), 1)) for kind in ("count", "noise")]
    assert noise[0] == pytest.approx(
        3.0 * drawn[0], abs=4.0 / 0.01 * 2.0**-24
    )  # clip norms are float32
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    "update", [Update(), Update(momentum=0.9, ema=0.9)], ids=["sgd", "momentum"]
)
def test_a_seeded_run_that_was_interrupted_ends_bitwise_the_same(tmp_path, update):
    plan = plan_of(PHASE)
    whole = trainer_of(tmp_path / "whole", plan, update=update)
    expected = clip_norms(whole)
    first = trainer_of(tmp_path / "parts", plan, update=update)
    for _ in range(3):
        first.step()
    first.close()
    second = trainer_of(tmp_path / "parts", plan, update=update)
    second.resume()
    assert second.clip_norm() == expected[3]
    assert clip_norms(second) == expected[3:]
    assert torch.equal(second.state["weights"], whole.state["weights"])
    assert second.ledger.settings() == plan.settings()
    assert len(set(expected)) == 7


def test_a_phase_starts_at_its_own_clip_norm(tmp_path):
    plan = plan_of(
        PHASE,
        replace(PHASE, clip_norm=7.0, steps=2),
        replace(PHASE, clip_norm=0.5, adaptive=None, steps=2),
    )
    trainer, seen = trainer_of(tmp_path, plan), []
    while trainer.step_number < plan.steps:
        seen.append(trainer.clip_norm())
        trainer.step()
    trainer.close()
    assert (seen[0], seen[6], seen[8], seen[9]) == (2.0, 7.0, 0.5, 0.5)
    assert len(set(seen)) == 9


def test_private_numbers_go_by_the_clip_norm_of_the_step(tmp_path):
    plan = plan_of(replace(PHASE, steps=2, clip_norm=1e-6, adaptive=replace(ADAPTIVE, rate=1e6)))
    trainer = trainer_of(tmp_path, plan)
    trainer.step()
    after = trainer.clip_norm()
    trainer.step()
    trainer.close()
    rows = [json.loads(line) for line in (tmp_path / "private.jsonl").read_text().splitlines()]
    assert after == 1e-6 * exp(mechanism.LARGEST_LOG_CHANGE) or after == mechanism.LARGEST_CLIP_NORM
    assert [row["clipped"] for row in rows] == [1.0, 0.0]


def test_canaries_are_refused(tmp_path):
    """One that is left out would count as short, which moves the count by 1 and not by 1/2."""
    with pytest.raises(ValueError, match="canary"):
        train(plan_of(PHASE, n=1437), data.digits(), tmp_path, Options(), quiet=True, canaries=10)


# ------------------------------------------------------------------------------------ command line

RUN = (
    "--dataset-size 1437 --batch-size 400 --steps 10 --clip-norm 1 --learning-rate 1 "
    "--delta 1e-4 --adaptive-clipping 0.6"
)


def test_command_line_from_plan_to_report(tmp_path, capsys):
    from trainer import __main__ as trainer

    path, out = tmp_path / "plan.json", tmp_path / "run"
    assert (
        main.main(["plan", *RUN.split(), "--target-epsilon", "2", "--out", str(path), "--json"])
        == 0
    )
    made, plan = json.loads(capsys.readouterr().out), Plan.load(path)
    assert plan.phases[0].adaptive == AdaptiveClipping(noise=20.0, quantile=0.6, rate=0.2)
    assert made["epsilon"] == price(plan) <= 2.0
    assert made["epsilon"] > 1.999
    assert price(plan_of(replace(plan.phases[0], adaptive=None), n=1437, rate=400 / 1437)) < 2.0
    assert trainer.main(["--plan", str(path), "--data", "digits", "--out", str(out)]) == 0
    capsys.readouterr()
    assert (
        main.main(
            ["plan", *RUN.split(), "--noise-multiplier", "3", "--out", str(tmp_path / "other.json")]
        )
        == 0
    )
    assert f"costs what {AdaptiveClipping(noise=20.0).joint(3.0)}"[:18] in capsys.readouterr().out
    assert main.main(["spent", str(out / "ledger.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == made["epsilon"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len({row["clip_norm"] for row in rows}) == 10
    assert json.loads((out / "report.json").read_text())["released"] == "all iterates, clip norms"
    page = tmp_path / "report.html"
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    assert "0.6 quantile" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--noise-multiplier 1 --gap 0.1", "gap"),
        ("--noise-multiplier 1 --neighbours zero-out", "zero-out"),
        ("--noise-multiplier 0", "noise_multiplier"),
        ("--noise-multiplier 1 --adaptive-clipping 1.5", "quantile"),
        ("--noise-multiplier 1 --count-noise -1", "noise"),
        ("--noise-multiplier 1 --clip-rate 0", "rate"),
    ],
)
def test_bad_commands_end_in_one_line(options, message, tmp_path, capsys):
    assert (
        main.main(["plan", *RUN.split(), "--out", str(tmp_path / "p.json"), *options.split()]) == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
