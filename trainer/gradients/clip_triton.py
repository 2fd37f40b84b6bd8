"""The two passes over per-record gradients on CUDA, by Triton: each reads them once and writes next
to nothing.

Squares and sums are float64, products with the clip factor float32 and cut at a float32, as in
`mechanism.PLAIN`; sums are taken in the same order in every call, whatever the numbers are. Used
only where `trainer.clip_kernels` has found them to agree.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

NORM_COLUMNS = 1024
TILE_ROWS, TILE_COLUMNS = 8, 256
ROW_TILES = 16  # that one program adds up
FUSED = {
    "enable_fp_fusion": True
}  # multiply-adds: nothing here depends on two roundings instead of one


@triton.jit
def _square_sums(values, out, columns, WIDTH: tl.constexpr):  # noqa: ANN001, ANN202
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((WIDTH,), dtype=tl.float64)
    for start in range(0, columns, WIDTH):
        column = start + tl.arange(0, WIDTH)
        value = tl.load(values + row * columns + column, mask=column < columns, other=0.0).to(
            tl.float64
        )
        total += value * value
    tl.store(out + row, tl.sum(total, 0))


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
    """l2 norm of every row, float64; a row has the same bits whatever the others are."""
    row = row.contiguous()
    rows, columns = row.shape
    squares = torch.zeros(rows, dtype=torch.float64, device=row.device)
    if rows:
        with torch.cuda.device_of(row):
            _square_sums[(rows,)](row, squares, columns, WIDTH=NORM_COLUMNS, **FUSED)
    return squares.sqrt()


def clipped_sum(row: Tensor, factor: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Sum over records of row times factor (float32), cut at +-bound, and the l2 norm that every
    record ends with.

    Both are float64, like those of `mechanism.PLAIN`.
    """
    row = row.contiguous()
    rows, columns = row.shape
    blocks, bands = triton.cdiv(columns, TILE_COLUMNS), triton.cdiv(rows, TILE_ROWS * ROW_TILES)
    totals = torch.empty(bands, columns, dtype=torch.float64, device=row.device)
    squares = torch.empty(rows, blocks, dtype=torch.float64, device=row.device)
    if row.numel():
        tile = {"HEIGHT": TILE_ROWS, "WIDTH": TILE_COLUMNS, "TILES": ROW_TILES}
        with torch.cuda.device_of(row):
            _cut_sums[(blocks, bands)](
                row, factor, totals, squares, rows, columns, blocks, bound, **tile, **FUSED
            )
    return totals.sum(0), squares.sum(1).sqrt()
