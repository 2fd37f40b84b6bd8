"""What is seen at a terminal while a command works: how long it has worked, and how far it is where
that is known."""

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Self

from mmaccount.kernels import before_compiling

SECONDS_BETWEEN_UPDATES = 1.0  # quicker commands show nothing


def say_when_compiling(program: str) -> None:
    """A line on standard error before the first kernel is compiled, if one must be."""
    reason = "once; later calls find the machine code on disk"
    text = f"{program}: compiling for some seconds ({reason})"
    before_compiling(partial(print, text, file=sys.stderr, flush=True))


class Status:
    """A line on standard error, while in its context and if that is a terminal.

    >>> with Status() as status:
    ...     list(status.counted("ab"))
    ['a', 'b']
    """

    def __init__(self) -> None:
        self._note = ""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def counted(self, points: Sequence[Any]) -> Iterator[Any]:
        """Yield the points; the line says how many of them are done."""
        for number, point in enumerate(points):
            self._note = f"{number} of {len(points)}, "
            yield point
        self._note = ""

    def _run(self) -> None:
        start = time.monotonic()
        shown = False
        while not self._done.wait(SECONDS_BETWEEN_UPDATES):
            self._show(f"{self._note}{time.monotonic() - start:.0f} s")
            shown = True
        if shown:
            self._show("")

    def _show(self, text: str) -> None:
        """Put the text in place of the line."""
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
