"""The commands that draw: `mmaccount plot` and `mmaccount report`."""

import argparse
from pathlib import Path

from mmaccount.commands.run_options import (
    RUN,
    Answer,
    Command,
    add_fast,
    add_run,
    check_picture,
    options,
    settings,
)
from mmaccount.records import files, validate
from mmaccount.records.bound import as_json, as_text

ENDINGS = (".html", ".htm")
FIGURE_3_KIND = "figure-3"  # of the paper, which takes no run


def _plot(arguments: argparse.Namespace) -> Answer:
    from mmaccount.plots import KINDS, curves, figure

    kind = validate.choice("kind", arguments.kind, KINDS)
    check_picture("out", arguments.out)
    run, gap_scale = None, None
    if kind != FIGURE_3_KIND:
        given = options(arguments)
        run = settings(given)
        if given["dataset_size"] is not None and given["clip_norm"] is not None:
            gap_scale = given["clip_norm"] / given["batch_size"]
    picture = figure(
        kind,
        run,
        delta=arguments.delta,
        tight=not arguments.fast,
        gap_scale=gap_scale,
        progress=arguments.progress,
    )
    picture.savefig(arguments.out)
    data = {"kind": kind, "file": arguments.out, "curves": curves(picture)}
    return data, [f"{arguments.out}: {kind}"]


def _report(arguments: argparse.Namespace) -> Answer:
    from mmaccount.reporting.report import report
    from mmaccount.reporting.run_folder import load

    if Path(arguments.out).suffix not in ENDINGS:
        raise ValueError(f"`--out` must end in .html, got {arguments.out!r}.")
    page = report(load(arguments.source), tight=not arguments.fast, progress=arguments.progress)
    files.write_bytes(arguments.out, page.html)
    data = as_json(page.bound) | {
        "delta": page.plan.delta,
        "fingerprint": page.plan.fingerprint,
        "file": arguments.out,
    }
    price = as_text(page.bound, "epsilon", f"delta {page.plan.delta:g}")
    return data, [f"{arguments.out}: {price}"]


def add(command: Command) -> None:
    """Add these commands."""
    _add_plot(command)
    _add_report(command)


def _add_plot(command: Command) -> None:
    text = "A picture of what a run costs, or Fig. 3 of the paper."
    parser = command("plot", _plot, text, f"profile {RUN} --out profile.png")
    add_fast(parser)
    parser.add_argument(
        "kind",
        help="what to draw of the run: profile (delta over epsilon), trade-off (error rates of "
        "the best attack), epsilon over steps, noise, gap or truncation, equal-energy (mixing "
        "beside plain noise); or figure-3 of the paper, which takes no run",
    )
    add_run(parser)
    parser.add_argument(
        "--delta",
        type=float,
        metavar="D",
        help="delta at which epsilon is drawn, in (0, 1); needed but for profile, trade-off and "
        "figure-3",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the picture is written here, .png or .svg"
    )


def _add_report(command: Command) -> None:
    text = (
        "One page about a plan or a run: price, what it rests on, comparison, curves, ledger, how "
        "to do it again."
    )
    parser = command("report", _report, text, "plan.json --out report.html")
    add_fast(parser)
    parser.add_argument(
        "source",
        metavar="PLAN|FOLDER",
        help="what to report on: the JSON file of a plan or of a ledger, or the folder of a run "
        "of python -m trainer",
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="the page is written here, .html; pictures and style are inside it",
    )
