"""What tells one convolution from another: the shapes and settings that a kernel for its weight
gradients has to know."""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Geometry(NamedTuple):
    """Shapes of input and weight of a two-dimensional convolution, and its settings."""

    x: torch.Size
    weight: torch.Size
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, layer: nn.Conv2d) -> "Geometry":
        """The geometry of a layer called with x."""
        return cls(x.shape, layer.weight.shape, layer.stride, layer.padding, layer.dilation)

    @property
    def out(self) -> tuple[int, ...]:
        """Shape of the output."""
        over = zip(
            self.x[2:], self.weight[2:], self.stride, self.padding, self.dilation, strict=True
        )
        return (
            self.x[0],
            self.weight[0],
            *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in over),
        )

    @property
    def patches(self) -> int:
        """Numbers that `unfolded` copies."""
        return prod((self.x[0], *self.weight[1:], *self.out[2:]))

    def __str__(self) -> str:
        return (
            "x".join(map(str, self.x))
            + " by "
            + "x".join(map(str, self.weight))
            + f", stride {self.stride[0]}"
        )
