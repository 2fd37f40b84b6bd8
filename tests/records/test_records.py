"""Plan and Ledger: round trips, refusals, and a ledger that prices what the plan promised."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import mmaccount as mm
from mmaccount import Ledger, LedgerFile, Phase, Plan, Settings
from mmaccount.advice import histogram
from mmaccount.commands import main


@pytest.fixture
def plan():
    first = Phase(
        steps=5, noise_multiplier=1.0, clip_norm=2.0, learning_rate=0.5, gap=0.1, truncation=4
    )
    second = Phase(steps=3, noise_multiplier=1.5, clip_norm=1.0, learning_rate=0.25)
    return Plan(
        dataset_size=1000, sample_rate=0.1, batch_size=100, phases=(first, second), delta=1e-5
    )


def test_settings_are_what_from_training_makes(plan):
    first = Settings.from_training(
        dataset_size=1000,
        batch_size=100,
        steps=5,
        noise_multiplier=1.0,
        clip_norm=2.0,
        gap=0.1,
        truncation=4,
    )
    assert plan.settings() == [first, Settings(sample_rate=0.1, steps=3, noise_multiplier=1.5)]


def test_plan_round_trip_and_fingerprint(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    other = replace(plan, delta=1e-6)
    assert (
        len(
            {
                plan.fingerprint,
                other.fingerprint,
                replace(plan, phases=plan.phases[::-1]).fingerprint,
            }
        )
        == 3
    )
    assert Plan.from_dict(json.loads(json.dumps(other.to_dict()))).fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema"),
        ({"delta": 0}, "delta"),
        ({"batch_size": 99}, "batch_size"),
        ({"neighbours": "replace"}, "neighbours"),
        ({"phases": []}, "phases"),
        ({"phases": [{"steps": 1}]}, "phase"),
        ({"releases": {}}, "releases"),
        ({"releases": [{"what": "", "noise_multiplier": 1}]}, "what"),
        ({"releases": [{"what": "x", "noise_multiplier": -1}]}, "noise_multiplier"),
        ({"assumptions": "all well"}, "assumptions"),
        ({"extra": 1}, "extra"),
        ({"sample_rate": float("nan")}, "sample_rate"),
        ({"fingerprint": "0"}, "fingerprint"),
    ],
)
def test_bad_plans_are_named(plan, change, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_dict(plan.to_dict() | change)


def test_what_was_learnt_before_training_is_in_the_plan_and_in_every_price(plan):
    release = mm.Release(what="histogram of norms", noise_multiplier=4.0)
    more = replace(plan, releases=(release,), assumptions=("the probe is public",))
    assert Plan.from_dict(json.loads(json.dumps(more.to_dict()))) == more
    assert len({plan.fingerprint, more.fingerprint, replace(more, releases=()).fingerprint}) == 3
    assert "releases" not in plan.to_dict()
    before = Settings(sample_rate=1.0, steps=1, noise_multiplier=4.0)
    assert more.settings() == [before, *plan.settings()]
    ledger = Ledger(plan=more)
    assert ledger.settings() == [before]
    for step in range(1, 9):
        ledger = ledger.with_step(step)
    assert ledger.settings() == more.settings()
    assert (
        mm.epsilon(more.settings(), delta=1e-5).upper
        > mm.epsilon(plan.settings(), delta=1e-5).upper
    )


def test_zero_out_is_refused_with_what_was_learnt_before(plan):
    """A record whose gradient becomes zero leaves one bin of the histogram and enters another:
    further than one removed."""
    release = mm.Release(what="histogram of norms", noise_multiplier=4.0)
    assert (
        np.linalg.norm(
            histogram.true_counts(np.array([1.0])) - histogram.true_counts(np.array([0.0]))
        )
        > 1.4
    )
    assert (
        replace(plan, releases=(release,), neighbours="replace-one").settings()[0].neighbours
        == "replace-one"
    )
    with pytest.raises(ValueError, match=r"zero-out.*releases"):
        replace(plan, releases=(release,), neighbours="zero-out")


@pytest.mark.parametrize("step", [0, 9, 2.5])
def test_a_step_outside_the_plan_is_refused(plan, step):
    with pytest.raises(ValueError, match="step"):
        Ledger(plan=plan).with_step(step)


def test_ledger_merges_runs_and_prices_like_the_plan(plan):
    ledger = Ledger(plan=plan)
    assert ledger.settings() == []
    for step in range(1, 9):
        ledger = ledger.with_step(step)
    assert ledger.runs == ((1, 5), (6, 8))
    assert ledger.settings() == plan.settings()
    again = ledger.with_step(8)
    assert again.charged == 9
    assert again.settings()[1].steps == 4
    assert Ledger.from_dict(json.loads(json.dumps(again.to_dict()))) == again
    assert mm.epsilon(ledger.settings(), delta=1e-5) == mm.epsilon(plan.settings(), delta=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema"),
        ({"fingerprint": "0"}, "fingerprint"),
        ({"runs": [[1, 6]]}, "within one phase"),
        ({"runs": [[2, 1]]}, "runs"),
        ({"runs": [[1]]}, "pairs"),
        ({"runs": [[8, 9]]}, "step"),
        ({"seeded": 1}, "seeded"),
        ({"x": 1}, "keys"),
    ],
)
def test_bad_ledgers_are_refused(plan, change, message):
    with pytest.raises(ValueError, match=message):
        Ledger.from_dict(Ledger(plan=plan).to_dict() | change)


def test_file_is_written_before_charge_returns_and_only_grows(plan, tmp_path):
    path = tmp_path / "ledger.json"
    file = LedgerFile(path, plan)
    for step in (1, 2, 3):
        file.charge(step)
        assert Ledger.load(path).charged == step
    with pytest.raises(ValueError, match="in use"):
        LedgerFile(path, plan)
    with pytest.raises(ValueError, match="step"):
        file.charge(9)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.charge(4)
    for options, message in [({"seeded": True}, "seeded"), ({"at_least": 4}, "moved back")]:
        with pytest.raises(ValueError, match=message):
            LedgerFile(path, plan, **options)
    with pytest.raises(ValueError, match="another plan"):
        LedgerFile(path, replace(plan, delta=1e-6))
    file = LedgerFile(path, plan, at_least=3)
    path.write_text(json.dumps(Ledger(plan=plan).to_dict()))
    with pytest.raises(ValueError, match="changed or removed"):
        file.charge(4)
    file.close()


def test_a_lost_ledger_is_not_started_anew(plan, tmp_path):
    with pytest.raises(ValueError, match="moved back"):
        LedgerFile(tmp_path / "ledger.json", plan, at_least=1)
    assert not (tmp_path / "ledger.json").exists()


def test_another_process_is_kept_out(plan, tmp_path):
    file = LedgerFile(tmp_path / "ledger.json", plan)
    path = str(tmp_path / "ledger.json")
    code = f"from mmaccount import *; LedgerFile({path!r}, Ledger.load({path!r}).plan)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    file.close()
    assert "in use" in done.stderr


RUN = (
    "--dataset-size 1000 --batch-size 100 --steps 8 --clip-norm 1 --learning-rate 0.5 --delta 1e-5"
)


def test_plan_and_spent_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert (
        main.main(["plan", *RUN.split(), "--target-epsilon", "3", "--out", str(path), "--json"])
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    plan = Plan.load(path)
    assert made["fingerprint"] == plan.fingerprint
    assert 2.99 < made["epsilon"] <= 3
    file = LedgerFile(tmp_path / "ledger.json", plan, seeded=True)
    assert main.main(["spent", str(file.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epsilon"] == 0
    for step in range(1, 9):
        file.charge(step)
    file.close()
    assert main.main(["spent", str(file.path), "--json"]) == 0
    spent = json.loads(capsys.readouterr().out)
    assert spent["epsilon"] == made["epsilon"]
    assert (spent["charged"], spent["planned"], spent["seeded"]) == (8, 8, True)
    assert main.main(["spent", str(file.path), "--delta", "1e-6"]) == 0
    assert "seeded: not private" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target-epsilon 3 --noise-multiplier 1", "one of"),
        ("--noise-multiplier 1 --mixing 3", "--gap"),
        ("--noise-multiplier 1 --out /nowhere/plan.json", "nowhere"),
    ],
)
def test_bad_plan_commands_end_in_one_line(options, message, tmp_path, capsys):
    assert (
        main.main(["plan", *RUN.split(), "--out", str(tmp_path / "p.json"), *options.split()]) == 2
    )
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 1}'])
def test_spent_refuses_what_is_no_ledger(content, tmp_path, capsys):
    (tmp_path / "ledger.json").write_text(content)
    assert main.main(["spent", str(tmp_path / "ledger.json")]) == 2
    assert main.main(["spent", str(tmp_path / "none.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize(
    ("runs", "distinct"),
    [
        ((), 0),
        (((1, 5),), 5),
        (((1, 5), (4, 9)), 9),
        (((1, 5), (2, 3), (7, 7)), 6),
        (((4, 6), (1, 4), (1, 2)), 6),
    ],
)
def test_redone_steps_are_told_from_new_ones(runs, distinct):
    phase = Phase(steps=10, noise_multiplier=1.0, clip_norm=1.0, learning_rate=1.0)
    plan = Plan(dataset_size=10, sample_rate=1.0, batch_size=10, phases=(phase,), delta=0.1)
    ledger = Ledger(plan=plan, runs=runs)
    assert (
        ledger.distinct
        == distinct
        == len({step for first, last in runs for step in range(first, last + 1)})
    )


def test_records_and_the_lock_work_without_fcntl(tmp_path):
    """As on Windows, whose module for locks is stood in for by one that takes those of this system."""
    code = (
        "import sys, types, fcntl as own;"
        "other = types.ModuleType('msvcrt'); other.LK_NBLCK = 2;"
        "other.locking = lambda held, mode, size: own.flock(held, own.LOCK_EX | own.LOCK_NB);"
        "sys.modules['fcntl'] = None; sys.modules['msvcrt'] = other;"
        "from mmaccount import Ledger, LedgerFile, Phase, Plan;"
        "phase = Phase(steps=2, noise_multiplier=1, clip_norm=1, learning_rate=1);"
        "plan = Plan(dataset_size=9, sample_rate=1, batch_size=9, phases=(phase,), delta=.1);"
        "first = LedgerFile('ledger.json', plan); first.charge(1);\n"
        "try: LedgerFile('ledger.json', plan)\n"
        "except ValueError as error: print(error)\n"
        "first.close(); LedgerFile('ledger.json', plan).charge(2);"
        "print(Ledger.load('ledger.json').charged)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines() == ["ledger ledger.json is in use by another run.", "2"]
