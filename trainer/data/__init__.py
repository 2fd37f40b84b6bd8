"""Data sets as tensors: digits, glyphs, CIFAR-10 and SVHN from files the user has, any .npz.

Nothing is downloaded.
"""

from collections.abc import Callable

from trainer.data.dataset import Dataset, take
from trainer.data.files import cifar10, digits, npz, svhn
from trainer.data.glyphs import glyphs

__all__ = ["Dataset", "cifar10", "digits", "glyphs", "load", "npz", "svhn", "take"]


def load(name: str, show: Callable[[int, int], None] = lambda done, whole: None) -> Dataset:
    """The data set of that name: digits, glyphs, glyphs:COUNT, cifar10:FOLDER, svhn:FOLDER or
    FILE.npz. `show(records made, records in all)` is called while glyphs are made."""
    kind, _, rest = name.partition(":")
    if name == "digits":
        return digits()
    if name == "glyphs":
        return glyphs(show=show)
    if kind == "glyphs" and rest.isdecimal() and int(rest) > 0:
        return glyphs(int(rest), max(1, int(rest) // 5), show)
    if kind in ("cifar10", "svhn") and rest:
        return {"cifar10": cifar10, "svhn": svhn}[kind](rest)
    if name.endswith(".npz"):
        return npz(name)
    raise ValueError(
        "`data` must be digits, glyphs, glyphs:COUNT, cifar10:FOLDER, svhn:FOLDER or FILE.npz, "
        f"got {name!r}."
    )
