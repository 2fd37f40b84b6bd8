"""Once through everything that works without torch, by the command and by the library.

`make core` runs this with the newest and with the lowest versions of all packages that the core
needs: every kernel is compiled, every package is used, and the numbers are those of README.
"""

import json

import numpy as np
import pytest

import mmaccount as mm
from mmaccount.commands.main import main

PAPER = ["--dataset-size", "50000", "--batch-size", "1500", "--steps", "3400", "--clip-norm", "20"]
PAPER += ["--noise-multiplier", "0.335", "--gap", "0.15", "--truncation", "100", "--delta", "1e-5"]
PLAIN = ["--sample-rate", "0.1", "--steps", "100", "--noise-multiplier", "2", "--delta", "1e-5"]
COSINE = ["--mixing", "40", "--mixing-law", "raised-cosine", "--truncation", "50"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command in a folder of its own; returns what it printed with --json."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> dict:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_prices_plain_and_mixed_runs(run):
    paper = run("epsilon", *PAPER)
    assert 6.683 < paper["lower"] <= paper["epsilon"] < 6.769
    assert paper["meaning"]["advantage"]["upper"] < 1.0
    plain = run("epsilon", *PLAIN)
    assert plain["lower"] == pytest.approx(plain["epsilon"], rel=1e-6)
    assert run("epsilon", *PLAIN, *COSINE, "--fast")["epsilon"] < plain["epsilon"]
    assert run("epsilon", *PLAIN, "--noise", "laplace")["epsilon"] > 0.0
    assert run("epsilon", *PLAIN, "--neighbours", "replace-one")["epsilon"] > plain["epsilon"]
    assert run("delta", *PLAIN[:-2], "--epsilon", "2")["delta"] < 1e-3


def test_solves_and_sweeps(run):
    solved = run("solve", "--for", "noise-multiplier", "--target-epsilon", "3", *PLAIN)
    assert 2.99 < solved["epsilon"] <= 3.0
    runs = [
        mm.Settings(sample_rate=q, steps=100, noise_multiplier=1.0, mixing=1.0) for q in (0.01, 0.1)
    ]
    uppers = mm.sweep(runs, delta=1e-5)
    assert uppers[0] < uppers[1]


def test_certificates_are_made_and_hold(run):
    mixed = [
        "--sample-rate",
        "0.02",
        "--steps",
        "500",
        "--noise-multiplier",
        "0.7",
        "--delta",
        "1e-5",
    ]
    mixed += ["--mixing", "2", "--truncation", "100", "--fast"]
    for words in (PLAIN, mixed):
        exact = run("epsilon", *words, "--exact", "--certificate", "certificate.json")["exact"]
        proven = run("verify", "certificate.json")["proven"]
        assert proven.startswith(f"proven: epsilon <= {exact['upper']}")


def test_advises_plans_and_reports(run, tmp_path):
    rng = np.random.default_rng(0)
    np.save("gradients.npy", rng.normal(size=(40, 7)) * 0.1 + 1.0)
    wanted = ["--dataset-size", "1000", "--target-epsilon", "3", "--delta", "1e-4", "--epochs", "5"]
    wanted += ["--loss", "2", "--out", "plan.json"]
    assert run("advise", *wanted, "--probe", "gradients.npy", "--picture", "advice.png")
    plan = mm.Plan.load("plan.json")
    ledger = mm.LedgerFile(tmp_path / "ledger.json", plan)
    ledger.charge(1)
    ledger.close()
    assert 0.0 < run("spent", "ledger.json")["epsilon"] < 3.0
    assert run("tune-cost", "plan.json", "--tries", "5")
    assert run("report", "ledger.json", "--out", "report.html")
    assert run("plot", "profile", *PLAIN, "--out", "profile.svg")
    for name in ("advice.png", "report.html", "profile.svg"):
        assert (tmp_path / name).stat().st_size > 1000
