"""Data sets as tensors: digits, glyphs, CIFAR-10 and SVHN from files the user has, any .npz. Nothing is downloaded."""

from trainer.data.dataset import Dataset, take
from trainer.data.files import cifar10, digits, npz, svhn
from trainer.data.glyphs import glyphs

__all__ = ["Dataset", "cifar10", "digits", "glyphs", "load", "npz", "svhn", "take"]


def load(name: str) -> Dataset:
    """The data set of that name: digits, glyphs, glyphs:COUNT, cifar10:FOLDER, svhn:FOLDER or FILE.npz."""
    kind, _, rest = name.partition(":")
    if name == "digits":
        return digits()
    if kind == "glyphs":
        return glyphs(int(rest), int(rest) // 5) if rest else glyphs()
    if kind in ("cifar10", "svhn") and rest:
        return {"cifar10": cifar10, "svhn": svhn}[kind](rest)
    if name.endswith(".npz"):
        return npz(name)
    raise ValueError(f"`data` must be digits, glyphs, glyphs:COUNT, cifar10:FOLDER, svhn:FOLDER or FILE.npz, got {name!r}.")
