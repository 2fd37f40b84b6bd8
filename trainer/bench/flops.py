"""How much work a step is: operations and bytes counted op by op, without computing anything, and
the least time for them.

The model runs forward and backward on torch's `meta` device, where tensors have shapes and no
values. Counted are the multiply-adds of convolutions and matrix products (two operations each), and
for every operation, run one after the other as torch does, its inputs read once and its outputs
written once. Real kernels read more often, never less (caches aside), and fused ones less: the
floor is that of this list of operations, not of the mathematics.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.gradients.per_record import Loss, best
from trainer.gradients.precision import DTYPE, cast

aten = torch.ops.aten
FREE = ("empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view")  # touch no memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a device can do: bytes a second from memory, operations a second by dtype (dense,
    without sparsity)."""

    bandwidth: float
    peak: dict[str, float]


# NVIDIA H100 and H200 Tensor Core GPU data sheets, SXM; their figures for tensor cores are with
# sparsity, twice these.
_PEAK = {"float32": 67e12, "tf32": 494.5e12, "bf16": 989.5e12}
CARDS = {
    "H100 80GB HBM3": Card(bandwidth=3.35e12, peak=_PEAK),
    "H200": Card(bandwidth=4.8e12, peak=_PEAK),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What a list of operations costs: (operations, bytes) of each."""

    parts: tuple[tuple[int, int], ...]

    @property
    def operations(self) -> int:
        """Two per multiply-add."""
        return sum(operations for operations, _ in self.parts)

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(moved for _, moved in self.parts)

    def floor(self, card: Card, dtype: str) -> float:
        """Seconds at least: every operation takes the longer of its arithmetic and its memory
        traffic.

        >>> f"{Work(((67_000_000_000, 0), (0, 3_350_000_000))).floor(CARDS['H100 80GB HBM3'], 'float32'):.4f}"
        '0.0020'
        """
        return sum(
            max(work / card.peak[dtype], moved / card.bandwidth) for work, moved in self.parts
        )


class _Counted(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[tuple[int, int]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = op(*args, **(kwargs or {}))
        if op.overloadpacket is aten.convolution_backward:
            self.parts += _convolution_backward(args, result)
        elif not op.is_view and op.overloadpacket.__name__ not in FREE:
            self.parts.append(
                (2 * _multiply_adds(op.overloadpacket, args, result), _bytes(args) + _bytes(result))
            )
        return result


def _bytes(tree: Any) -> int:  # noqa: ANN401
    """Bytes of all tensors in `value`; an expanded one is as large as what it stands for."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return sum(
        min(one.numel() * one.element_size(), one.untyped_storage().nbytes()) for one in tensors
    )


def _multiply_adds(op: Any, args: tuple, result: Any) -> int:  # noqa: ANN401
    if op is aten.convolution:
        return result.numel() * prod(args[1].shape[1:])
    if op in (aten.mm, aten.bmm):
        return result.numel() * args[0].shape[-1]
    if op in (aten.addmm, aten.baddbmm):
        return result.numel() * args[1].shape[-1]
    return 0


def _convolution_backward(args: tuple, result: tuple) -> list[tuple[int, int]]:
    """Gradients of input, weight and bias come from kernels of their own, each of which reads the
    output's gradient."""
    out, x, weight = args[:3]
    work = 2 * out.numel() * prod(weight.shape[1:])
    read = ((work, weight), (work, x), (0, None))
    return [
        (operations, _bytes([out, other, gradient]))
        for (operations, other), gradient in zip(read, result, strict=True)
        if gradient is not None
    ]


def card(device: str) -> Card | None:
    """The data sheet of a device by torch's name of it, if it is one of those above."""
    return next((figures for name, figures in CARDS.items() if name in device), None)


def counted(call: Callable[[], object]) -> Work:
    """What a call does, on tensors of any device."""
    with _Counted() as mode:
        call()
    return Work(tuple(mode.parts))


def steps(
    model: nn.Module, loss: Loss, shape: tuple[int, ...], rows: int, precision: str = "float32"
) -> dict[str, Work]:
    """A step without privacy, and one with: per-record gradients of the same batch, written once
    and read twice, for their norms and to be clipped and added up. Noise and mixing, once per
    parameter, are left out."""
    model = copy.deepcopy(model).to("meta")
    x = torch.empty(rows, *shape, device="meta")
    y = torch.empty(rows, dtype=torch.long, device="meta")
    per_record = best(model, loss, precision)
    weights = torch.empty(per_record.layout.total, device="meta")
    private = counted(lambda: per_record(weights, x, y))
    gradients = 4 * rows * per_record.layout.total
    model, x = model.to(DTYPE[precision]), cast(x, precision)
    return {
        "without privacy": counted(lambda: loss(model(x), y).sum().backward()),
        "private": Work((*private.parts, (0, gradients), (0, gradients))),
    }
