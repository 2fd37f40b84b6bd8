"""Training runs by several processes, forked, with gloo; prints one JSON list. Used by
test_processes.py, or

    python tests/helpers/several.py FOLDER PROCESSES WAY [FOLDER PROCESSES WAY ...]

A way is how the run goes: "well", "die", "raise", "full", "no thread", "silent", "resume",
"elsewhere" (process 1 has a ledger), a part in which process 1 differs, the name of a control of
broken.py, or "command ...", arguments of python -m trainer; what process r prints is then in
FOLDER/printed-r. Otherwise process r leaves its state in FOLDER/state-r.pt. Printed for each run:
its seconds, exit statuses and, by process,
the records of every step that it looked at, its errors as [step, type, message], and how many steps
it knows to be charged.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import broken
import pytest
import torch
from torch import distributed, nn
from torch.func import grad, vmap

from mmaccount import AdaptiveClipping, LedgerFile, Phase, Plan
from trainer import Augmentation, PrivateTrainer, Update, mechanism, pricing
from trainer import __main__ as command

N, STOP, WIDE = 60, 4, 20_000
PHASE = Phase(steps=4, noise_multiplier=1.0, clip_norm=1.0, learning_rate=0.5)


def plan_of(*phases: Phase) -> Plan:
    return Plan(dataset_size=N, sample_rate=0.3, batch_size=18, phases=phases, delta=1e-4)


PLAN = plan_of(
    replace(PHASE, adaptive=AdaptiveClipping(noise=2.0)), replace(PHASE, gap=0.2, truncation=4.0)
)


def model(hidden: int = 8) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, hidden), nn.Tanh(), nn.Linear(hidden, 3))


def options(way: str, rank: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(N, 1, 4, 4, generator=generator),
        torch.randint(0, 3, (N,), generator=generator),
    )
    given = {
        "module": model(),
        "data": (x, y),
        "plan": PLAN,
        "update": Update(momentum=0.5, ema=0.9),
        "seed": 1,
    }
    given["augmentation"] = Augmentation(views=2, flip=True, crop=True)
    if way in ("silent", "noise_of_every_process"):  # gradients are 0, the weights show the noise
        given |= {
            "module": nn.Linear(WIDE, 3),
            "data": (torch.zeros(N, WIDE), y),
            "plan": plan_of(replace(PHASE, steps=1)),
        }
        given |= {"seed": None, "update": Update(), "augmentation": None}
    changed = x.clone()
    changed[-1] += 1e-6
    different = {
        "data": {"data": (changed, y)},
        "labels": {"data": (x, y.flip(0))},
        "plan": {"plan": replace(PLAN, delta=1e-5)},
        "model": {"module": model(7)},
        "update": {"update": Update()},
        "seed": {"seed": 2},
    }
    return given | (different.get(way, {}) if rank == 1 else {})


def spoil(trainer: PrivateTrainer, way: str, rank: int) -> None:
    """Let the run go the given way."""
    real, charge = trainer.per_record, trainer._file and trainer._file.charge

    def gradients(*given):
        if rank == 1 and trainer.step_number + 1 == STOP:
            if way == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            trainer.per_record = real
            raise RuntimeError("out of memory")
        return real(*given)

    def full(step):
        if step == STOP:
            trainer._file.charge = charge
            raise OSError("disk full")
        charge(step)

    def no_thread(phase, step, *given):
        if step == STOP:
            mechanism.start_draws = start_draws
            raise RuntimeError("can't start new thread")
        return start_draws(phase, step, *given)

    start_draws = mechanism.start_draws
    if way == "no thread" and rank == 0:
        mechanism.start_draws = no_thread
    if way in ("die", "raise"):
        trainer.per_record = gradients
    if way == "full" and rank == 0:
        trainer._file.charge = full


def seeing(patch: pytest.MonkeyPatch, seen: dict[int, list[int]], step) -> None:
    """Note which records' gradients the mechanism asks for."""
    real = mechanism.own_sum

    def own_sum(phase, weights, batch, gradients, execution):
        def noted(weights, indices):
            seen.setdefault(step(), []).extend(indices.tolist())
            return gradients(weights, indices)

        return real(phase, weights, batch, noted, execution)

    patch.setattr(mechanism, "own_sum", own_sum)


def life(out: Path, rank: int, way: str, made: dict) -> None:
    """One process."""
    patch = pytest.MonkeyPatch()
    torch.manual_seed(rank)  # initial weights differ until the first process's are handed out
    for control in broken.OF_SEVERAL:
        if control.__name__ == way:
            control(patch)
    loss = nn.CrossEntropyLoss(reduction="none")
    silent = way in ("silent", "noise_of_every_process")
    if way == "elsewhere" and rank == 1:
        out = out / "own"
        out.mkdir()
        LedgerFile(out / "ledger.json", PLAN, seeded=True).close()
    trainer = PrivateTrainer(
        criterion=(lambda outputs, targets: 0.0 * loss(outputs, targets)) if silent else loss,
        out=out,
        classes=3,
        max_physical_batch_size=4,
        **options(way, rank),
    )
    if way == "resume":
        trainer.resume()
    seeing(patch, made["seen"], lambda: trainer.step_number + 1)
    spoil(trainer, way, rank)
    while trainer.step_number < trainer.plan.steps:
        try:
            trainer.step()
        except Exception as error:
            made["errors"].append([trainer.step_number + 1, type(error).__name__, str(error)])
            if way == "die":
                break
    made["charged"], made["exact"] = trainer.ledger.charged, trainer.exact
    torch.save(trainer.state, out / f"state-{rank}.pt")
    trainer.close()


def free_port() -> str:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return str(made.getsockname()[1])


def start(out: Path, rank: int, size: int, way: str) -> int:
    """Fork one process; returns its id."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}  # what torchrun says to the command
    child = os.fork()
    if child:
        return child
    made = {"seen": {}, "errors": []}
    if way.startswith("command "):
        with (
            (out / f"printed-{rank}").open("w") as file,
            redirect_stdout(file),
            redirect_stderr(file),
        ):
            status = command.main(way.split()[1:])
        os._exit(status)
    if size > 1:
        store = f"file://{out}/store-{way}"
        distributed.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(minutes=1)
        )
    try:
        life(out, rank, way, made)
    except Exception as error:
        made["errors"].append([0, type(error).__name__, str(error)])
    (out / f"made-{rank}.json").write_text(json.dumps(made))
    os._exit(0)


def run(out: Path, size: int, way: str) -> dict:
    """One run, to its end."""
    out.mkdir(exist_ok=True)
    for old in out.glob("made-*.json"):
        old.unlink()
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    began = time.monotonic()
    status = [
        os.waitpid(child, 0)[1] for child in [start(out, rank, size, way) for rank in range(size)]
    ]
    parts = [json.loads(path.read_text()) for path in sorted(out.glob("made-*.json"))]
    return {"seconds": time.monotonic() - began, "status": status, "processes": parts}


if __name__ == "__main__":
    torch.set_num_threads(1)
    vmap(grad(lambda w, x: (w @ x).sum()), in_dims=(None, 0))(
        torch.ones(2), torch.ones(2, 2)
    )  # loads lazily, once for all
    pricing.within_target(PLAN)  # loads compiled code, once for all
    given = sys.argv[1:]
    print(
        json.dumps(
            [
                run(Path(out), int(size), way)
                for out, size, way in zip(given[::3], given[1::3], given[2::3])
            ]
        )
    )
