"""The trainer under attack: a correct one passes, with power; each broken one of `broken.py` is
caught.

Ways to lose it with several processes, the same coins on all of them, coins or noise drawn by each,
are caught by test_processes.py.
"""

import json
import sys
from dataclasses import replace

import pytest
from broken import CONTROLS, known_seed

from mmaccount.commands import main
from trainer.attacks import battery

ATTACKS = {attack.name: attack for attack in battery.battery()}
SLOW = {"mixed by raised-cosine, 20 steps"}
ENOUGH = {
    "clipped_after_averaging": 4,
    "private_momentum": 4,
    "gradient_at_the_mixed_point": 8,
    "known_seed": 8,
}
POWER = 0.7  # of what the best attack reaches


def marked(names):
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.mark.parametrize(
    "name", marked(name for name, attack in ATTACKS.items() if attack.scores is battery.likelihood)
)
def test_a_correct_trainer_passes_and_passing_means_something(name):
    row = battery.measure(ATTACKS[name], seed=0)
    assert POWER * row.lower <= row.found <= row.upper


@pytest.mark.parametrize(
    "name", [name for name, attack in ATTACKS.items() if attack.scores is not battery.likelihood]
)
def test_a_correct_trainer_passes_attacks_on_broken_ones(name):
    attack = ATTACKS[name]
    assert battery.measure(attack, seed=0, runs=max(2, attack.runs // 5)).passed


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.__name__)
def test_a_broken_trainer_is_caught(control, monkeypatch):
    attack = ATTACKS[CONTROLS[control]]
    control(monkeypatch)
    row = battery.measure(attack, seed=0, runs=ENOUGH.get(control.__name__))
    assert not row.passed, row


# ----------------------------------------------------------------------------------------- command


@pytest.fixture
def one_attack(monkeypatch):
    """`mmaccount audit --self` with a battery of one."""
    attack = ATTACKS["mixing coefficients known"]
    monkeypatch.setattr(
        battery,
        "battery",
        lambda: [replace(attack, runs=6), replace(attack, name="slow", quick=False)],
    )
    return attack


def test_the_command_shows_what_was_found_beside_the_promise(one_attack, capsys):
    assert main.main(["audit", "--self", "--quick", "--seed", "0"]) == 0
    head, row, foot = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "experiments"
    assert row.split()[3:5] == ["0.1", "0"]
    assert row.split()[-2:] == ["1200", "passed"]
    assert "99.9%" in foot


def test_the_command_fails_where_the_promise_is_broken(one_attack, capsys, monkeypatch):
    known_seed(monkeypatch)
    assert main.main(["audit", "--self", "--quick", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    (row,) = found["attacks"]
    assert not found["passed"]
    assert not row["passed"]
    assert row["found"] > row["upper"] >= row["lower"]


def test_the_command_says_when_torch_is_missing(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "trainer"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main.main(["audit", "--self"]) == 1
    assert "torch" in capsys.readouterr().err
