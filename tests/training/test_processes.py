"""Several processes carry out the run of one: same batches, same weights, noise once; what stops
one stops all."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from mmaccount import Ledger, Phase, Plan
from trainer import __main__ as command
from trainer import processes

# seconds; the process group of several.py waits a minute for one that neither answers nor ends
SOON = 40.0


def several(*runs):
    """Carry out (folder, processes, way), ... one after the other."""
    words = [str(word) for each in runs for word in each]
    made = [sys.executable, str(ROOT / "tests" / "helpers" / "several.py"), *words]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def state(folder, rank=0):
    return torch.load(Path(folder) / f"state-{rank}.pt", weights_only=True)


def private(folder):
    return [json.loads(line) for line in (folder / "private.jsonl").read_text().splitlines()]


def charges(folder):
    return Ledger.load(Path(folder) / "ledger.json").runs


def divided(made, whole):
    """Whether in every step no record is with two processes, and all of them make the batch of the
    run by one process."""
    shares = [part["seen"] for part in made["processes"]]
    batches = whole["processes"][0]["seen"].items()
    return all(
        sorted(chain.from_iterable(share.get(step, []) for share in shares)) == batch
        for step, batch in batches
    )


def test_the_same_coins_give_the_same_batches_weights_and_ledger(tmp_path):
    folders = [tmp_path / str(size) for size in (1, 2, 4)]
    runs = [(folder, folder.name, "well") for folder in folders]
    ways = ("whole_batch_everywhere", "coins_of_every_process", "rounds_otherwise")
    whole, *made, same_coins, own_coins, rounds = several(
        *runs, *((tmp_path / control, 2, control) for control in ways)
    )
    expected = state(folders[0])
    for folder, run, size in zip(folders[1:], made, (2, 4)):
        assert run["status"] == [0] * size
        assert [part["charged"] for part in run["processes"]] == [8] * size
        assert divided(run, whole)
        for name, value in state(folder).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
            assert all(torch.equal(state(folder, rank)[name], value) for rank in range(1, size))
        assert (folder / "ledger.json").read_text() == (folders[0] / "ledger.json").read_text()
        for row, other in zip(private(folder), private(folders[0]), strict=True):
            assert row == pytest.approx(other, rel=1e-5)
    assert same_coins["status"] == own_coins["status"] == [0, 0]
    assert not divided(same_coins, whole)
    assert not divided(own_coins, whole)
    for run, exact in ((made[0], True), (made[1], True), (rounds, False)):
        assert all(part["exact"] is exact for part in run["processes"])


def spread(folder):
    """Standard deviation of the noise in 60,000 weights, in units of what the plan says."""
    weights, last = (state(folder)[name].double() for name in ("weights", "last"))
    return float((weights - last).std()) * 18 / 0.5


def test_noise_is_added_once_by_all_together(tmp_path):
    made, broken = several(
        (tmp_path / "a", 3, "silent"), (tmp_path / "b", 3, "noise_of_every_process")
    )
    assert made["status"] == broken["status"] == [0] * 3
    assert abs(spread(tmp_path / "a") - 1.0) < 5 / (2 * 60_000) ** 0.5
    assert abs(spread(tmp_path / "b") - 2.0) < 5 * 2 / (2 * 60_000) ** 0.5


def test_a_process_that_dies_stops_the_run_which_others_can_resume(tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "run"
    _, died, resumed, again = several(
        (alone, 1, "well"), (out, 4, "die"), (out, 3, "resume"), (out, 1, "resume")
    )
    assert died["status"] == [0, signal.SIGKILL, 0, 0]
    assert died["seconds"] < SOON
    for part in died["processes"]:
        assert part["errors"] == [[4, "ConnectionError", processes.LOST]]
    assert resumed["status"] == [0, 0, 0]
    assert not any(part["errors"] for part in resumed["processes"] + again["processes"])
    assert charges(out) == ((1, 4), (4, 4), (5, 8))
    torch.testing.assert_close(state(out)["weights"], state(alone)["weights"], rtol=0, atol=1e-6)


def test_an_exception_in_one_is_one_in_all_and_leaves_them_in_step(tmp_path):
    alone, sick, full, busy = (tmp_path / name for name in ("alone", "raise", "full", "busy"))
    _, raised, refused, unthreaded = several(
        (alone, 1, "well"), (sick, 3, "raise"), (full, 3, "full"), (busy, 3, "no thread")
    )
    theirs = ["ConnectionError", processes.FAILED]
    for made, where, own in (
        (raised, 1, ["RuntimeError", "out of memory"]),
        (refused, 0, ["OSError", "disk full"]),
        (unthreaded, 0, ["RuntimeError", "can't start new thread"]),
    ):
        assert made["seconds"] < SOON
        errors = [
            part["errors"] for part in made["processes"]
        ]  # one each, then the step was done again
        assert errors == [[[4, *(own if rank == where else theirs)]] for rank in range(3)]
    for made, times in (
        (raised, 2),
        (refused, 1),
    ):  # no data are looked at in a step that could not be charged
        seen = [part["seen"]["4"] for part in made["processes"]]
        assert all(len(indices) == times * len(set(indices)) > 0 for indices in seen)
    assert charges(sick) == charges(busy) == ((1, 4), (4, 4), (5, 8))
    assert charges(full) == ((1, 4), (5, 8))
    for folder in (sick, full, busy):
        torch.testing.assert_close(
            state(folder)["weights"], state(alone)["weights"], rtol=0, atol=1e-6
        )


def test_a_process_that_was_started_otherwise_is_refused(tmp_path):
    parts = ["data", "labels", "plan", "model", "update", "seed"]
    *made_by_part, elsewhere = several(
        *((tmp_path / part, 2, part) for part in (*parts, "elsewhere"))
    )
    (first, second), path = (
        (each["errors"] for each in elsewhere["processes"]),
        tmp_path / "elsewhere",
    )
    refused = f"{path} holds an earlier run where another process is: start the first one there."
    assert (first, second) == (
        [[0, "ValueError", refused]],
        [[0, "ConnectionError", processes.FAILED]],
    )
    assert not (path / "ledger.json").exists()
    for part, made in zip(parts, made_by_part, strict=True):
        first, second = (each["errors"] for each in made["processes"])
        name = "data" if part == "labels" else part
        assert second == [[0, "ValueError", f"{name} of process 1 is not that of process 0."]]
        assert first == [[0, "ConnectionError", processes.FAILED]]
        assert not (tmp_path / part / "ledger.json").exists()


# ------------------------------------------------------------------------------------- the command


def test_the_command_by_two_processes(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((60, 4), dtype=np.float32), generator.integers(0, 3, 60)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    phase = Phase(steps=5, noise_multiplier=2.0, clip_norm=1.0, learning_rate=0.5)
    Plan(dataset_size=60, sample_rate=0.5, batch_size=30, phases=(phase,), delta=1e-4).save(
        tmp_path / "plan.json"
    )
    line = f"command --plan {tmp_path}/plan.json --data {tmp_path}/data.npz --out {tmp_path}/run --json"
    probe = f"command --probe {tmp_path}/probe.npz --data {tmp_path}/data.npz"
    ways = {
        "canaries": f"{line} --canaries 5",
        "well": line,
        "again": line,
        "resumed": f"{line} --resume",
        "probe": probe,
    }
    made = several(*((tmp_path / name, 2, way) for name, way in ways.items()))
    status = {
        name: [os.waitstatus_to_exitcode(each) for each in run["status"]]
        for name, run in zip(ways, made)
    }
    assert status == {
        "canaries": [2, 2],
        "well": [0, 0],
        "again": [2, 2],
        "resumed": [0, 0],
        "probe": [2, 2],
    }
    printed = {
        name: [(tmp_path / name / f"printed-{rank}").read_text() for rank in range(2)]
        for name in ways
    }
    first, second = printed["well"]
    assert json.loads(first.splitlines()[-1]) == json.loads(
        (tmp_path / "run" / "report.json").read_text()
    )
    assert second == ""
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
    assert charges(tmp_path / "run") == ((1, 5),)
    for name, word in {"canaries": "canaries", "again": "resume", "probe": "torchrun"}.items():
        for rank, text in enumerate(printed[name]):
            assert len(text.splitlines()) == 1
            assert word in text
            assert text.startswith(f"trainer, process {rank}: " if rank else "trainer: ")


def children(process):
    return [
        int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def test_torchrun_a_killed_worker_ends_the_command_and_resume_finishes(tmp_path, capsys):
    phase = Phase(steps=150, noise_multiplier=4.3, clip_norm=1.0, learning_rate=2.0)
    plan = Plan(dataset_size=1437, sample_rate=0.25, batch_size=359.25, phases=(phase,), delta=1e-4)
    plan.save(tmp_path / "plan.json")
    out = tmp_path / "run"
    arguments = ["--plan", str(tmp_path / "plan.json"), "--data", "digits", "--out", str(out)]
    several_of = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "trainer",
    ]
    with (tmp_path / "err").open("w") as err:
        running = subprocess.Popen(
            [*several_of, *arguments], cwd=ROOT, stderr=err, stdout=subprocess.DEVNULL
        )
    while running.poll() is None and not (
        (out / "ledger.json").exists() and Ledger.load(out / "ledger.json").charged > 5
    ):
        time.sleep(0.002)
    os.kill(children(running.pid)[-1], signal.SIGKILL)
    killed = time.monotonic()
    assert running.wait(60) != 0, (tmp_path / "err").read_text()
    assert time.monotonic() - killed < SOON
    before = Ledger.load(out / "ledger.json").charged
    assert 5 < before < 150
    assert command.main([*arguments, "--resume", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert before < 150 <= made["charged_steps"] <= 151
    assert (tmp_path / "err").read_text().count("150 steps, batches") == 1
