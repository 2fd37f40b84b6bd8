"""Random flips and crops, several views of each record side by side."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PADDING = 4
DRAWS = 3  # of a view: its flip, its place down and right


def scattered(key: int, places: np.ndarray) -> np.ndarray:
    """Uniforms in [0, 1), a function of key and place: SplitMix64 (Steele, Lea, Flood 2014), 53
    bits. A record's views do not depend on who else is in the batch, or on which process has it."""
    z = np.uint64(key) + (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """`views` versions of each record, whose gradients are averaged before clipping.

    Source: De et al. (2022), arXiv 2204.13650.
    """

    views: int = 1
    flip: bool = False
    crop: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.views, int) or self.views < 1:
            raise ValueError(f"`views` must be a whole number from 1, got {self.views!r}.")
        if self.views > 1 and not (self.flip or self.crop):
            raise ValueError("`views` above 1 needs flip or crop: the views would all be equal.")

    def __call__(self, x: Tensor, indices: Tensor, key: int) -> Tensor:
        """[records, channels, H, W] to [records * views, channels, H, W]; `indices` say which
        records, `key` draws views."""
        if not (self.flip or self.crop):
            return x
        if x.dim() != 4:
            raise ValueError(
                "flip and crop need images, [channels, height, width]; "
                f"the records have shape {tuple(x.shape[1:])}."
            )
        places = indices.cpu().numpy()[:, None] * self.views + np.arange(self.views)
        flip, down, right = (
            scattered(key, DRAWS * places.ravel() + which) for which in range(DRAWS)
        )
        x = x.repeat_interleave(self.views, 0)
        if self.flip:
            flipped = torch.from_numpy(flip < 0.5).to(x.device)
            x = torch.where(flipped[:, None, None, None], x.flip(3), x)
        return self._cropped(x, down, right) if self.crop else x

    def _cropped(self, x: Tensor, *drawn: np.ndarray) -> Tensor:
        rows, _, height, width = x.shape
        offsets = torch.from_numpy((np.stack(drawn) * (2 * PADDING + 1)).astype(np.int64)).to(
            x.device
        )
        down = (offsets[0][:, None] + torch.arange(height, device=x.device))[:, :, None]
        right = (offsets[1][:, None] + torch.arange(width, device=x.device))[:, None, :]
        padded = torch.nn.functional.pad(x, [PADDING] * 4)
        return padded.permute(0, 2, 3, 1)[
            torch.arange(rows, device=x.device)[:, None, None], down, right
        ].permute(0, 3, 1, 2)
