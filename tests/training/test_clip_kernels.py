"""Other ways of norms and sums are used only where they agree with the plain one; the Triton
kernels do, interpreted."""

import os
import subprocess
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from test_gradients import convolution

from trainer import clip_kernels
from trainer.gradients import clip_numba
from trainer.mechanism import ONE, PLAIN, Passes, Processes, clip_truncate_sum


COMPILED = Passes(norms=clip_numba.norms, clipped_sum=clip_numba.clipped_sum)


def test_a_cpu_gets_compiled_kernels_that_agree():
    clip_kernels.agree(PLAIN, "cpu")
    assert clip_kernels.chosen("cpu") == (
        COMPILED,
        "numba kernels, which agreed with the plain way on random numbers",
    )


def test_threads_and_places_do_not_change_a_bit(monkeypatch):
    row, factor = torch.randn(33, 36_864), torch.rand(33)
    norms, (total, lengths) = clip_numba.norms(row), clip_numba.clipped_sum(row, factor, 0.3)
    expected, _ = PLAIN.clipped_sum(row, factor, 0.3)
    assert torch.equal(
        total, expected
    )  # float32 products and cuts, added in float64 in the order of records
    assert torch.equal(clip_numba.norms(row.flip(0)), norms.flip(0))
    assert torch.equal(clip_numba.clipped_sum(row.flip(0), factor.flip(0), 0.3)[1], lengths.flip(0))
    monkeypatch.setattr(clip_numba, "ONE_THREAD_BELOW", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert torch.equal(clip_numba.norms(row), norms)
    assert all(
        torch.equal(*pair)
        for pair in zip(clip_numba.clipped_sum(row, factor, 0.3), (total, lengths))
    )


def bounded(rows, way):
    """The mechanism bounds every record this way too, and its sum is the same."""
    gradients = [
        torch.randn(rows, *shape) * 10.0 ** (torch.arange(rows) - 4.0).view(-1, 1, 1)
        for shape in ((3, 5), (2, 301))
    ]
    if rows > 2:
        gradients[0][1, 0, 0] = float("inf")
    found, expected = (clip_truncate_sum(gradients, 1.0, 4.0, each) for each in (way, PLAIN))
    torch.testing.assert_close(found.total, expected.total, rtol=0, atol=1e-4)
    assert torch.equal(found.norms.isfinite(), expected.norms.isfinite())
    for i in range(rows):
        one = clip_truncate_sum([part[i : i + 1] for part in gradients], 1.0, 4.0, way).total
        assert float(one.norm()) <= 1.0
        assert float(one.abs().max()) <= 0.5


@pytest.mark.parametrize("way", [PLAIN, COMPILED], ids=["plain", "compiled"])
def test_the_norm_of_a_record_has_the_same_bits_beside_any_others(way):
    gradients = [torch.randn(64, size) for size in (16, 2304, 36_864, 10) * 15]
    norms = clip_truncate_sum(gradients, 1.0, 4.0, way).norms
    for first, last in ((0, 1), (5, 6), (7, 24), (30, 63)):
        some = clip_truncate_sum([one[first:last] for one in gradients], 1.0, 4.0, way).norms
        assert torch.equal(some, norms[first:last])
    assert torch.equal(
        clip_truncate_sum([one.flip(0) for one in gradients], 1.0, 4.0, way).norms.flip(0), norms
    )


def test_compiled_kernels_bound_every_record():
    for rows in (0, 1, 9):
        bounded(rows, COMPILED)


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
        ({"norms": lambda row: PLAIN.norms(row) * (1 + 1e-12 * (len(row) > 1))}, "how many"),
        ({"clipped_sum": without}, "differ"),
        ({"clipped_sum": uncut}, "differ"),
        ({"clipped_sum": late}, "differ"),
        ({"clipped_sum": rounded}, "sums differ"),
    ],
)
def test_what_disagrees_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        clip_kernels.agree(Passes(**changed), "cpu")


def test_without_a_working_kernel_the_plain_way_is_used_and_the_reason_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "trainer.gradients.clip_triton", None)
    made, reason = clip_kernels.chosen("cuda")
    assert made is PLAIN
    assert reason.startswith("plain: no Triton kernels, ModuleNotFoundError: ")
    wrong = SimpleNamespace(norms=lambda row: PLAIN.norms(row) * 0.9, clipped_sum=PLAIN.clipped_sum)
    monkeypatch.setitem(sys.modules, "trainer.gradients.clip_triton", wrong)
    monkeypatch.setattr(
        clip_kernels, "_random", lambda shape, device, made=clip_kernels._random: made(shape, "cpu")
    )
    made, reason = clip_kernels.chosen("cuda")
    assert made is PLAIN
    assert "norms differ" in reason
    assert len(reason.splitlines()) == 1


class BesideAnother(Processes):
    """One of two, the other of which says no."""

    size = 2


def test_all_processes_take_the_same_way(monkeypatch):
    other = Passes(norms=torch.norm)
    monkeypatch.setattr(clip_kernels, "_tried", lambda device: (other, "other"))
    assert clip_kernels.chosen("cuda", ONE) == (other, "other")
    assert clip_kernels.chosen("cuda", BesideAnother()) == (
        PLAIN,
        "plain: another process has no such kernels",
    )


needs_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="triton is for Linux only; its kernels are checked where they are used",
)


@needs_triton
def test_interpreted_kernels_agree_and_bound_every_record():
    run = [sys.executable, str(ROOT / "tests" / "helpers" / "interpreted.py")]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "agree\n", done.stderr


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])  # A100; H100, H200
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_compile_to_machine_code_of_gpus(capability, dtype, monkeypatch, tmp_path):
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    from trainer.gradients import clip_triton, convolution_triton

    made = {}

    class Compiled:
        """Compiles as a launch does, and does not launch."""

        def __init__(self, module, name):
            self.name, self.kernel = name, getattr(module, name)

        def __getitem__(self, grid):
            return lambda *given, **named: made.update(
                {self.name: self.kernel.warmup(*given, grid=grid, **named)}
            )

    target = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: capability,  # what is compiled is kept by device
        get_current_stream=lambda device: 0,
    )
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", target)
    for module, name in (
        (clip_triton, "_square_sums"),
        (clip_triton, "_cut_sums"),
        (convolution_triton, "_weight_gradients"),
    ):
        monkeypatch.setattr(module, name, Compiled(module, name))
    row = torch.randn(9, 5000)
    clip_triton.norms(row)
    clip_triton.clipped_sum(row, torch.rand(9), 0.5)
    for tf32 in (False, True):
        with torch.backends.cudnn.flags(allow_tf32=tf32):
            shape, x, out, _ = convolution((64, 64, 8, 3, 1, 1, 1))
            convolution_triton.weight_gradients(x.to(dtype), out.to(dtype), shape)
        tensor_cores = {80: "mma.sync", 90: "wgmma"}[capability] in made["_weight_gradients"].asm[
            "ptx"
        ]
        assert tensor_cores == (tf32 or dtype == torch.bfloat16)
    assert all(len(kernel.asm["cubin"]) > 1000 for kernel in made.values())
    assert len(made) == 3
