"""How hard glyphs are, without privacy: python tests/bench/glyphs.py [MODEL] [RECORDS] [EPOCHS]

MODEL is linear (by default; seconds) or resnet20 (50,000 records: three to five minutes an epoch on
one core). Trains with Adam and a learning rate that rises and falls to 0; prints held-out accuracy
after every epoch.
"""

import sys
import time

import torch
from torch.nn.functional import cross_entropy

from trainer import models
from trainer.data import Dataset, glyphs
from trainer.loop import accuracy

BATCH = 128


def train(name: str, data: Dataset, epochs: int, rate: float) -> float:
    """Held-out accuracy after so many epochs."""
    model = models.build(name, tuple(data.x.shape[1:]), data.classes, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, epochs * (len(data.x) // BATCH))
    started, made = time.monotonic(), 0.0
    for epoch in range(1, epochs + 1):
        for part in torch.randperm(len(data.x)).split(BATCH)[: len(data.x) // BATCH]:
            optimizer.zero_grad()
            cross_entropy(model(data.prepare(data.x[part])), data.y[part]).backward()
            optimizer.step()
            schedule.step()
        made = accuracy(model, data, "cpu")
        print(
            f"{name}, epoch {epoch}/{epochs}: {made:.4f} after {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return made


def main(name: str = "linear", records: str = "50000", epochs: str = "5") -> None:
    """Generate, train, print."""
    started = time.monotonic()
    data = glyphs(int(records), 10_000)
    print(
        f"{len(data.x)} + {len(data.held_out_x)} images in {time.monotonic() - started:.1f} s",
        flush=True,
    )
    train(name, data, int(epochs), 3e-3 if name == "resnet20" else 1e-3)


if __name__ == "__main__":
    main(*sys.argv[1:])
