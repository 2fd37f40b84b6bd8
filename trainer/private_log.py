"""private.jsonl: what a person who may see the data may look at.

None of it is covered by the guarantee.
"""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from trainer.mechanism import LONGEST_GRADIENT


def sum_and_count(losses: Tensor) -> Tensor:
    """Sum and number of the losses that are finite, float64."""
    finite = losses[losses.isfinite()].double()
    return torch.stack([finite.sum(), torch.tensor(float(len(finite)), dtype=torch.float64)])


def write(path: Path, step: int, norms: Tensor, loss: Tensor, clip_norm: float) -> None:
    """One line about a step: the norms of its gradients before clipping, and sum and count of its
    losses."""
    finite = norms[norms < LONGEST_GRADIENT]  # what the mechanism takes for finite
    row = {
        "private": True,
        "step": step,
        "batch": len(norms),
        "not_finite": len(norms) - len(finite),
    }
    row |= {
        "loss": float(loss[0] / loss[1]) if loss[1] else None,
        "median_norm": float(finite.median()) if len(finite) else None,
        "clipped": float((finite > clip_norm).double().mean()) if len(finite) else None,
    }
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
