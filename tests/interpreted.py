"""The Triton kernels by Triton's interpreter: TRITON_INTERPRET=1 python tests/interpreted.py. Used by test_passes.py.

The variable has to be set before triton is loaded, so this is a process of its own.
"""

import torch

from trainer import fused, passes
from trainer.mechanism import PLAIN, Passes, clip_truncate_sum

SMALL = ((1, 1), (3, 16), (130, 2100), (13, 300))  # the interpreter is slow
KERNELS = Passes(norms=fused.norms, clipped_sum=fused.clipped_sum)


def bounded(rows: int) -> None:
    """The mechanism bounds every record by the kernels too, and its sum is the same."""
    gradients = [
        torch.randn(rows, *shape) * 10.0 ** (torch.arange(rows) - 4.0).view(-1, 1, 1) for shape in ((3, 5), (2, 301))
    ]
    if rows > 2:
        gradients[0][1, 0, 0] = float("inf")
    found, expected = (clip_truncate_sum(gradients, 1.0, 4.0, way) for way in (KERNELS, PLAIN))
    torch.testing.assert_close(found.total, expected.total, rtol=0, atol=1e-4)
    assert torch.equal(found.norms.isfinite(), expected.norms.isfinite())
    for i in range(rows):
        one = clip_truncate_sum([part[i : i + 1] for part in gradients], 1.0, 4.0, KERNELS).total
        assert float(one.norm()) <= 1.0
        assert float(one.abs().max()) <= 0.5


if __name__ == "__main__":
    passes.SHAPES = SMALL
    passes.agree(KERNELS, "cpu")
    for size in (0, 1, 9):
        bounded(size)
    print("agree")
