"""The command `mmaccount audit`."""

import argparse
from decimal import ROUND_FLOOR
from importlib import import_module
from pathlib import Path

from mmaccount.commands.run_options import Answer, Command
from mmaccount.records import files
from mmaccount.records.bound import BoundError, up

MISSING = "the audit drives the trainer, which needs torch ({}): pip install 'mmaccount[train]'."


def _audit(arguments: argparse.Namespace) -> Answer:
    if (arguments.run is None) != arguments.itself:
        raise ValueError("give either the folder of a run with canaries, or --self.")
    return of_trainer(arguments) if arguments.itself else of_run(Path(arguments.run))


def add(command: Command) -> None:
    """Add this command."""
    text = (
        "Attack a run with canaries, or the trainer's own step: the epsilon that attacks prove "
        "beside the one that is promised; exit status 1 if it is more."
    )
    parser = command("audit", _audit, text, "--self")
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="folder of a finished run of python -m trainer --canaries M",
    )
    parser.add_argument(
        "--self",
        dest="itself",
        action="store_true",
        help="attack the step of the installed trainer, many times on small inputs, instead of a "
        "run; needs torch",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="with --self: only the attacks that take seconds, not those that take minutes",
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="with --self: whole number that makes the audit repeatable (default: the randomness "
        "of real runs, another one each time)",
    )


def of_trainer(arguments: argparse.Namespace) -> Answer:
    """Attack the trainer's step with every attack of the battery; a row for each."""
    try:
        battery = import_module("trainer.attacks.battery")
    except ImportError as error:
        raise BoundError(MISSING.format(error)) from error
    attacks = [attack for attack in battery.battery() if attack.quick or not arguments.quick]
    rows = [battery.measure(attack, seed=arguments.seed) for attack in arguments.progress(attacks)]
    data = {
        "passed": all(row.passed for row in rows),
        "confidence": battery.CONFIDENCE,
        "attacks": [row._asdict() | {"passed": row.passed} for row in rows],
    }
    numbers = f"{'delta':>7}{'found':>9}{'possible':>10}{'promised':>10}{'experiments':>13}"
    lines = [f"{'attack on the trainer':34}{numbers}"]
    for row in rows:
        measured = up(row.found, 4, ROUND_FLOOR)
        possible = up(row.lower, 4, ROUND_FLOOR)
        promised = up(row.upper, 4)
        numbers = f"{row.delta:7g}{measured:>9}{possible:>10}{promised:>10}{row.experiments:13d}"
        lines.append(f"{row.name:34}{numbers}  {'passed' if row.passed else 'BROKEN'}")
    lines.append(
        f"found: lower bounds on epsilon, each at {battery.CONFIDENCE:.1%};"
        " possible: by the best attack"
    )
    return data, lines


def of_run(run: Path) -> Answer:
    """What the canaries of a run prove, also written to audit.json in its folder, where
    `mmaccount report` finds it."""
    from mmaccount.analysis.audit import CONFIDENCE, one_run
    from mmaccount.reporting.run_folder import load, spent

    source = load(run)
    canaries = files.read(run / "canaries.json", "canaries")
    ledger = source.ledger
    if ledger is None or not {"scores", "kept"} <= set(canaries):
        raise ValueError(f"{run} is not the folder of a run with canaries.")
    delta = source.plan.delta
    rows = one_run(canaries["scores"], canaries["kept"], delta=delta)
    promised = spent(ledger, delta=delta)
    lower = max(row.epsilon for row in rows)
    passed = lower <= promised.upper
    data = {
        "passed": passed,
        "lower": lower,
        "delta": delta,
        "confidence": CONFIDENCE,
        "canaries": len(canaries["kept"]),
        "seeded": ledger.seeded,
        "attacks": [row._asdict() for row in rows],
    }
    files.write(run / "audit.json", data)
    lines = [f"{'guessed by':20}{'guesses':>9}{'right':>8}{'epsilon >=':>12}   at delta {delta:g}"]
    for row in rows:
        epsilon = up(row.epsilon, 4, ROUND_FLOOR)
        lines.append(f"{row.name:20}{row.guesses:9d}{row.correct:8d}{epsilon:>12}")
    lines.append(
        f"{data['canaries']} canaries, all at once at {CONFIDENCE:.1%};"
        f" promised: epsilon <= {up(promised.upper)}  {'passed' if passed else 'BROKEN'}"
    )
    if ledger.seeded:
        lines.append("seeded: not private")
    return data, lines
