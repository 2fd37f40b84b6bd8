"""The command `mmaccount report`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmaccount import _files
from mmaccount.bound import as_json, as_text

ENDINGS = (".html", ".htm")


def add(command: Callable[[str, Callable[..., Any], str, str], argparse.ArgumentParser]) -> None:
    """Add the command; `command(name, action, text, example)` makes its parser."""

    def action(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
        from mmaccount.report import report
        from mmaccount.run_folder import load

        if Path(arguments.out).suffix not in ENDINGS:
            raise ValueError(f"`--out` must end in .html, got {arguments.out!r}.")
        made = report(load(arguments.source), tight=not arguments.fast, progress=arguments.progress)
        _files.write_bytes(arguments.out, made.html)
        plan = made.plan
        data = as_json(made.bound) | {"delta": plan.delta, "fingerprint": plan.fingerprint, "file": arguments.out}
        return data, [f"{arguments.out}: " + as_text(made.bound, "epsilon", f"delta {plan.delta:g}")]

    text = "One page about a plan or a run: price, what it rests on, comparison, curves, ledger, how to do it again."
    made = command("report", action, text, "plan.json --out report.html")
    made.add_argument("source", metavar="PLAN|FOLDER", help="a plan, a ledger, or the folder of a run of the trainer")
    made.add_argument("--out", required=True, metavar="FILE", help="the page, .html; it needs nothing else")
    made.add_argument("--fast", action="store_true", help="with mixing: Renyi moments only; looser, a second sooner")
