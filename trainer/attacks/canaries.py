"""Canaries in a real run: records with a wrong label, each kept or left out by a secret fair coin.

`mmaccount audit RUN` guesses the coins from what the run published (Steinke, Nasr, Jagielski 2023,
arXiv 2305.08846) and says which epsilon the guesses refute. A canary that is left out keeps its
place and has no gradient, which changes every sum as removing it does; the divisor is the plan's
constant anyway. Coins and scores go to `canaries.json`, when the run is finished and for the owner
only: they are private until then, and the scores are functions of published iterates.
"""

import json
import os

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mmaccount.records import validate
from trainer.data import Dataset
from trainer.engine import PrivateTrainer
from trainer.mechanism import Randomness, uniforms

FILE = "canaries.json"


class Canaries:
    """Planted in data: `labels` is what the run trains on, where the number `classes` marks those
    that were left out.

    Args:
        data: what they are planted in.
        count: how many, from 1 to the number of records. They are the first of the records: which
            ones is not secret.
        seed: as for `PrivateTrainer`.
    """

    def __init__(self, data: Dataset, count: int, seed: int | None = None) -> None:
        self.count, self.classes = validate.count("canaries", count, high=len(data.y)), data.classes
        if data.classes < 2:
            raise ValueError("`canaries` need a wrong label: the data have one class.")
        drawn = torch.from_numpy(uniforms(Randomness(seed).words("canaries", 0), 2 * self.count))
        self.kept = drawn[: self.count] < 0.5
        wrong = 1 + (drawn[self.count :] * (data.classes - 1)).long()
        self.x, self.y = data.x[: self.count], (data.y[: self.count] + wrong) % data.classes
        self.labels = data.y.clone()
        self.labels[: self.count] = torch.where(self.kept, self.y, data.classes)
        self.products = torch.zeros(self.count, dtype=torch.float64)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of every record, 0 where it was left out."""
        return cross_entropy(outputs, targets, reduction="none", ignore_index=self.classes)

    def watch(self, trainer: PrivateTrainer, before: dict[str, Tensor]) -> None:
        """Add the products of the canaries' clipped gradients at w_{k-1} with how far the step went
        against them from its centre. `before` is the trainer's state before the step."""
        phase = trainer.plan.phases[trainer.plan.phase_of(trainer.step_number)]
        start, last, now = (
            state.double()
            for state in (before["weights"], before["last"], trainer.state["weights"])
        )
        moved = ((start + last) / 2.0 if phase.gap > 0.0 else start) - now
        for rows in torch.arange(self.count).split(trainer.chunk):
            x, y = (part[rows].to(moved.device) for part in (self.x, self.y))
            gradients, _ = trainer.per_record(before["weights"], trainer.prepare(x), y)
            flat = torch.cat([one.flatten(1) for one in gradients], 1).double()
            clipped = (
                flat * (phase.clip_norm / flat.norm(dim=1).clamp_min(phase.clip_norm))[:, None]
            )
            self.products[rows] += (clipped @ moved).cpu()

    def save(self, trainer: PrivateTrainer) -> None:
        """Write coins and scores: products of gradients, and losses at the model that the trainer
        holds now."""
        device = trainer.x.device
        with torch.no_grad():
            parts = [
                self.criterion(
                    trainer.module(trainer.prepare(self.x[rows].to(device))),
                    self.y[rows].to(device),
                ).cpu()
                for rows in torch.arange(self.count).split(trainer.chunk)
            ]
        scores = {
            "losses": (-torch.cat(parts)).tolist(),
            "gradient products": self.products.tolist(),
        }
        record = {"private": True, "kept": self.kept.tolist(), "scores": scores}
        handle = os.open(trainer.out / FILE, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
        with os.fdopen(handle, "w") as file:
            json.dump(record, file, allow_nan=False)
