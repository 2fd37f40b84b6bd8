"""Per-record weight gradients of a convolution, computed in four ways; which is fastest depends on
device and shape.

All are the same sums in another order. `grouped` has the least to read and write; `unfolded` copies
the input once per kernel position and leaves the rest to matrix products, `shifted` does without
the copy; `fused`, on CUDA, is one product per record that reads the patches where they lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from trainer.gradients.geometry import Geometry
from trainer.gradients.precision import DTYPE
from trainer.gradients.timing import Clock

# Kernels are compared on whole numbers from -2 to 2, which every precision multiplies and adds
# exactly: a product left out or taken twice moves a coordinate by 1 or more.
LARGEST_WHOLE = 2
# Relative; bf16 rounds to 2^-9 of itself.
AGREEMENT_TOLERANCE = {"float32": 0.0, "tf32": 0.0, "bf16": 2.0**-7}
TIMED_ROUNDS = 3
UNFOLDED_BYTES = {"cpu": 2**30, "cuda": 2**33}  # bytes that `unfolded` may copy


def grouped(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """One convolution that has a group per record (what vmap makes of it)."""
    rows = len(x)
    like = x.new_empty(1).expand(rows * shape.weight[0], *shape.weight[1:])
    one_out, one_x = out.reshape(1, -1, *out.shape[2:]), x.reshape(1, -1, *x.shape[2:])
    settings = (
        shape.stride,
        shape.padding,
        shape.dilation,
        False,
        [0, 0],
        rows,
        [False, True, False],
    )
    _, of_weight, _ = torch.ops.aten.convolution_backward(one_out, one_x, like, None, *settings)
    return of_weight.reshape(rows, *shape.weight)


def unfolded(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """A matrix product per record with the input's patches as columns."""
    columns = functional.unfold(x, shape.weight[2:], shape.dilation, shape.padding, shape.stride)
    return (out.flatten(2) @ columns.transpose(1, 2)).reshape(len(x), *shape.weight)


def shifted(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """A matrix product per record and kernel position.

    The input of output number n, counted in rows of `pitch`, lies in the flat padded input at an
    offset plus n times the stride; outputs that only fill up the rows are zero.
    """
    (tall, wide), (across, along), (top, left) = shape.stride, shape.dilation, shape.padding
    columns = shape.x[3] + 2 * left
    width = columns + -columns % wide
    pitch = tall * width // wide
    flat = functional.pad(x, (left, width - columns + left, top, top)).flatten(2)
    filled = functional.pad(out, (0, pitch - out.shape[3])).flatten(2)[
        ..., : (out.shape[2] - 1) * pitch + out.shape[3]
    ]
    last = wide * (filled.shape[2] - 1) + 1
    starts = [
        i * across * width + j * along
        for i in range(shape.weight[2])
        for j in range(shape.weight[3])
    ]
    products = [filled @ flat[..., start : start + last : wide].transpose(1, 2) for start in starts]
    return torch.stack(products, -1).reshape(len(x), *shape.weight)


def fused(x: Tensor, out: Tensor, shape: Geometry) -> Tensor:
    """A Triton kernel."""
    from trainer.gradients.convolution_triton import weight_gradients

    return weight_gradients(x, out, shape)


Kernel = Callable[[Tensor, Tensor, Geometry], Tensor]
KERNELS: dict[str, Kernel] = {
    "grouped": grouped,
    "unfolded": unfolded,
    "shifted": shifted,
    "fused": fused,
}
DEFAULT_KERNEL = "grouped"


Pair = tuple[Tensor, Tensor]  # input of a convolution, gradient of its output


def usable(shape: Geometry, whole: Pair, normal: Pair, precision: str) -> list[str]:
    """Kernels that work here, agree with `grouped` on whole numbers, and on normal ones give every
    record the same bits in the reverse order of records."""
    x, expected = whole[0], KERNELS[DEFAULT_KERNEL](*whole, shape)
    most = 0.4 + AGREEMENT_TOLERANCE[precision] * expected.abs()

    def fits(kernel: Kernel) -> bool:
        if kernel is unfolded and shape.patches * x.element_size() > UNFOLDED_BYTES[x.device.type]:
            return False
        if kernel is fused and x.device.type != "cuda":
            return False
        try:
            backwards = kernel(*(part.flip(0) for part in normal), shape).flip(0)
            near = (kernel(*whole, shape) - expected).abs() <= most
            return bool(near.all()) and torch.equal(kernel(*normal, shape), backwards)
        except (
            Exception
        ):  # out of memory, nothing for it in the device's library, no Triton: other kernels work
            return False

    return [name for name, kernel in KERNELS.items() if fits(kernel)]


def fastest(shape: Geometry, device: torch.device | str, precision: str = "float32") -> str:
    """The name of the quickest kernel that is usable, on random tensors.

    `grouped` where none is usable: `checks.same_anywhere` tells."""
    dtype, clock, sizes = DTYPE[precision], Clock(device), (shape.x, shape.out)
    low, high = -LARGEST_WHOLE, LARGEST_WHOLE + 1
    whole = tuple(torch.randint(low, high, size, device=device).to(dtype) for size in sizes)
    normal = tuple(torch.randn(size, device=device).to(dtype) for size in sizes)
    agreeing = usable(shape, whole, normal, precision)

    def seconds(name: str) -> float:
        return min(
            clock.seconds(lambda: KERNELS[name](*normal, shape)) for _ in range(TIMED_ROUNDS)
        )

    return min(agreeing, key=seconds, default=DEFAULT_KERNEL)
