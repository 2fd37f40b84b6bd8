"""Pure float64 kernels, compiled by numba. No policy lives here: no tolerances to choose, no
rounding direction."""

from collections.abc import Callable

_tell: list[Callable[[], None]] = []


def before_compiling(tell: Callable[[], None]) -> None:
    """Have `tell` called once if this process must compile a kernel, before it does.

    The very first call of a kernel takes seconds; later ones (in later processes too) find its
    machine code on disk. Nothing is loaded by asking for this.
    """
    _tell[:] = [tell]


def compiling() -> None:
    """Say so to who asked; `logspace` calls this before every compilation."""
    while _tell:
        _tell.pop()()
