"""Random flips and crops, several views of each record side by side."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """`views` versions of each record, whose gradients are averaged before clipping (De et al. 2022, arXiv 2204.13650)."""

    views: int = 1
    flip: bool = False
    crop: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.views, int) or self.views < 1:
            raise ValueError(f"`views` must be a whole number from 1, got {self.views!r}.")
        if self.views > 1 and not (self.flip or self.crop):
            raise ValueError("`views` above 1 needs flip or crop: the views would all be equal.")

    def __call__(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        """[records, channels, H, W] to [records * views, channels, H, W]."""
        if not (self.flip or self.crop):
            return x
        if x.dim() != 4:
            raise ValueError(
                f"flip and crop need images, [channels, height, width]; the records have shape {tuple(x.shape[1:])}."
            )
        x = x.repeat_interleave(self.views, 0)
        if self.flip:
            flipped = torch.from_numpy(generator.random(len(x)) < 0.5).to(x.device)
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        return self._cropped(x, generator) if self.crop else x

    def _cropped(self, x: Tensor, generator: np.random.Generator) -> Tensor:
        rows, _, height, width = x.shape
        offsets = torch.from_numpy(generator.integers(0, 2 * PADDING + 1, (2, rows))).to(x.device)
        down = (offsets[0][:, None] + torch.arange(height, device=x.device))[:, :, None]
        right = (offsets[1][:, None] + torch.arange(width, device=x.device))[:, None, :]
        padded = torch.nn.functional.pad(x, [PADDING] * 4)
        return padded.permute(0, 2, 3, 1)[torch.arange(rows, device=x.device)[:, None, None], down, right].permute(
            0, 3, 1, 2
        )
