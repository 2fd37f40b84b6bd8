"""Arithmetic of the forward and backward pass.

Norms, clipping, sums, noise and mixing are float32 and float64 in any case.

Per-record gradients are turned into float32 before anything else happens to them, so the bound on a
record's influence is a bound on what is added up, whatever they were computed in. A precision
changes accuracy and speed only, with one reservation that all share: a record's gradient should
have the same bits in every place of a batch. `checks.same_anywhere` tries that in the precision of
the training. Algorithms of cuDNN that add up in no fixed order are left out for that reason.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

DTYPE = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """TF32 in products and convolutions on CUDA if `precision` is tf32, else not, whatever the
    process has set."""
    before, tf32 = torch.backends.cuda.matmul.allow_tf32, precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def cast(x: Tensor, precision: str) -> Tensor:
    """Inputs as the model takes them; whole numbers stay what they are."""
    return x.to(DTYPE[precision]) if x.is_floating_point() else x
