"""How long a call takes on a device."""

import time
from collections.abc import Callable

import torch


class Clock:
    """CPU time where one thread does the work, so that other programs do not count; else wall time
    until it is done."""

    def __init__(self, device: torch.device | str) -> None:
        self.cuda = torch.device(device).type == "cuda"
        own = not self.cuda and torch.get_num_threads() == 1
        self.name = "CPU time" if own else "wall time"
        self._now = time.process_time if own else time.perf_counter

    def seconds(self, call: Callable[[], object]) -> float:
        """What one call takes."""
        start = self._synchronized()
        call()
        return self._synchronized() - start

    def _synchronized(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return self._now()
