"""What users have come to rely on stays as it is: public names, options and their help, JSON keys,
exit statuses, files.

`python tests/project/test_snapshot.py` writes tests/reference/snapshot.json again, after a change
that is meant.
"""

import inspect
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import mmaccount as mm
from mmaccount.commands import main

HERE = Path(__file__).parents[1] / "reference"
STORED = HERE / "snapshot.json"
CERTIFICATES = sorted((HERE / "certificates").glob("*.json"))
PLAIN = ["--sample-rate", "0.1", "--steps", "10", "--noise-multiplier", "2"]
TRAINING = ["--dataset-size", "100", "--batch-size", "10", "--steps", "3", "--clip-norm", "1"]
NOISE = ["--noise-multiplier", "2"]
COMMANDS = [
    "epsilon",
    "delta",
    "solve",
    "compare",
    "verify",
    "plan",
    "spent",
    "advise",
    "tune-cost",
    "plot",
    "report",
]
COMMANDS += ["audit", "reproduce"]


def keys(data: object) -> object:
    """The same with every number and text left out; of a list its first element."""
    if isinstance(data, dict):
        return {name: keys(value) for name, value in data.items()}
    return [keys(data[0])] if isinstance(data, list) and data else None


def call(*words: str) -> tuple[int, str]:
    """(exit status, standard output) of a command."""
    out = StringIO()
    with redirect_stdout(out), redirect_stderr(StringIO()):
        try:
            status = main.main(list(words))
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue()


def help_of(words: list[str]) -> str:
    os.environ["COLUMNS"] = "100"
    return " ".join(call(*words, "--help")[1].split())


def plan() -> mm.Plan:
    """A plan with everything in it."""
    first = mm.Phase(
        steps=5, noise_multiplier=1.0, clip_norm=2.0, learning_rate=0.5, gap=0.1, truncation=4
    )
    adaptive = mm.AdaptiveClipping(quantile=0.5, rate=0.2, noise=10.0)
    second = mm.Phase(
        steps=3, noise_multiplier=1.5, clip_norm=1.0, learning_rate=0.25, adaptive=adaptive
    )
    return mm.Plan(
        dataset_size=1000, sample_rate=0.1, batch_size=100, phases=(first, second), delta=1e-5
    )


def answers(folder: Path) -> dict[str, object]:
    """JSON keys of every command that is quick."""
    path = folder / "plan.json"
    made = {
        "epsilon": call("epsilon", *PLAIN, "--delta", "1e-5", "--json"),
        "epsilon --exact": call("epsilon", *PLAIN, "--delta", "1e-5", "--exact", "--json"),
        "delta": call("delta", *PLAIN, "--epsilon", "1", "--json"),
        "solve": call(
            "solve", "--for", "steps", "--target-epsilon", "3", "--delta", "1e-5", *PLAIN, "--json"
        ),
        "compare": call("compare", *PLAIN, "--delta", "1e-5", "--json"),
        "plan": call(
            "plan",
            *TRAINING,
            *NOISE,
            "--learning-rate",
            "1",
            "--delta",
            "1e-5",
            "--out",
            str(path),
            "--json",
        ),
        "tune-cost": call("tune-cost", str(path), "--tries", "5", "--json"),
    }
    ledger = mm.LedgerFile(folder / "ledger.json", mm.Plan.load(path))
    ledger.charge(1)
    ledger.close()
    made["spent"] = call("spent", str(folder / "ledger.json"), "--json")
    for name, (status, _) in made.items():
        assert status == 0, name
    return {name: keys(json.loads(out)) for name, (_, out) in made.items()}


def statuses(folder: Path) -> dict[str, int]:
    """Exit statuses of what goes well, of bad input, and of what cannot be done."""
    broken = folder / "broken.json"
    broken.write_text("{")
    forged = folder / "forged.json"
    forged.write_text(CERTIFICATES[0].read_text().replace('"steps": ', '"steps": 1'))
    impossible = ["--for", "truncation", "--target-epsilon", "0.001", "--delta", "1e-5", *PLAIN]
    return {
        "epsilon": call("epsilon", *PLAIN, "--delta", "1e-5")[0],
        "epsilon without delta": call("epsilon", *PLAIN)[0],
        "epsilon with delta 2": call("epsilon", *PLAIN, "--delta", "2")[0],
        "epsilon, shuffled": call("epsilon", *PLAIN, "--delta", "1e-5", "--sampling", "shuffle")[0],
        "solve for what cannot be": call("solve", *impossible)[0],
        "verify a certificate": call("verify", str(CERTIFICATES[0]))[0],
        "verify a forged one": call("verify", str(forged))[0],
        "verify what is none": call("verify", str(broken))[0],
        "spent of what is no ledger": call("spent", str(broken))[0],
        "an unknown command": call("nothing")[0],
    }


def parameters(name: str) -> str:
    """Names and defaults of what a public name takes."""
    value = getattr(mm, name)
    if isinstance(value, type) and issubclass(value, Exception):
        return "what is raised"
    taken = inspect.signature(value).parameters.values()
    return ", ".join(f"{one.kind.name[0]} {one.replace(annotation=one.empty)}" for one in taken)


def trainer_help() -> str:
    environment = os.environ | {"COLUMNS": "100"}
    command = [sys.executable, "-m", "trainer", "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=HERE.parents[1]
    )
    return " ".join(done.stdout.split())


def taken(folder: Path) -> dict[str, object]:
    """Everything this file looks at."""
    made = plan()
    ledger = mm.Ledger(plan=made).with_step(1)
    return {
        "names": {name: parameters(name) for name in mm.__all__},
        "help": {"mmaccount": help_of([])} | {name: help_of([name]) for name in COMMANDS},
        "help of the trainer": trainer_help(),
        "answers": answers(folder),
        "statuses": statuses(folder),
        "fingerprint": made.fingerprint,
        "plan": made.to_dict(),
        "ledger": keys(ledger.to_dict()),
    }


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    return json.loads(json.dumps(taken(tmp_path_factory.mktemp("snapshot"))))


STORED_PARTS = json.loads(STORED.read_text()) if STORED.exists() else {}


@pytest.mark.parametrize("part", STORED_PARTS)
def test_it_is_what_it_was(part, now):
    assert now[part] == STORED_PARTS[part]


def test_nothing_is_left_out(now):
    assert set(now) == set(STORED_PARTS)
    assert mm.Plan.from_dict(STORED_PARTS["plan"]) == plan()


@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda path: path.stem)
def test_a_certificate_of_before_still_verifies(path):
    status, out = call("verify", str(path))
    assert (status, out.split(" at ")[0]) == (
        0,
        f"proven: epsilon <= {json.loads(path.read_text())['values']['epsilon']}",
    )


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        STORED.write_text(json.dumps(taken(Path(place)), indent=1) + "\n")
