"""Models: linear, a small CNN, Resnet-20 with GroupNorm, or a function of the user's."""

import os
import sys
from importlib import import_module
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(shape: tuple[int, ...], classes: int) -> nn.Module:
    """One affine layer on the flattened record, started at zero."""
    layer = nn.Linear(prod(shape), classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def cnn(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Two convolutions with GroupNorm, averaged to 4 x 4 (2 x 2 for small images), one affine
    layer."""
    grid = 4 if shape[-1] >= 16 else 2
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
        nn.Linear(32 * grid * grid, classes),
    )


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(4, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(4, outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.extra:
            half = self.extra // 2
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half)
            )
        return functional.relu(x + y)


class Resnet20(nn.Module):
    """Resnet-20 (He and others, 2016) with GroupNorm instead of BatchNorm.

    It has 269,722 parameters for 3 x 32 x 32 and 10 classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.norm = nn.GroupNorm(4, 16)
        stages = [(16, 16, 1), (16, 32, 2), (32, 64, 2)]
        blocks = [(Block(a, b, stride), Block(b, b, 1), Block(b, b, 1)) for a, b, stride in stages]
        self.blocks = nn.Sequential(*(block for stage in blocks for block in stage))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to [B, classes]."""
        return self.head(self.blocks(functional.relu(self.norm(self.conv(x)))).mean((2, 3)))


def resnet20(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Resnet-20 for images of the given shape."""
    return Resnet20(shape[0], classes)


NAMED = {"linear": linear, "cnn": cnn, "resnet20": resnet20}


def build(name: str, shape: tuple[int, ...], classes: int, seed: int | None = None) -> nn.Module:
    """The model of that name for records of that shape; "module:function" calls the user's
    function(shape, classes).

    The initial weights come from torch's generator, seeded if a seed is given and from OS entropy
    otherwise.
    """
    torch.manual_seed(int.from_bytes(os.urandom(7)) if seed is None else seed)
    module, colon, function = name.partition(":")
    if not colon and name not in NAMED:
        raise ValueError(
            f"`model` must be one of {', '.join(NAMED)}, or module:function, got {name!r}."
        )
    if name in ("cnn", "resnet20") and len(shape) != 3:
        raise ValueError(
            f"`model` {name} needs images, [channels, height, width]; "
            f"the records have shape {shape}."
        )
    if not colon:
        return NAMED[name](shape, classes)
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(import_module(module), function)(shape, classes)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"`model` {name}: {error}.") from error
    finally:
        sys.path.pop(0)
