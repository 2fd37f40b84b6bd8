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
# of both forms of a run: with --dataset-size and --batch-size, or with --sample-rate
COMMON_OPTIONS = (
    "steps",
    "noise_multiplier",
    "mixing_law",
    "truncation",
    "noise",
    "neighbours",
    "group_size",
)
TRAINING_OPTIONS = ("dataset_size", "batch_size", "clip_norm", "gap")
NOT_IN_PLANS = ("sample_rate", "mixing", "noise", "group_size")
RUN_OPTIONS = (*TRAINING_OPTIONS, "sample_rate", "mixing", *COMMON_OPTIONS)

add_number = partial(argparse.ArgumentParser.add_argument, type=float, required=True)


def add_delta(parser: argparse.ArgumentParser) -> None:
    """Add the delta of a guarantee, which must be given."""
    add_number(
        parser,
        "--delta",
        metavar="D",
        help="delta of the (epsilon, delta) guarantee, in (0, 1); usually far below 1 / records",
    )


def add_target_epsilon(parser: argparse.ArgumentParser) -> None:
    """Add the epsilon to stay within, which must be given."""
    add_number(
        parser,
        "--target-epsilon",
        metavar="E",
        help="epsilon that the run must not exceed at --delta, above 0",
    )


def add_plans_delta(parser: argparse.ArgumentParser) -> None:
    """Add a delta that is the plan's unless it is given."""
    parser.add_argument(
        "--delta",
        type=float,
        metavar="D",
        help="delta of the (epsilon, delta) guarantee, in (0, 1) (default: the plan's)",
    )


def dashed(name: str) -> str:
    """The option of that name, as it is typed."""
    return f"--{name.replace('_', '-')}"


def settings(given: dict[str, Any]) -> Settings:
    """The run that the options describe, in either form; both forms at once must agree."""
    common = {name: given[name] for name in COMMON_OPTIONS}
    for name in ("steps", "noise_multiplier"):
        if common[name] is None:
            raise ValueError(f"`{dashed(name)}` is missing.")
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
                f"`{dashed(name)}` needs `--dataset-size` and `--batch-size` beside it."
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
                f"`{dashed(name)}` {value:g} disagrees with {getattr(run, name):.9g}, "
                "which follows from the other options; give one of the two."
            )
    return run


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that describe a run, by name."""
    return {name: getattr(arguments, name) for name in RUN_OPTIONS}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a run."""
    _add_run(parser, "the run, either with --dataset-size and --batch-size or with --sample-rate")


def add_planned_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a run; out of the help stay those that a plan refuses, in words
    of its own."""
    _add_run(parser, "the run")
    for action in parser._actions:
        if action.dest in NOT_IN_PLANS:
            action.help = argparse.SUPPRESS


def _add_run(parser: argparse.ArgumentParser, title: str) -> None:
    run = parser.add_argument_group(title)
    _add_sampling(run)
    _add_gap(run)
    _add_step(run)
    _add_neighbours(run)


def _add_sampling(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--dataset-size",
        type=float,
        metavar="N",
        help="number of records in the training set, at least 1",
    )
    run.add_argument(
        "--batch-size",
        type=float,
        metavar="B",
        help="expected number of records in a batch, at most N: each record joins each batch "
        "independently with probability B / N (Poisson sampling)",
    )
    run.add_argument(
        "--sample-rate",
        type=float,
        metavar="Q",
        help="probability that a record joins a batch, in (0, 1], in place of --dataset-size and "
        "--batch-size",
    )


def _add_gap(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--clip-norm",
        type=float,
        metavar="C",
        help="norm that the gradient of each record is clipped to, above 0 (l2; l1 with Laplace "
        "noise); without a gap the price does not depend on it",
    )
    run.add_argument(
        "--gap",
        type=float,
        metavar="G",
        help="mixing threshold tau of ModelMix / learning rate, 0 or more, in the units of "
        "--clip-norm, which it needs; 0 is plain DP-SGD (default: 0)",
    )
    run.add_argument(
        "--mixing",
        type=float,
        metavar="RHO",
        help="width of the mixing noise in units of clip norm / batch size, 0 or more: gap * "
        "batch size / clip norm, in place of --gap; 0 is plain DP-SGD (default: 0)",
    )
    run.add_argument(
        "--mixing-law",
        default=UNIFORM,
        metavar="LAW",
        help="distribution of the mixing coefficients: uniform (the paper's), raised-cosine, or "
        "beta-B with B from 1 to 10, as in beta-2 (default: uniform)",
    )


def _add_step(run: argparse._ArgumentGroup) -> None:
    run.add_argument("--steps", type=float, metavar="T", help="number of steps, at least 1")
    run.add_argument(
        "--noise-multiplier",
        type=float,
        metavar="Z",
        help="standard deviation of the noise on the sum of clipped gradients / clip norm, above "
        "0 (of Laplace noise: its scale / clip norm)",
    )
    run.add_argument(
        "--truncation",
        type=float,
        default=1.0,
        metavar="P",
        help="after clipping, each coordinate of a gradient is cut at +- clip norm / sqrt(P); P "
        "at least 1, where 1 cuts nothing (default: 1)",
    )
    run.add_argument(
        "--noise",
        choices=NOISES,
        default="gaussian",
        help="distribution of the noise; with laplace gradients are clipped in l1, not in l2 "
        "(default: gaussian)",
    )


def _add_neighbours(run: argparse._ArgumentGroup) -> None:
    run.add_argument(
        "--neighbours",
        choices=NEIGHBOURS,
        default=NEIGHBOURS[0],
        help="two data sets are neighbours, which the guarantee makes hard to tell apart, if one "
        "record is added or removed, or replaced by any other, or has its gradients set to zero "
        "(default: add-or-remove)",
    )
    run.add_argument(
        "--group-size",
        type=float,
        default=1,
        metavar="K",
        help="protect groups of up to K records together: neighbours then differ in K records "
        "instead of one; whole, at least 1 (default: 1)",
    )


def add_fast(parser: argparse.ArgumentParser) -> None:
    """Add the option that leaves the slow bounds out."""
    parser.add_argument(
        "--fast",
        action="store_true",
        help="where there is mixing, use bounds by Renyi moments only: still proven, but looser, "
        "and about a second sooner; without mixing it changes nothing",
    )


def check_picture(option: str, path: str) -> None:
    """Refuse a file whose name does not end as that of a picture."""
    if Path(path).suffix not in PICTURES:
        raise ValueError(f"`--{option}` must end in {' or '.join(PICTURES)}, got {path!r}.")
