"""What a data set is to the trainer."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Training records, held-out records, and the constants that inputs are normalised with.

    Args:
        name: shown in reports.
        x, y: training inputs [n, ...] (uint8 images stay uint8) and labels [n], int64.
        held_out_x, held_out_y: the same, for evaluation only.
        classes: number of classes.
        centre, scale: the model gets (x - centre) / scale. Constants of the format, never
            statistics of the records.
    """

    name: str
    x: Tensor
    y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor
    classes: int
    centre: float = 127.5
    scale: float = 127.5

    def __post_init__(self) -> None:
        for part, x, y in (
            ("training", self.x, self.y),
            ("held-out", self.held_out_x, self.held_out_y),
        ):
            if len(x) != len(y) or y.dim() != 1 or x.shape[1:] != self.x.shape[1:] or x.dim() < 2:
                raise ValueError(
                    f"{part} data of {self.name}: "
                    f"{tuple(x.shape)} records do not fit {tuple(y.shape)} labels."
                )
            if x.is_floating_point() and not bool(x.isfinite().all()):
                raise ValueError(f"{part} data of {self.name} hold numbers that are not finite.")
            if len(y) and not (int(y.min()) >= 0 and int(y.max()) < self.classes):
                raise ValueError(
                    f"labels of the {part} data of {self.name} must be in 0 ... {self.classes - 1}."
                )

    def prepare(self, x: Tensor) -> Tensor:
        """Inputs as the model takes them, float32."""
        return (x.float() - self.centre) / self.scale


def take(data: Dataset, count: int) -> Dataset:
    """A data set with only the first `count` training records of this one."""
    return replace(data, x=data.x[:count], y=data.y[:count])


def images(array: object) -> Tensor:
    """A numpy array of bytes as a tensor of its own."""
    return torch.tensor(array, dtype=torch.uint8)
