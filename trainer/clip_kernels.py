"""Which way of reading per-record gradients a device gets: compiled kernels, if they agree here
with the plain way."""

from importlib import import_module

import torch
from torch import Tensor

from trainer.mechanism import NORM_BLOCK, ONE, PLAIN, Passes, Processes
from trainer.processes import everywhere

KERNEL_MODULES = {  # by device: module, compiler
    "cpu": ("trainer.gradients.clip_numba", "numba"),
    "cuda": ("trainer.gradients.clip_triton", "Triton"),
}
# Rows and columns: edges of the kernels' tiles, and the sizes of Resnet-20.
TRIED_SHAPES = ((1, 1), (3, 16), (130, 2305), (129, 36_864), (257, 4))
SUMS_TOLERANCE = 1e-12  # of sums of the same float32 numbers in float64
NORMS_TOLERANCE = (NORM_BLOCK + 4) * 2.0**-24  # the plain norms are that much off, at most


def chosen(device: torch.device | str, processes: Processes = ONE) -> tuple[Passes, str]:
    """The passes for a device, the same in all processes, and a line that says which and why."""
    passes, reason = _tried(device)
    if everywhere(processes, lambda: passes is not PLAIN):
        return passes, reason
    if passes is PLAIN:
        return PLAIN, reason
    return PLAIN, "plain: another process has no such kernels"


def _tried(device: torch.device | str) -> tuple[Passes, str]:
    compiler = "compiled"
    try:
        module, compiler = KERNEL_MODULES[torch.device(device).type]
        kernels = import_module(module)
        passes = Passes(norms=kernels.norms, clipped_sum=kernels.clipped_sum)
        agree(passes, device)
    except Exception as error:  # whatever keeps a kernel from compiling, the plain way works
        first_line = str(error).partition("\n")[0]
        return PLAIN, f"plain: no {compiler} kernels, {type(error).__name__}: {first_line}"
    return passes, f"{compiler} kernels, which agreed with the plain way on random numbers"


def agree(passes: Passes, device: torch.device | str) -> None:
    """Compare with the plain way on random numbers of many sizes, some rows not finite.

    Raises:
        ValueError: they disagree.
    """
    for shape in TRIED_SHAPES:
        _agree_on(passes, _random(shape, device))


def _agree_on(passes: Passes, row: Tensor) -> None:
    norms, expected = passes.norms(row), PLAIN.norms(row)
    finite = expected.isfinite()
    if not torch.equal(norms.isfinite(), finite):
        raise ValueError("norms that are not finite are other ones")
    if not torch.equal(passes.norms(row[:1]), norms[:1]):
        raise ValueError("norms depend on how many there are")
    _close("norms", norms[finite], expected[finite], NORMS_TOLERANCE * expected[finite])

    rows, columns = row.shape
    row = torch.where(finite[:, None], row, 0.0)
    factor = torch.where(finite, 1.0 / expected.clamp_min(1.0), 0.0).float()
    bound = float(torch.tensor(0.3 / columns**0.5, dtype=torch.float32))
    total, lengths = passes.clipped_sum(row, factor, bound)
    total_expected, lengths_expected = PLAIN.clipped_sum(row, factor, bound)
    _close("sums", total, total_expected, torch.full_like(total, SUMS_TOLERANCE * bound * rows))
    _close("lengths", lengths, lengths_expected, SUMS_TOLERANCE * lengths_expected)


def _random(shape: tuple[int, int], device: torch.device | str) -> Tensor:
    """Normal numbers, rows of very different length, every 5th from the second with one that is not
    finite."""
    rows = torch.arange(shape[0])
    row = (torch.randn(shape) * 10.0 ** (rows % 7 - 3.0)[:, None]).float()
    bad = torch.tensor([float("nan"), float("inf"), -float("inf")])
    chosen = rows[1::5]
    row[chosen, chosen % shape[1]] = bad[chosen % 3]
    return row.to(device)


def _close(what: str, actual: Tensor, expected: Tensor, tolerance: Tensor) -> None:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ValueError(f"{what} have another shape or type")
    if not bool(((actual - expected).abs() <= tolerance).all()):
        raise ValueError(f"{what} differ by up to {float((actual - expected).abs().max()):.1e}")
