"""Per-record weight gradients of a convolution on CUDA, by Triton: one matrix product per record.

Its columns, the input's patches, are read where they lie and never written; what several programs
read of a record comes from the cache. Sums are taken in the same order in every call. Used only
where `trainer.gradients.convolutions` has found it to agree with torch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.gradients.geometry import Geometry

TILE_SIDE = 64  # most channels, or places in the kernel, that one program computes
PIXELS = 32  # output pixels that are multiplied at a time
FUSED = {
    "enable_fp_fusion": True
}  # multiply-adds: nothing here depends on two roundings instead of one


@triton.jit
def _weight_gradients(  # noqa: ANN202
    x,  # noqa: ANN001
    out,  # noqa: ANN001
    gradients,  # noqa: ANN001
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
        place = (record * outputs + k[:, None]) * pixels + pixel[None, :]
        back = tl.load(out + place, mask=there, other=0.0).to(tl.float32)
        row = (pixel // out_width * STRIDE[0] - top)[:, None] + (i * DILATION[0])[None, :]
        column = (pixel % out_width * STRIDE[1] - left)[:, None] + (j * DILATION[1])[None, :]
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        there = inside & (pixel < pixels)[:, None] & (m < columns)[None, :]
        place = ((record * channels + channel[None, :]) * height + row) * width + column
        patch = tl.load(x + place, mask=there, other=0.0).to(tl.float32)
        total = tl.dot(back, patch, total, input_precision=PRECISION)
    there = (k < outputs)[:, None] & (m < columns)[None, :]
    place = (record * outputs + k[:, None]) * columns + m[None, :]
    tl.store(gradients + place, total, mask=there)


def weight_gradients(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """The weight gradient of every record, float32 [records, *weight shape], for gradients `out` of
    the outputs.

    Products are TF32 if torch's convolutions have it, or the input is bf16, which TF32 holds.
    """
    x, out = x.contiguous(), out.contiguous()
    outputs, channels, *kernel = shape.weight
    columns, pixels = channels * kernel[0] * kernel[1], shape.out[2] * shape.out[3]
    tile = {"ROWS": _tile(outputs), "COLUMNS": _tile(columns), "PIXELS": PIXELS}
    grid = (  # one record after the other
        triton.cdiv(columns, tile["COLUMNS"]),
        triton.cdiv(outputs, tile["ROWS"]),
        len(x),
    )
    tf32 = torch.backends.cudnn.allow_tf32 or x.dtype == torch.bfloat16
    settings = {
        "KERNEL": tuple(kernel),
        "STRIDE": shape.stride,
        "DILATION": shape.dilation,
        "PRECISION": "tf32" if tf32 else "ieee",
    }
    sizes = (channels, *shape.x[2:], outputs, shape.out[3], pixels, *shape.padding)
    gradients = torch.empty(len(x), *shape.weight, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _weight_gradients[grid](x, out, gradients, *sizes, **tile, **settings, **FUSED)
    return gradients


def _tile(size: int) -> int:
    """A power of two from 16, the least that a product takes, to TILE_SIDE."""
    return min(TILE_SIDE, max(16, triton.next_power_of_2(size)))
