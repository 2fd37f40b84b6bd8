"""Kill a training run many times, at random moments and once within a step, and let it finish;
prints one JSON object.

Used by test_training.py, or

    python tests/helpers/kill_many.py FOLDER [KILLS]

Every result that leaves a step is written to a pipe at once: what arrives there was visible to
somebody.
"""

import json
import os
import random
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch.func import grad, vmap

from mmaccount import Ledger, Phase, Plan
from trainer import PrivateTrainer, Update

STEPS = 300
EARLY = 5  # lives that are killed anywhere, also before the first step


def plan() -> Plan:
    """A run of two phases, one that mixes."""
    common = {"noise_multiplier": 1.0, "clip_norm": 1.0, "learning_rate": 0.1}
    phases = (Phase(steps=STEPS // 2, **common), Phase(steps=STEPS // 2, gap=0.1, **common))
    return Plan(dataset_size=200, sample_rate=0.05, batch_size=10, phases=phases, delta=1e-5)


def run(out: Path, pipe: int, life: int) -> None:
    """One life of the run; the first after the early ones dies within a step, charged and with
    nothing to show for it."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 5), torch.randint(0, 3, (200,))
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    trainer = PrivateTrainer(
        module=torch.nn.Linear(5, 3),
        criterion=loss,
        data=(x, y),
        plan=plan(),
        out=out,
        classes=3,
        update=Update(momentum=0.5),
    )
    trainer.resume()
    if life == EARLY + 1:
        trainer.per_record = lambda *given: os.kill(os.getpid(), signal.SIGKILL)
    while trainer.step_number < STEPS:
        os.write(pipe, f"{trainer.step()}\n".encode())


def main(out: Path, kills: int = 50) -> None:
    """Fork, kill, repeat; then let it finish."""
    torch.set_num_threads(1)
    vmap(grad(lambda w, x: (w @ x).sum()), in_dims=(None, 0))(
        torch.ones(2), torch.ones(2, 2)
    )  # loads lazily, once for all
    read, write = os.pipe()
    os.set_blocking(read, False)
    rng, visible, charged, lives = random.Random(0), [], [], 0
    while True:
        lives += 1
        child = os.fork()
        if child == 0:
            run(out, write, lives)
            os._exit(0)
        if lives <= kills and lives != EARLY + 1:
            if lives > EARLY:
                select.select([read], [], [], 10.0)
            time.sleep(rng.uniform(0.0, 0.02))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        with suppress(BlockingIOError):
            visible += [int(line) for line in os.read(read, 1 << 20).split()]
        if (out / "ledger.json").exists():
            charged.append([Ledger.load(out / "ledger.json").charged, len(visible)])
        if lives > kills:
            break
    print(json.dumps({"status": status, "visible": visible, "charged": charged, "lives": lives}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(count) for count in sys.argv[2:]))
