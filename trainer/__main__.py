"""python -m trainer: carry out a plan, or probe for one.

Exit status: 0 done; 2 bad input, one line; 130 interrupted.

Under torchrun several processes share the work of every step; one that is left by another ends with
status 2.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import torch

from mmaccount.records import validate
from mmaccount.records.bound import up
from mmaccount.records.plan import Plan
from mmaccount.terminal import Status, say_when_compiling
from trainer import data, memory, probe, processes
from trainer.augment import Augmentation
from trainer.bench import measure
from trainer.gradients.precision import DTYPE
from trainer.loop import PAUSE, Options, losses, train
from trainer.update import Update

TRAIN = """Train with DP-SGD or ModelMix exactly as a plan says. Several processes, one a device:
torchrun --nproc-per-node N -m trainer ... (gloo on CPU, nccl on CUDA); the first writes the files."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


class _Shown:
    """Progress of making data, a line every two seconds."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, whole: int) -> None:
        if time.monotonic() - self.last > PAUSE:
            self.last = time.monotonic()
            print(f"made {done} of {whole} records", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="trainer", description=TRAIN)
    parser.add_argument(
        "--plan",
        metavar="FILE",
        help="plan to carry out, made by mmaccount plan or mmaccount advise",
    )
    parser.add_argument(
        "--data",
        help="records to train on, and held-out ones: digits, glyphs, glyphs:COUNT, cifar10:FOLDER, "
        "svhn:FOLDER or FILE.npz",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder of the run: ledger, checkpoints and report go there"
    )
    parser.add_argument(
        "--probe",
        metavar="FILE",
        help="instead of training: write here, for mmaccount advise --probe, per-record gradients "
        "of held-out records, which count as public",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1000,
        help="with --probe: number of held-out records to probe (default: 1000)",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="probe the training records: a noisy histogram of norms, "
        "a release every time, which plans pay for",
    )
    parser.add_argument(
        "--probe-noise",
        type=float,
        default=20.0,
        metavar="Z",
        help="with --private: standard deviation of the noise on each count of the histogram, in "
        "records, above 0 (default: 20)",
    )
    parser.add_argument(
        "--bench",
        action="store_true",
        help="instead of training: time the ways to compute per-record gradients, on random inputs",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="ROWS",
        help="with --bench: records in a step that is timed, at least 1 (default: 64)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=10,
        help="with --bench: times that each way is timed; the quickest counts (default: 10)",
    )
    parser.add_argument(
        "--threads", type=int, help="number of CPU threads of torch (default: as torch chooses)"
    )
    parser.add_argument(
        "--model",
        help="model to train: linear, cnn, resnet20, or module:function, a function of yours that "
        "is given shape of a record and number of classes (default: linear; resnet20 with --bench)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where to compute; with cuda under torchrun each process has a GPU of its own "
        "(default: cpu)",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(DTYPE),
        default="float32",
        help="number format of forward and backward pass, of nothing else (default: float32)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run in the folder --out"
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="whole number that makes the run repeatable, for tests only: the run is then not "
        "private (default: randomness of the operating system)",
    )
    parser.add_argument(
        "--canaries",
        type=int,
        default=0,
        metavar="M",
        help="give M records wrong labels and leave about half of these out, for mmaccount audit to "
        "guess which (default: 0)",
    )
    parser.add_argument(
        "--optimizer",
        choices=("sgd", "adam"),
        default="sgd",
        help="how a released gradient moves the weights; adam only without mixing (default: sgd)",
    )
    parser.add_argument(
        "--momentum", type=float, default=0.0, help="momentum of sgd, in [0, 1) (default: 0)"
    )
    parser.add_argument(
        "--weight-decay",
        type=float,
        default=0.0,
        help="added to each averaged gradient, times the weights; 0 or more (default: 0)",
    )
    parser.add_argument(
        "--ema",
        type=float,
        default=0.0,
        metavar="DECAY",
        help="the model is an exponential average of the released weights with this decay, in "
        "[0, 1); 0 averages nothing (default: 0)",
    )
    parser.add_argument(
        "--views",
        type=int,
        default=1,
        metavar="K",
        help="augmented views of each record, whose gradients are averaged before clipping; above "
        "1 needs --flip or --crop (default: 1)",
    )
    parser.add_argument(
        "--flip", action="store_true", help="augment images by random horizontal flips"
    )
    parser.add_argument(
        "--crop",
        action="store_true",
        help="augment images by random crops after padding by 4 pixels",
    )
    parser.add_argument(
        "--max-physical-batch-size",
        type=int,
        metavar="ROWS",
        help="most records whose gradients are in memory at a time; changes memory and speed, not "
        "the guarantee (default: by the size of the model)",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=1,
        metavar="STEPS",
        help="steps from one checkpoint to the next, at least 1: after a crash the steps since the "
        "last one are taken, and charged, again (default: 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    return parser


def _probe(given: argparse.Namespace) -> str:
    if given.plan is not None or given.out is not None:
        raise ValueError("--probe comes before a plan: leave out --plan and --out.")
    records = data.load(given.data, _Shown())
    with Status():
        return probe.write(
            records,
            losses,
            Path(given.probe),
            private_noise=given.probe_noise if given.private else None,
            rows=given.rows,
            model=given.model or "linear",
            device=given.device,
            seed=given.seed,
        )


def _bench(given: argparse.Namespace) -> str:
    with Status() as status:
        measured = measure.measure(
            model=given.model or "resnet20",
            batch_size=given.batch_size,
            device=given.device,
            precision=given.precision,
            rounds=given.rounds,
            progress=status.counted,
        )
    return json.dumps(measured, allow_nan=False) if given.json else measure.table(measured)


def _train(given: argparse.Namespace, options: Options) -> dict[str, object]:
    plan, records = Plan.load(given.plan), data.load(given.data, _Shown())
    return train(
        plan,
        records,
        Path(given.out),
        options,
        seed=given.seed,
        resume=given.resume,
        canaries=given.canaries,
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given, rank = _parser().parse_args(argv), int(os.environ.get("RANK", "0"))
    memory.keep_freed()
    if rank == 0:
        say_when_compiling("trainer")
    try:
        if given.threads is not None:
            torch.set_num_threads(validate.count("threads", given.threads, 4096))
        if (given.bench or given.probe is not None) and processes.announced():
            raise ValueError(
                "--bench and --probe are work for one process: start it without torchrun."
            )
        if given.bench:
            print(_bench(given))
            return 0
        if given.data is None:
            raise ValueError("give --data.")
        options = Options(
            model=given.model or "linear",
            update=Update(
                optimizer=given.optimizer,
                momentum=given.momentum,
                weight_decay=given.weight_decay,
                ema=given.ema,
            ),
            augmentation=Augmentation(views=given.views, flip=given.flip, crop=given.crop),
            device=given.device,
            max_physical_batch_size=given.max_physical_batch_size,
            checkpoint_every=given.checkpoint_every,
            precision=given.precision,
        )
        if given.probe is not None:
            print(_probe(given))
            return 0
        if given.plan is None or given.out is None:
            raise ValueError("give --plan and --out to train, or --probe.")
        with processes.joined(given.device):
            report = _train(given, options)
    except (ValueError, TypeError, OSError) as error:
        print(f"trainer{f', process {rank}' if rank else ''}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("trainer: interrupted; the same command with --resume goes on.", file=sys.stderr)
        return 130
    if rank:
        return 0
    if given.json:
        print(json.dumps(report, allow_nan=False))
    else:
        score = f"held-out accuracy {report['held_out_accuracy']:.4f}"
        cost = (
            "seeded: not private"
            if report["seeded"]
            else f"epsilon <= {up(report['epsilon'])} at delta {report['delta']:g}"
        )
        print(f"{cost}, {score}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
