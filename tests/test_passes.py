"""Other ways of norms and sums are used only where they agree with the plain one; the Triton kernels do, interpreted."""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from trainer import passes
from trainer.mechanism import ONE, PLAIN, Passes, Processes


def test_the_plain_way_agrees_with_itself_and_is_what_a_cpu_gets():
    passes.agree(PLAIN, "cpu")
    assert passes.chosen("cpu") == (PLAIN, "plain")


def without(row, factor, bound):
    total, lengths = PLAIN.clipped_sum(row[:-1], factor[:-1], bound)
    return total, torch.cat([lengths, lengths[:1]])


def uncut(row, factor, bound):
    return PLAIN.clipped_sum(row, factor, 1e30)


def late(row, factor, bound):
    made = row.double() * factor.double()[:, None]
    return made.sum(0).clamp(-bound * len(row), bound * len(row)), made.norm(dim=1)


def rounded(row, factor, bound):
    total, lengths = PLAIN.clipped_sum(row, factor, bound)
    return total.float().double(), lengths


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norms": lambda row: PLAIN.norms(row) * (1 - 2e-5)}, "norms differ"),
        ({"norms": lambda row: PLAIN.norms(row.nan_to_num(1.0, 1.0, 1.0))}, "not finite"),
        ({"norms": lambda row: PLAIN.norms(row).float()}, "type"),
        ({"clipped_sum": without}, "differ"),
        ({"clipped_sum": uncut}, "differ"),
        ({"clipped_sum": late}, "differ"),
        ({"clipped_sum": rounded}, "sums differ"),
    ],
)
def test_what_disagrees_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        passes.agree(Passes(**changed), "cpu")


def test_without_a_working_kernel_the_plain_way_is_used_and_the_reason_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "trainer.fused", None)
    monkeypatch.delattr(sys.modules["trainer"], "fused", raising=False)
    made, reason = passes.chosen("cuda")
    assert made is PLAIN
    assert "ModuleNotFoundError" in reason
    wrong = SimpleNamespace(norms=lambda row: PLAIN.norms(row) * 0.9, clipped_sum=PLAIN.clipped_sum)
    monkeypatch.setitem(sys.modules, "trainer.fused", wrong)
    monkeypatch.setattr(sys.modules["trainer"], "fused", wrong, raising=False)
    monkeypatch.setattr(passes, "_random", lambda shape, device, made=passes._random: made(shape, "cpu"))
    made, reason = passes.chosen("cuda")
    assert made is PLAIN
    assert "norms differ" in reason
    assert len(reason.splitlines()) == 1


class BesideAnother(Processes):
    """One of two, the other of which says no."""

    size = 2


def test_all_processes_take_the_same_way(monkeypatch):
    other = Passes(norms=torch.norm)
    monkeypatch.setattr(passes, "_tried", lambda device: (other, "other"))
    assert passes.chosen("cuda", ONE) == (other, "other")
    assert passes.chosen("cuda", BesideAnother()) == (PLAIN, "plain: another process has no Triton kernels")


@pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is for Linux only; its kernels are checked where they are used"
)
def test_interpreted_kernels_agree_and_bound_every_record():
    run = [sys.executable, str(ROOT / "tests" / "interpreted.py")]
    done = subprocess.run(run, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False)
    assert done.stdout == "agree\n", done.stderr
