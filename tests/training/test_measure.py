"""python -m trainer --bench: every method agrees with a float64 loop before it is timed, and a
wrong one is refused."""

import json
import subprocess
import sys
from time import sleep

import pytest
import torch
from conftest import ROOT

from mmaccount import Ledger, Plan, terminal
from trainer import __main__ as command
from trainer.bench import measure
from trainer.gradients.timing import Clock


def small(**changed):
    return measure.measure(**{"model": "cnn", "batch_size": 5, "rounds": 2} | changed)


def named(made):
    return {row["method"]: row for row in made["methods"]}


def test_every_method_is_checked_and_timed(capsys):
    threads = torch.get_num_threads()
    assert (
        command.main(["--bench", "--model", "cnn", "--batch-size", "5", "--rounds", "2", "--json"])
        == 0
    )
    made = json.loads(capsys.readouterr().out)
    assert (made["device"], made["threads"], made["torch"]) == (
        measure._processor(),
        threads,
        torch.__version__,
    )
    rows = named(made)
    assert set(rows) == set(measure.METHODS)
    for row in rows.values():
        assert 0 <= row["error"] <= 1e-4
        assert 0 < row["milliseconds"] <= row["median_milliseconds"]
        assert row["records_per_second"] == pytest.approx(5e3 / row["milliseconds"])
        assert row["ratio"] == pytest.approx(
            row["milliseconds"] / rows[measure.REFERENCE]["milliseconds"]
        )
        assert row["peak_bytes"] >= 4 * made["parameters"]


def test_rounds_are_counted_at_a_terminal(monkeypatch, capsys):
    timed = Clock.seconds
    monkeypatch.setattr(Clock, "seconds", lambda clock, call: sleep(0.02) or timed(clock, call))
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_UPDATES", 0.005)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert command.main(["--bench", "--model", "cnn", "--batch-size", "5", "--rounds", "2"]) == 0
    assert "4 of 5, " in capsys.readouterr().err


def test_compiling_is_said(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "before_compiling", lambda tell: tell())
    assert command.main(["--bench", "--threads", "0"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first
        == "trainer: compiling for some seconds (once; later calls find the machine code on disk)"
    )
    assert "threads" in second


def test_the_loop_clips_and_truncates_some_records_and_not_others():
    given = measure.task("cnn", 5, "cpu")
    norms = [float(row.norm()) for row in measure._loop(given)]
    assert min(norms) < given.clip_norm < max(norms)
    sums = list(given.expected.values())
    for one, other in zip(sums, sums[1:]):
        assert float((one - other).norm()) > 1e-2 * float(one.norm())


@pytest.mark.parametrize("factor", [1.01, 0.0, float("nan")])
def test_a_wrong_method_is_refused(monkeypatch, factor):
    kind, make = measure.METHODS["ours"]

    def wrong(given):
        step = make(given)
        return lambda: [part * factor for part in step()]

    monkeypatch.setitem(measure.METHODS, "ours", (kind, wrong))
    made = small()
    row = named(made)["ours"]
    assert "disagrees" in row["absent"]
    assert "milliseconds" not in row
    assert "disagrees" in measure.table(made)
    json.dumps(made, allow_nan=False)


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    rows = named(small())
    assert "opacus" in rows["opacus, hooks"]["absent"]
    assert rows["ours"]["ratio"] > 0


def test_a_method_that_fails_does_not_stop_the_others(monkeypatch):
    def fails(given):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setitem(measure.METHODS, "vmap(grad)", ("cut", fails))
    rows = named(small())
    assert rows["vmap(grad)"] == {"method": "vmap(grad)", "absent": "CUDA out of memory."}
    assert rows["ours"]["ratio"] > 0


def test_the_floor_is_shown_where_the_card_is_known():
    made = small()
    assert "floor_milliseconds" not in made["counted"]["private"]
    made["counted"] = measure._counted(measure.task("cnn", 5, "cpu"), "NVIDIA H100 80GB HBM3")
    assert (
        made["counted"]["private"]["floor_milliseconds"]
        > made["counted"]["without privacy"]["floor_milliseconds"]
        > 0
    )
    assert measure.table(made).count("at least") == 2


def test_memory_is_the_most_held_at_once():
    def step():
        first = torch.zeros(1000)
        del first
        return [torch.zeros(500), torch.zeros(700)]

    assert measure._peak_bytes(step, torch.device("cpu")) == 4 * 1200


def test_precision_is_that_of_the_passes():
    made = small(precision="bf16")
    rows, expected = named(made), small()
    assert made["dtype"] == "bf16"
    assert (
        made["counted"]["without privacy"]["bytes"]
        < expected["counted"]["without privacy"]["bytes"]
    )
    for name, row in named(expected).items():
        assert 10 * row["error"] < rows[name]["error"] < measure.ERROR_TOLERANCE["bf16"]


@pytest.mark.parametrize(
    "options", ["--batch-size 0", "--rounds 0", "--threads 0", "--model none", "--device cuda"]
)
def test_bad_input_ends_in_one_line(capsys, options):
    assert command.main(["--bench", *options.split()]) == 2
    error = capsys.readouterr().err
    assert options.split()[0].strip("-").replace("-", "_") in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_the_headline_run_in_small(tmp_path):
    script = [sys.executable, "tests/bench/resnet.py", str(tmp_path), "--smoke", "--epsilon", "8"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "results.json").read_text())
    assert made["about"]["torch"] == torch.__version__
    assert [row["plan"] for row in made["plans"]] == ["paper-8", "advised-8"]
    paper, advised = made["plans"]
    assert (paper["clip_norm"], paper["gap"], paper["truncation"], paper["steps"]) == (
        20,
        0.15,
        100,
        2,
    )
    assert advised["gap"] == 0
    for row in made["plans"]:
        assert row["epsilon"] <= row["target_epsilon"] == 8
        (run,) = row["runs"]
        assert (run["charged_steps"], run["seeded"]) == (2, False)
        assert [step for step, _ in run["curve"]] == [1, 2]
        plan = Plan.load(tmp_path / f"{row['plan']}.json")
        assert Ledger.load(tmp_path / run["run"] / "ledger.json").settings() == plan.settings()
    assert (tmp_path / "table.md").read_text() == done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
