"""Train with DP-SGD or ModelMix exactly as a plan says; `python -m trainer` or `PrivateTrainer` for
a loop of one's own."""

from trainer.augment import Augmentation
from trainer.engine import PrivateTrainer
from trainer.update import Update

__all__ = ["Augmentation", "PrivateTrainer", "Update"]
