"""The commands that draw: `mmaccount plot` and `mmaccount report`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmaccount.commands.run_options import RUN, add_fast, add_run, check_picture, options, settings
from mmaccount.records import files, validate
from mmaccount.records.bound import as_json, as_text

ENDINGS = (".html", ".htm")
KINDS_IN_WORDS = "profile, trade-off, steps, noise, gap, truncation or equal-energy of the run, or the paper's figure-3"


def _plot(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.plots import KINDS, curves, figure

    validate.choice("kind", arguments.kind, KINDS)
    check_picture("out", arguments.out)
    given, run, scale = options(arguments), None, None
    if arguments.kind != "figure-3":
        run = settings(given)
        if given["dataset_size"] is not None and given["clip_norm"] is not None:
            scale = given["clip_norm"] / given["batch_size"]
    tight = not arguments.fast
    made = figure(
        arguments.kind,
        run,
        delta=arguments.delta,
        tight=tight,
        gap_scale=scale,
        progress=arguments.progress,
    )
    made.savefig(arguments.out)
    return {"kind": arguments.kind, "file": arguments.out, "curves": curves(made)}, [
        f"{arguments.out}: {arguments.kind}"
    ]


def _report(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.reporting.report import report
    from mmaccount.reporting.run_folder import load

    if Path(arguments.out).suffix not in ENDINGS:
        raise ValueError(f"`--out` must end in .html, got {arguments.out!r}.")
    made = report(load(arguments.source), tight=not arguments.fast, progress=arguments.progress)
    files.write_bytes(arguments.out, made.html)
    plan = made.plan
    data = as_json(made.bound) | {
        "delta": plan.delta,
        "fingerprint": plan.fingerprint,
        "file": arguments.out,
    }
    return data, [f"{arguments.out}: " + as_text(made.bound, "epsilon", f"delta {plan.delta:g}")]


def add(command: Callable[[str, Callable[..., Any], str, str], argparse.ArgumentParser]) -> None:
    """Add the commands; `command(name, action, text, example)` makes a parser."""
    made = command(
        "plot",
        _plot,
        "A picture of a run, or Fig. 3 of the paper.",
        f"profile {RUN} --out profile.png",
    )
    add_fast(made)
    made.add_argument("kind", help=KINDS_IN_WORDS)
    add_run(made)
    made.add_argument(
        "--delta", type=float, metavar="D", help="delta, in (0, 1); not for profile and trade-off"
    )
    made.add_argument("--out", required=True, metavar="FILE", help="the picture, .png or .svg")
    text = "One page about a plan or a run: price, what it rests on, comparison, curves, ledger, how to do it again."
    made = command("report", _report, text, "plan.json --out report.html")
    add_fast(made)
    made.add_argument(
        "source",
        metavar="PLAN|FOLDER",
        help="a plan, a ledger, or the folder of a run of the trainer",
    )
    made.add_argument(
        "--out", required=True, metavar="FILE", help="the page, .html; it needs nothing else"
    )
