"""The commands beside the trainer: `mmaccount plan` and `mmaccount spent`."""

import argparse
from dataclasses import replace
from decimal import ROUND_FLOOR

from mmaccount.commands import advise
from mmaccount.commands.run_options import (
    RUN,
    STARTS,
    Answer,
    Command,
    add_delta,
    add_number,
    add_planned_run,
    add_plans_delta,
    dashed,
    options,
    settings,
)
from mmaccount.records import validate
from mmaccount.records.bound import as_json, as_text, up
from mmaccount.records.ledger import Ledger
from mmaccount.records.plan import Phase, Plan


def _plan(arguments: argparse.Namespace) -> Answer:
    from mmaccount.accounting import accountant
    from mmaccount.analysis.calibrate import least_noise_multiplier

    given = options(arguments)
    for name in ("dataset_size", "batch_size", "clip_norm"):
        if given[name] is None:
            raise ValueError(f"`{dashed(name)}` is missing: a plan needs it.")
    if given["mixing"] is not None or given["noise"] != "gaussian":
        raise ValueError("a plan takes `--gap`, not `--mixing`, and Gaussian noise only.")
    if given["group_size"] != 1:
        raise ValueError(
            "a plan is priced for one record; ask mmaccount epsilon for a `--group-size`."
        )
    if (given["noise_multiplier"] is None) == (arguments.target_epsilon is None):
        raise ValueError("give one of `--noise-multiplier` and `--target-epsilon`.")
    if given["noise_multiplier"] is None:
        given["noise_multiplier"] = STARTS["noise_multiplier"]
    run = settings(given)
    adaptive = advise.adaptive(arguments, given["batch_size"])
    phase = Phase(
        steps=run.steps,
        noise_multiplier=run.noise_multiplier,
        clip_norm=given["clip_norm"],
        learning_rate=arguments.learning_rate,
        truncation=run.truncation,
        gap=given["gap"] or 0.0,
        mixing_law=run.mixing_law,
        adaptive=adaptive,
    )
    if arguments.target_epsilon is not None:
        least = least_noise_multiplier(
            run, adaptive, epsilon=arguments.target_epsilon, delta=arguments.delta
        )
        phase = replace(phase, noise_multiplier=least)
    plan = Plan(
        dataset_size=given["dataset_size"],
        sample_rate=run.sample_rate,
        batch_size=given["batch_size"],
        phases=(phase,),
        delta=arguments.delta,
        neighbours=run.neighbours,
        target_epsilon=arguments.target_epsilon,
    )
    bound = accountant.epsilon(plan.settings(), delta=plan.delta)
    plan.save(arguments.out)
    data = as_json(bound) | {
        "delta": plan.delta,
        "plan": plan.to_dict(),
        "fingerprint": plan.fingerprint,
    }
    head = f"{arguments.out}: {plan.steps} steps, noise_multiplier {up(phase.noise_multiplier, 7)}"
    if adaptive is not None:
        priced = up(phase.priced_noise_multiplier, 7, ROUND_FLOOR)
        head += f"; with counts of noise {adaptive.noise:g} it costs what {priced} would"
    return data, [head, as_text(bound, "epsilon", f"delta {plan.delta:g}")]


def _spent(arguments: argparse.Namespace) -> Answer:
    from mmaccount.reporting.run_folder import spent

    ledger = Ledger.load(arguments.ledger)
    plan = ledger.plan
    delta = (
        plan.delta if arguments.delta is None else validate.probability("delta", arguments.delta)
    )
    bound = spent(ledger, delta=delta)
    data = as_json(bound) | {
        "delta": delta,
        "charged": ledger.charged,
        "planned": plan.steps,
        "seeded": ledger.seeded,
        "fingerprint": plan.fingerprint,
        "settings": [phase.to_dict() for phase in ledger.settings()],
    }
    lines = [
        f"{ledger.charged} steps charged, {plan.steps} planned",
        as_text(bound, "epsilon", f"delta {delta:g}"),
    ]
    if ledger.seeded:
        lines.append("seeded: not private")
    return data, lines


def add(command: Command) -> None:
    """Add these commands."""
    _add_plan(command)
    _add_spent(command)


def _add_plan(command: Command) -> None:
    text = "A plan for python -m trainer, priced; with --target-epsilon the noise is solved for."
    example = f"{RUN} --learning-rate 0.15 --delta 1e-5 --out plan.json"
    parser = command("plan", _plan, text, example)
    add_planned_run(parser)
    advise.add_adaptive(parser)
    add_number(
        parser,
        "--learning-rate",
        metavar="ETA",
        help="learning rate, above 0: multiplies the noisy average of gradients",
    )
    add_delta(parser)
    parser.add_argument(
        "--target-epsilon",
        type=float,
        metavar="E",
        help="find the least --noise-multiplier with which the plan does not exceed this epsilon, "
        "above 0; give one of the two",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the plan is written here, as JSON"
    )


def _add_spent(command: Command) -> None:
    text = "The epsilon that a training run has spent so far, by its ledger."
    parser = command("spent", _spent, text, "run/ledger.json")
    parser.add_argument("ledger", help="ledger.json in the folder of a run of python -m trainer")
    add_plans_delta(parser)
