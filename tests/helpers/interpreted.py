"""The Triton kernels by Triton's interpreter; used by test_clip_kernels.py. By hand:

    PYTHONPATH=.:tests:tests/training TRITON_INTERPRET=1 python tests/helpers/interpreted.py

The variable has to be set before triton is loaded, so this is a process of its own.
"""

import torch
from test_clip_kernels import bounded
from test_gradients import GEOMETRIES, convolution

from trainer import clip_kernels
from trainer.gradients import clip_triton
from trainer.gradients.convolution_triton import weight_gradients
from trainer.mechanism import Passes

SMALL = ((1, 1), (3, 16), (130, 2100), (13, 300))  # the interpreter is slow
KERNELS = Passes(norms=clip_triton.norms, clipped_sum=clip_triton.clipped_sum)

WIDE = (20, 130, 5, 3, 1, 1, 1)  # more than a tile of both channels


def same_as_autograd(given: tuple, dtype: torch.dtype) -> None:
    """One record's are autograd's; they have the same bits in another place."""
    shape, x, out, expected = convolution(given)
    found = weight_gradients(x.to(dtype), out.to(dtype), shape)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    most = 2e-6 if dtype == torch.float32 else 2e-2
    assert float((found - expected).abs().max()) < most * float(expected.abs().max())
    assert torch.equal(
        weight_gradients(x.flip(0).to(dtype), out.flip(0).to(dtype), shape), found.flip(0)
    )


if __name__ == "__main__":
    clip_kernels.TRIED_SHAPES = SMALL
    clip_kernels.agree(KERNELS, "cpu")
    for size in (0, 1, 9):
        bounded(size, KERNELS)
    for geometry in (*GEOMETRIES, WIDE):
        same_as_autograd(geometry, torch.float32)
    for geometry in GEOMETRIES[6:8]:
        same_as_autograd(geometry, torch.bfloat16)
    print("agree")
