"""Triton kernels: per-record weight gradients of a convolution, and the two passes over per-record gradients.

A weight gradient is a matrix product whose columns, the input's patches, are read where they lie and never written; what
several programs read of a record comes from the cache. Each pass reads the gradients once and writes next to nothing.

Squares and sums are float64, products with the clip factor float32 and cut at a float32, as in
`mechanism.PLAIN`; sums are taken in the same order in every call, whatever the numbers are. Used
only where `trainer.clip_kernels` and `trainer.gradients.convolutions` have found them to agree.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.gradients.geometry import Geometry

NORM_COLUMNS = 1024
ROWS, COLUMNS = 8, 256  # of a tile
ROW_TILES = 16  # that one program adds up
FUSED = {
    "enable_fp_fusion": True
}  # multiply-adds: nothing here depends on two roundings instead of one
SIDE, PIXELS = (
    64,
    32,
)  # largest tile of a weight gradient, and how many output pixels are multiplied at a time


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
    made = torch.zeros(rows, dtype=torch.float64, device=row.device)
    if rows:
        with torch.cuda.device_of(row):
            _square_sums[(rows,)](row, made, columns, WIDTH=NORM_COLUMNS, **FUSED)
    return made.sqrt()


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
            _cut_sums[(blocks, bands)](
                row, factor, totals, squares, rows, columns, blocks, bound, **tile, **FUSED
            )
    return totals.sum(0), squares.sum(1).sqrt()


@triton.jit
def _weight_gradients(  # noqa: ANN202
    x,  # noqa: ANN001
    out,  # noqa: ANN001
    made,  # noqa: ANN001
    channels,  # noqa: ANN001
    height,  # noqa: ANN001
    width,  # noqa: ANN001
    outputs,  # noqa: ANN001
    out_width,  # noqa: ANN001
    pixels,  # noqa: ANN001
    top,  # noqa: ANN001
    left,  # noqa: ANN001
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PIXELS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    record = tl.program_id(2).to(tl.int64)
    size: tl.constexpr = KERNEL[0] * KERNEL[1]
    columns = channels * size
    k = tl.program_id(1) * ROWS + tl.arange(0, ROWS)  # output channel
    m = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)  # input channel and place in the kernel
    channel, i, j = m // size, m % size // KERNEL[1], m % KERNEL[1]
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, pixels, PIXELS):
        pixel = start + tl.arange(0, PIXELS)
        there = (k < outputs)[:, None] & (pixel < pixels)[None, :]
        back = tl.load(
            out + (record * outputs + k[:, None]) * pixels + pixel[None, :], mask=there, other=0.0
        ).to(tl.float32)
        row = (pixel // out_width * STRIDE[0] - top)[:, None] + (i * DILATION[0])[None, :]
        column = (pixel % out_width * STRIDE[1] - left)[:, None] + (j * DILATION[1])[None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        there = inside & (pixel < pixels)[:, None] & (m < columns)[None, :]
        place = ((record * channels + channel[None, :]) * height + row) * width + column
        patch = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        total = tl.dot(back, patch, total, input_precision=PRECISION)
    there = (k < outputs)[:, None] & (m < columns)[None, :]
    tl.store(made + (record * outputs + k[:, None]) * columns + m[None, :], total, mask=there)


def weight_gradients(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """Float32, as `convolutions.grouped`; TF32 if torch's convolutions have it."""
    x, out = x.contiguous(), out.contiguous()
    outputs, channels, *kernel = shape.weight
    made = torch.empty(len(x), *shape.weight, dtype=torch.float32, device=x.device)
    columns, pixels = channels * kernel[0] * kernel[1], shape.out[2] * shape.out[3]
    tile = {"ROWS": _tile(outputs), "COLUMNS": _tile(columns), "PIXELS": PIXELS}
    grid = (
        triton.cdiv(columns, tile["COLUMNS"]),
        triton.cdiv(outputs, tile["ROWS"]),
        len(x),
    )  # one record after the other
    precision = (
        "tf32" if torch.backends.cudnn.allow_tf32 or x.dtype == torch.bfloat16 else "ieee"
    )  # TF32 holds a bf16
    sizes = (channels, *shape.x[2:], outputs, shape.out[3], pixels, *shape.padding)
    settings = {
        "KERNEL": tuple(kernel),
        "STRIDE": shape.stride,
        "DILATION": shape.dilation,
        "PRECISION": precision,
    }
    with torch.cuda.device_of(x):
        _weight_gradients[grid](x, out, made, *sizes, **tile, **settings, **FUSED)
    return made


def _tile(size: int) -> int:
    """A power of two from 16, the least that a product takes, to SIDE."""
    return min(SIDE, max(16, triton.next_power_of_2(size)))
