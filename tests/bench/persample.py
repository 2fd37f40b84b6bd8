"""Time of per-record gradients, clipped, truncated and summed, against training without privacy, vmap and opacus, on CPU:
python tests/bench/persample.py [ROWS] [ROUNDS]

Resnet-20 with GroupNorm, 3 x 32 x 32, one thread. Times are CPU times, the smallest of interleaved rounds, since other
programs may run beside. Opacus clips but cannot truncate.
"""

import sys
import time
import warnings
from collections.abc import Callable

import torch
from opacus import GradSampleModule
from torch import Tensor

from trainer import models
from trainer.gradients import Fast, Oracle
from trainer.loop import losses
from trainer.mechanism import clip_truncate_sum

CLIP_NORM, TRUNCATION = 20.0, 100.0


def plain(x: Tensor, y: Tensor) -> Callable[[], object]:
    model = models.resnet20((3, 32, 32), 10)

    def step() -> None:
        model.zero_grad()
        losses(model(x), y).mean().backward()

    return step


def ours(kind: type[Fast | Oracle], x: Tensor, y: Tensor) -> Callable[[], object]:
    made = kind(models.resnet20((3, 32, 32), 10), losses)
    weights = made.layout.flat(made.model)
    return lambda: clip_truncate_sum(made(weights, x, y)[0], CLIP_NORM, TRUNCATION)


def opacus(mode: str, x: Tensor, y: Tensor) -> Callable[[], object]:
    model = GradSampleModule(models.resnet20((3, 32, 32), 10), loss_reduction="sum", force_functorch=mode == "functorch")

    def step() -> None:
        model.zero_grad()
        losses(model(x), y).sum().backward()
        rows = [parameter.grad_sample.flatten(1) for parameter in model.parameters()]
        factor = (CLIP_NORM / torch.stack([row.norm(dim=1) for row in rows]).norm(dim=0)).clamp_max(1.0)
        torch.cat([factor @ row for row in rows])

    return step


def main(rows: int = 64, rounds: int = 7) -> None:
    """Print milliseconds and ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    x, y = torch.randn(rows, 3, 32, 32), torch.randint(0, 10, (rows,))
    calls = {
        "without privacy": plain(x, y),
        "ours (Fast)": ours(Fast, x, y),
        "vmap(grad) (Oracle)": ours(Oracle, x, y),
        "opacus hooks": opacus("hooks", x, y),
        "opacus functorch": opacus("functorch", x, y),
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds + 1):  # the first warms up: it is never the smallest
        for name, call in calls.items():
            start = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        print(f"{name:20s} {1e3 * seconds:8.1f} ms   {seconds / best['without privacy']:.2f}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
