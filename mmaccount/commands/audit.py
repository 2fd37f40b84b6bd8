"""The command `mmaccount audit`."""

import argparse
from collections.abc import Callable
from decimal import ROUND_FLOOR
from importlib import import_module
from pathlib import Path
from typing import Any

from mmaccount.records import files
from mmaccount.records.bound import BoundError, up

Answer = tuple[dict[str, Any], list[str]]
MISSING = "the audit drives the trainer, which needs torch ({}): pip install 'mmaccount[train]'."


def add(command: Callable[[str, Callable[..., Any], str, str], argparse.ArgumentParser]) -> None:
    """Add the command; `command(name, action, text, example)` makes its parser."""

    def action(arguments: argparse.Namespace) -> Answer:
        if (arguments.run is None) != arguments.itself:
            raise ValueError("give either the folder of a run with canaries, or --self.")
        return of_trainer(arguments) if arguments.itself else of_run(Path(arguments.run))

    text = "Attack a run with canaries, or the trainer's own step: what is found beside what is promised; status 1 if more."
    made = command("audit", action, text, "--self")
    made.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="folder of a finished run of python -m trainer --canaries M",
    )
    made.add_argument(
        "--self", dest="itself", action="store_true", help="audit the trainer as installed"
    )
    made.add_argument(
        "--quick", action="store_true", help="with --self: only the attacks that take seconds"
    )
    made.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="with --self: repeatable; default: the randomness of real runs",
    )


def of_trainer(arguments: argparse.Namespace) -> Answer:
    """The battery, one row per attack."""
    try:
        audit = import_module("trainer.attacks.battery")
    except ImportError as error:
        raise BoundError(MISSING.format(error)) from error
    attacks = [attack for attack in audit.battery() if attack.quick or not arguments.quick]
    rows = [audit.measure(attack, seed=arguments.seed) for attack in arguments.progress(attacks)]
    data = {"passed": all(row.passed for row in rows), "confidence": audit.CONFIDENCE}
    data["attacks"] = [row._asdict() | {"passed": row.passed} for row in rows]
    lines = [
        f"{'attack on the trainer':34}{'delta':>7}{'found':>9}{'possible':>10}{'promised':>10}{'experiments':>13}"
    ]
    for row in rows:
        found, lower = (up(value, 4, ROUND_FLOOR) for value in (row.found, row.lower))
        shown = f"{row.name:34}{row.delta:7g}{found:>9}{lower:>10}{up(row.upper, 4):>10}{row.experiments:13d}"
        lines.append(f"{shown}  {'passed' if row.passed else 'BROKEN'}")
    return data, [
        *lines,
        f"found: lower bounds on epsilon, each at {audit.CONFIDENCE:.1%}; possible: by the best attack",
    ]


def of_run(run: Path) -> Answer:
    """What the canaries of a run prove, also written to audit.json in its folder, where
    `mmaccount report` finds it."""
    from mmaccount.analysis.audit import CONFIDENCE, one_run
    from mmaccount.reporting.run_folder import load, spent

    source, found = load(run), files.read(run / "canaries.json", "canaries")
    ledger, delta = source.ledger, source.plan.delta
    if ledger is None or not {"scores", "kept"} <= set(found):
        raise ValueError(f"{run} is not the folder of a run with canaries.")
    rows, promised = (
        one_run(found["scores"], found["kept"], delta=delta),
        spent(ledger, delta=delta),
    )
    lower = max(row.epsilon for row in rows)
    data: dict[str, Any] = {
        "passed": lower <= promised.upper,
        "lower": lower,
        "delta": delta,
        "confidence": CONFIDENCE,
    }
    data |= {
        "canaries": len(found["kept"]),
        "seeded": ledger.seeded,
        "attacks": [row._asdict() for row in rows],
    }
    files.write(run / "audit.json", data)
    lines = [f"{'guessed by':20}{'guesses':>9}{'right':>8}{'epsilon >=':>12}   at delta {delta:g}"]
    for row in rows:
        lines.append(
            f"{row.name:20}{row.guesses:9d}{row.correct:8d}{up(row.epsilon, 4, ROUND_FLOOR):>12}"
        )
    verdict = "passed" if data["passed"] else "BROKEN"
    lines.append(
        f"{data['canaries']} canaries, all at once at {CONFIDENCE:.1%}; promised: epsilon <= {up(promised.upper)}  {verdict}"
    )
    return data, lines + ["seeded: not private"] * ledger.seeded
