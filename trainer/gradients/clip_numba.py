"""The two passes over per-record gradients on a CPU, compiled by numba: each reads them once and
writes next to nothing.

Squares and sums are float64, products with the clip factor float32 and cut at a float32, as in
`mechanism.PLAIN`. Squares of a record are added in some order, the same one for every record in
every place; a coordinate is summed over records in their order. Used only where
`trainer.clip_kernels` has found them to agree.
"""

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, partial
from os import getpid

import numba
import numpy as np
import torch
from torch import Tensor

COLUMNS_AT_ONCE = 2048  # summed over records at a time: fits the nearest cache
ONE_THREAD_BELOW = 2**19  # numbers that one thread reads before others have started

jit = numba.njit(cache=True, nogil=True, fastmath={"reassoc"})


@jit
def _square_sum(values: np.ndarray) -> float:
    total = 0.0
    for j in range(len(values)):
        value = np.float64(values[j])
        total += value * value
    return total


@jit
def _square_sums(row: np.ndarray, out: np.ndarray, first: int, last: int) -> None:
    for i in range(first, last):
        out[i] = _square_sum(row[i])


@jit
def _cut_sum(values: np.ndarray, factor: np.float32, bound: np.float32, total: np.ndarray) -> float:
    squares = 0.0
    for j in range(len(values)):
        value = values[j] * factor
        value = bound if value > bound else value
        value = -bound if value < -bound else value
        cut = np.float64(value)
        total[j] += cut
        squares += cut * cut
    return squares


@jit
def _cut_sums(
    row: np.ndarray,
    factor: np.ndarray,
    bound: np.float32,
    total: np.ndarray,
    squares: np.ndarray,
    first: int,
    last: int,
) -> None:
    for block in range(first, last):
        start, stop = block * COLUMNS_AT_ONCE, min((block + 1) * COLUMNS_AT_ONCE, row.shape[1])
        for i in range(len(row)):
            squares[i, block] = _cut_sum(row[i, start:stop], factor[i], bound, total[start:stop])


@cache
def _pool(process: int, threads: int) -> Executor:
    """Threads of this process: those of one that forked are not in its child."""
    return ThreadPoolExecutor(threads)


def _shared(size: int, parts: int, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` for all parts, shared among as many threads as torch takes."""
    threads = min(torch.get_num_threads(), parts)
    if threads <= 1 or size < ONE_THREAD_BELOW:
        work(0, parts)
        return
    edges = [parts * i // threads for i in range(threads + 1)]
    list(_pool(getpid(), torch.get_num_threads()).map(work, edges[:-1], edges[1:]))


def norms(row: Tensor) -> Tensor:
    """l2 norm of every row, float64."""
    squares = torch.empty(len(row), dtype=torch.float64)
    values, out = row.contiguous().numpy(force=True), squares.numpy()
    _shared(row.numel(), len(row), lambda first, last: _square_sums(values, out, first, last))
    return squares.sqrt_()


def clipped_sum(row: Tensor, factor: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Sum over records of row times factor (float32), cut at +-bound, and the l2 norm that every
    record ends with.

    Both are float64, like those of `mechanism.PLAIN`.
    """
    rows, columns = row.shape
    blocks = -(-columns // COLUMNS_AT_ONCE)
    total = torch.zeros(columns, dtype=torch.float64)
    squares = torch.empty(rows, blocks, dtype=torch.float64)
    values, out = row.contiguous().numpy(force=True), (total.numpy(), squares.numpy())
    work = partial(_cut_sums, values, factor.numpy(), np.float32(bound), *out)
    _shared(row.numel(), blocks, work)
    return total, squares.sum(1).sqrt_()
