"""Several processes as one trainer, by torch.distributed: each holds all data and does its share of
every step.

They and the network between them have to be trusted: what they exchange is private. An exception in
one of them is one in all, and leaves them in step; a process that dies is one that the others
notice as soon as they wait for it.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import chain
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainer import checks
from trainer.mechanism import ONE, Draw, Processes

# With a process that neither answers nor ends; longer than the first works alone.
PATIENCE = timedelta(minutes=10)
FAILED = "another process failed, and says why."
LOST = (
    "another process ended or did not answer: "
    "the step stays charged, resume goes on from the last checkpoint."
)


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Under torchrun, the process group it asks for, and a GPU for each process; else nothing."""
    if not announced():
        yield
        return
    if device == "cuda":
        own = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        checks.device(own)
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    yield
    # After an exception the end of the process does this, without waiting for others.
    distributed.destroy_process_group()


def here(device: str) -> Processes:
    """The default process group, if there is one; else this process alone, which must not be one of
    several."""
    if distributed.is_available() and distributed.is_initialized():
        return Several(device)
    if announced():
        raise ValueError(
            "WORLD_SIZE is above 1: "
            "call torch.distributed.init_process_group first, or start one process."
        )
    return ONE


def announced() -> bool:
    """Whether the environment says, as torchrun does, that this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Several(Processes):
    """The processes of torch.distributed's default group.

    All have to call the same methods in the same order.

    Each exchange is one collective on a flat vector, whose first number says whether a process
    failed: there, or in what `in_first` did since the exchange before.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.device = device
        # True also while something is tried: whatever leaves it early, the others may be elsewhere.
        self._lost = False
        self._failure: Exception | None = None  # the others have not heard of it yet

    def in_first(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What `make()` gives, in the first process only; None in the others, which do not call it.

        If it fails, nothing more is done in the first process up to the next exchange, which fails
        in all.
        """
        return self._tried(make) if self.rank == 0 else None

    def from_first(
        self, make: Draw, shape: tuple[int, ...], dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """What `make()` gives in the first process, in all of them and to the bit; the others do
        not call it."""
        return self._exchanged(
            self.in_first(make), shape, dtype, partial(distributed.broadcast, src=0)
        )

    def summed(self, make: Draw, shape: tuple[int, ...]) -> Tensor:
        """The sum over processes of what `make()` gives in each, float64, in all of them."""
        return self._exchanged(self._tried(make), shape, torch.float64, distributed.all_reduce)

    def _tried(self, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """What `make()` gives; None, and the failure kept, if it fails or something failed since
        the last exchange."""
        if self._failure is not None:
            return None
        if self._lost:
            raise ConnectionError(LOST)
        self._lost = True
        result = None
        try:
            result = make()
        except Exception as error:  # of any kind: the others wait to hear of it
            self._failure = error
        self._lost = False
        return result

    def _exchanged(
        self,
        mine: Tensor | None,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        collective: Callable[[Tensor], object],
    ) -> Tensor:
        if self._lost:
            raise ConnectionError(LOST)
        self._lost = True
        shared = torch.zeros(1 + prod(shape), dtype=dtype, device=self.device)
        failure, self._failure = self._failure, None
        try:
            shared[1:] = 0 if mine is None else mine.flatten()
        except Exception as error:  # of any kind, as above
            failure = error
        shared[0] = failure is not None
        try:
            collective(shared)
            failed = bool(shared[0] != 0)
        except RuntimeError as error:
            raise ConnectionError(LOST) from failure or error
        self._lost = False
        if failure is not None:
            raise failure
        if failed:
            raise ConnectionError(FAILED)
        return shared[1:].view(shape)


def only_first(processes: Processes, action: Callable[[], object]) -> None:
    """Do something in the first process only; if it fails there it fails everywhere."""

    def done() -> Tensor:
        action()
        return torch.zeros(0)

    processes.from_first(done, (0,))


def same_everywhere(
    processes: Processes, parts: Mapping[str, str], data: tuple[Tensor, Tensor]
) -> None:
    """Refuse a process whose plan, model, ... or records are not those of the first.

    Only digests are exchanged, and nothing of them is kept.
    """
    if processes.size == 1:
        return
    contents = {name: value.encode() for name, value in parts.items()} | {
        "data": b"".join(map(_digest, data))
    }
    mine = torch.tensor(
        [list(hashlib.sha256(content).digest()) for content in contents.values()], dtype=torch.uint8
    )
    first = processes.from_first(lambda: mine, tuple(mine.shape), dtype=torch.uint8).cpu()

    def compared() -> Tensor:
        for name, same in zip(contents, (mine == first).all(1), strict=True):
            if not same:
                raise ValueError(f"{name} of process {processes.rank} is not that of process 0.")
        return torch.zeros(0)

    processes.summed(compared, (0,))


def same_bits(
    processes: Processes,
    make: Callable[[Tensor, Tensor], Iterable[Tensor]],
    example: tuple[Tensor, Tensor],
) -> bool:
    """Whether every process makes the same of the first one's example, to the bit."""
    if processes.size == 1:
        return True
    shared = [
        processes.from_first(lambda part=part: part, tuple(part.shape), part.dtype).to(part.device)
        for part in example
    ]
    mine = torch.frombuffer(bytearray(b"".join(map(_digest, make(*shared)))), dtype=torch.uint8)
    first = processes.from_first(lambda: mine, tuple(mine.shape), torch.uint8).cpu()
    return everywhere(processes, lambda: torch.equal(mine, first))


def everywhere(processes: Processes, test: Callable[[], bool]) -> bool:
    """Whether it holds in every process."""
    return int(processes.summed(lambda: torch.tensor([float(test())]), (1,))) == processes.size


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(
        tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    ).digest()


def same_start(processes: Processes, module: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    with torch.no_grad():
        for value in chain(module.parameters(), module.buffers()) if processes.size > 1 else ():
            value.copy_(
                processes.from_first(lambda value=value: value, tuple(value.shape), value.dtype)
            )
