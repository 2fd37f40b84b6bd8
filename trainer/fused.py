"""Triton kernels for the two passes over per-record gradients: each reads them once and writes next to nothing.

Squares and sums are float64, products with the clip factor float32 and cut at a float32, as in `mechanism.PLAIN`; sums are
taken in the same order in every call, whatever the numbers are. Used only where `trainer.passes` has found them to agree.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

NORM_COLUMNS = 2048
ROWS, COLUMNS = 8, 256  # of a tile
ROW_TILES = 16  # that one program adds up


@triton.jit
def _square_sums(values, out, columns, blocks, WIDTH: tl.constexpr):  # noqa: ANN001, ANN202
    row, block = tl.program_id(0), tl.program_id(1)
    column = block * WIDTH + tl.arange(0, WIDTH)
    value = tl.load(values + row.to(tl.int64) * columns + column, mask=column < columns, other=0.0).to(tl.float64)
    tl.store(out + row.to(tl.int64) * blocks + block, tl.sum(value * value, 0))


@triton.jit
def _cut_sums(  # noqa: ANN202
    values,  # noqa: ANN001
    factors,  # noqa: ANN001
    totals,  # noqa: ANN001
    squares,  # noqa: ANN001
    rows,  # noqa: ANN001
    columns,  # noqa: ANN001
    blocks,  # noqa: ANN001
    bound,  # noqa: ANN001
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    TILES: tl.constexpr,
):
    block, band = tl.program_id(0), tl.program_id(1)
    column = block * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), dtype=tl.float64)
    for tile in range(TILES):
        row = (band * TILES + tile) * HEIGHT + tl.arange(0, HEIGHT)
        there = (row < rows)[:, None] & (column < columns)[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        factor = tl.load(factors + row, mask=row < rows, other=0.0)[:, None]
        value = tl.load(values + place, mask=there, other=0.0) * factor
        cut = tl.minimum(tl.maximum(value, -bound), bound).to(tl.float64)
        total += tl.sum(cut, 0)
        tl.store(squares + row.to(tl.int64) * blocks + block, tl.sum(cut * cut, 1), mask=row < rows)
    tl.store(totals + band.to(tl.int64) * columns + column, total, mask=column < columns)


def norms(row: Tensor) -> Tensor:
    """l2 norm of every row, float64."""
    row = row.contiguous()
    rows, columns = row.shape
    blocks = triton.cdiv(columns, NORM_COLUMNS)
    made = torch.empty(rows, blocks, dtype=torch.float64, device=row.device)
    if made.numel():
        with torch.cuda.device_of(row):
            _square_sums[(rows, blocks)](row, made, columns, blocks, WIDTH=NORM_COLUMNS)
    return made.sum(1).sqrt()


def clipped_sum(row: Tensor, factor: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """As `mechanism._clipped_sum`."""
    row = row.contiguous()
    rows, columns = row.shape
    blocks, bands = triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS * ROW_TILES)
    totals = torch.empty(bands, columns, dtype=torch.float64, device=row.device)
    squares = torch.empty(rows, blocks, dtype=torch.float64, device=row.device)
    if row.numel():
        tile = {"HEIGHT": ROWS, "WIDTH": COLUMNS, "TILES": ROW_TILES}
        with torch.cuda.device_of(row):
            _cut_sums[(blocks, bands)](row, factor, totals, squares, rows, columns, blocks, bound, **tile)
    return totals.sum(0), squares.sum(1).sqrt()
