"""The run that options of a command describe."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isclose
from pathlib import Path
from typing import Any

from mmaccount.records.mixing_laws import UNIFORM
from mmaccount.records.settings import NEIGHBOURS, NOISES, Settings

Answer = tuple[dict[str, Any], list[str]]  # what --json prints, and the lines printed without it
Action = Callable[[argparse.Namespace], Answer]
# (name, action, text of the help, arguments of its example) -> the parser of a command
Command = Callable[[str, Action, str, str], argparse.ArgumentParser]

RUN = (
    "--dataset-size 50000 --batch-size 1500 --steps 3400 --noise-multiplier 0.335"
    " --clip-norm 20 --gap 0.15 --truncation 100"
)
PICTURES = (".png", ".svg")
STARTS = {
    "noise_multiplier": 1.0,
    "steps": 1000.0,
    "sample_rate": 0.01,
    "mixing": 1.0,
    "truncation": 1.0,
    "gap": 1.0,
}


add_number = partial(argparse.ArgumentParser.add_argument, type=float, required=True)


def add_delta(parser: argparse.ArgumentParser) -> None:
    """Add the delta of a guarantee, which must be given."""
    add_number(parser, "--delta", metavar="D", help="delta, in (0, 1)")


def add_target_epsilon(parser: argparse.ArgumentParser) -> None:
    """Add the epsilon to stay within, which must be given."""
    add_number(parser, "--target-epsilon", metavar="E", help="epsilon to stay within, above 0")


def add_plans_delta(parser: argparse.ArgumentParser) -> None:
    """Add a delta that is the plan's unless it is given."""
    parser.add_argument(
        "--delta", type=float, metavar="D", help="delta, in (0, 1); default: the plan's"
    )


def settings(given: dict[str, Any]) -> Settings:
    """The run that the options describe, in either form; both forms at once must agree."""
    names = (
        "steps",
        "noise_multiplier",
        "mixing_law",
        "truncation",
        "noise",
        "neighbours",
        "group_size",
    )
    common = {name: given[name] for name in names}
    for name in ("steps", "noise_multiplier"):
        if common[name] is None:
            raise ValueError(f"`--{name.replace('_', '-')}` is missing.")
    if given["dataset_size"] is not None:
        if given["batch_size"] is None:
            raise ValueError("`--batch-size` is missing: `--dataset-size` needs it.")
        run = Settings.from_training(
            dataset_size=given["dataset_size"],
            batch_size=given["batch_size"],
            clip_norm=given["clip_norm"],
            gap=0.0 if given["gap"] is None else given["gap"],
            **common,
        )
        return _agreeing(run, given)
    for name in ("batch_size", "gap", "clip_norm"):
        if given[name] is not None:
            raise ValueError(
                f"`--{name.replace('_', '-')}` needs `--dataset-size` and `--batch-size` beside it."
            )
    if given["sample_rate"] is None:
        raise ValueError("`--sample-rate`, or `--dataset-size` and `--batch-size`, is missing.")
    mixing = 0.0 if given["mixing"] is None else given["mixing"]
    return Settings(sample_rate=given["sample_rate"], mixing=mixing, **common)


def _agreeing(run: Settings, given: dict[str, Any]) -> Settings:
    if given["gap"] is None and given["mixing"] is not None:
        return _agreeing(replace(run, mixing=given["mixing"]), given | {"mixing": None})
    for name in ("sample_rate", "mixing"):
        value = given[name]
        if value is not None and not isclose(value, getattr(run, name), rel_tol=1e-9):
            raise ValueError(
                f"`--{name.replace('_', '-')}` {value:g} disagrees with {getattr(run, name):.9g}, "
                "which follows from the other options; give one of the two."
            )
    return run


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that describe a run, by name."""
    names = [
        "dataset_size",
        "batch_size",
        "clip_norm",
        "gap",
        "sample_rate",
        "mixing",
        "steps",
        "noise_multiplier",
    ]
    names += ["mixing_law", "truncation", "noise", "neighbours", "group_size"]
    return {name: getattr(arguments, name) for name in names}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a run."""
    run = parser.add_argument_group(
        "the run, either with --dataset-size and --batch-size or with --sample-rate"
    )
    run.add_argument("--dataset-size", type=float, metavar="N", help="records in the training set")
    run.add_argument(
        "--batch-size",
        type=float,
        metavar="B",
        help="expected batch size (Poisson sampling at rate B/N)",
    )
    run.add_argument(
        "--clip-norm",
        type=float,
        metavar="C",
        help="l2 norm gradients are clipped to; needed with --gap",
    )
    run.add_argument(
        "--gap",
        type=float,
        metavar="G",
        help="mixing threshold tau / learning rate; 0 is plain DP-SGD",
    )
    run.add_argument(
        "--sample-rate", type=float, metavar="Q", help="Poisson sampling rate, in (0, 1]"
    )
    run.add_argument("--mixing", type=float, metavar="RHO", help="gap * B / C; 0 is plain DP-SGD")
    run.add_argument(
        "--mixing-law",
        default=UNIFORM,
        metavar="LAW",
        help="uniform, raised-cosine or beta-B, B at least 1",
    )
    run.add_argument("--steps", type=float, metavar="T", help="number of steps")
    run.add_argument(
        "--noise-multiplier", type=float, metavar="Z", help="noise std on the sum / clip norm"
    )
    run.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        metavar="P",
        help="coordinates are cut at C/sqrt(P); 1: none",
    )
    run.add_argument(
        "--noise", choices=NOISES, default="gaussian", help="laplace: gradients clipped in l1"
    )
    run.add_argument(
        "--neighbours",
        choices=NEIGHBOURS,
        default=NEIGHBOURS[0],
        help="what may be done to a record",
    )
    run.add_argument(
        "--group-size", type=float, default=1, metavar="K", help="to so many records at once"
    )


def add_fast(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves the slow bounds out."""
    parser.add_argument(
        "--fast",
        action="store_true",
        help="with mixing: Renyi moments only; looser, a second sooner",
    )


def check_picture(option: str, path: str) -> None:
    """Refuse a file that is not to be a picture."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"`--{option}` must end in {' or '.join(PICTURES)}, got {path!r}.")
