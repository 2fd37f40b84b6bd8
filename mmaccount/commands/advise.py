"""The commands that advise: `mmaccount advise` and `mmaccount tune-cost`."""

import argparse
import textwrap
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mmaccount.commands.run_options import check_picture
from mmaccount.records import mixing_laws, validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.bound import as_json, as_text, up
from mmaccount.records.plan import Plan

WIDTH = 110


def number_or_auto(text: str) -> float | str:
    """A number or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or auto, got {text!r}") from None


def add_adaptive(parser: argparse.ArgumentParser) -> None:
    """Options of a plan whose clip norm follows the gradients."""
    clipping = parser.add_argument_group(
        "adaptive clipping: the clip norm starts at --clip-norm and follows the gradients"
    )
    clipping.add_argument(
        "--adaptive-clipping",
        type=float,
        metavar="QUANTILE",
        help="share of gradients not to clip, paid for",
    )
    clipping.add_argument(
        "--count-noise",
        type=float,
        metavar="S",
        help="noise on the count, in records (about B / 20)",
    )
    clipping.add_argument(
        "--clip-rate",
        type=float,
        default=0.2,
        metavar="R",
        help="how fast the clip norm follows (0.2)",
    )


def adaptive(arguments: argparse.Namespace, batch_size: float) -> AdaptiveClipping | None:
    """What these options ask for."""
    if arguments.adaptive_clipping is None:
        if arguments.count_noise is not None:
            raise ValueError("`--count-noise` needs `--adaptive-clipping` beside it.")
        return None
    made = AdaptiveClipping.usual(batch_size, arguments.adaptive_clipping, arguments.clip_rate)
    return made if arguments.count_noise is None else replace(made, noise=arguments.count_noise)


def _indented(name: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"  {name:18} ", subsequent_indent=" " * 21)


def _advise(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.advice.advisor import advise
    from mmaccount.advice.sensitivity import around

    if arguments.picture is not None:
        check_picture("picture", arguments.picture)
    options = (
        "epochs",
        "gap",
        "batch_size",
        "steps",
        "clip_norm",
        "learning_rate",
        "loss",
        "mixing_law",
        "adaptive_clipping",
    )
    advice = advise(
        arguments.probe,
        dataset_size=arguments.dataset_size,
        epsilon=arguments.target_epsilon,
        delta=arguments.delta,
        **{name: getattr(arguments, name) for name in options},
    )
    advice.plan.save(arguments.out)
    rows = around(advice)
    if arguments.picture is not None:
        from mmaccount.reporting.plot_advice import figure

        figure(advice, rows).savefig(arguments.picture)
    data = as_json(advice.bound) | {"delta": advice.plan.delta, "plan": advice.plan.to_dict()}
    data |= {
        "fingerprint": advice.plan.fingerprint,
        "reasons": advice.reasons,
        "rejected": advice.rejected,
    }
    data |= {"around": [row.to_dict() for row in rows], "curve": advice.curve()}
    lines = [
        f"{arguments.out}: " + as_text(advice.bound, "epsilon", f"delta {advice.plan.delta:g}"),
        "because",
    ]
    lines += [_indented(name, text) for name, text in advice.reasons.items()]
    lines += ["rejected", *(_indented(name, text) for name, text in advice.rejected.items())]
    lines += [_indented("assumed", text) for text in advice.plan.assumptions]
    lines += [
        f"{'around':18}{'times':>7}{'value':>11}{'epsilon <=':>12}{'remaining':>11}{'first step':>12}"
    ]
    if advice.plan.phases[0].gap:
        lines.append("  (with a gap epsilon by the bounds of --fast, also at times 1)")
    for row in rows:
        seen = ["?" if value is None else f"{value:.3g}" for value in (row.remaining, row.first)]
        lines.append(
            f"  {row.knob:16}{row.factor:7.3g}{row.value:11.4g}{up(row.epsilon):>12}{seen[0]:>11}{seen[1]:>12}"
        )
    return data, lines


def _tune_cost(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.accounting.accountant import epsilon
    from mmaccount.analysis.tuning import tune_cost

    plan = Plan.load(arguments.plan)
    delta = (
        plan.delta if arguments.delta is None else validate.probability("delta", arguments.delta)
    )
    costs = tune_cost(plan.settings(), tries=arguments.tries, delta=delta)
    one = epsilon(plan.settings(), delta=delta)
    data: dict[str, Any] = {
        "delta": delta,
        "tries": arguments.tries,
        "one": as_json(one)["epsilon"],
    }
    data["laws"] = [
        {"law": cost.law, "epsilon": cost.epsilon, "gamma": cost.gamma} for cost in costs
    ]
    lines = [
        f"one run: epsilon <= {up(one.upper)} at delta {delta:g}; the best of {arguments.tries:g} on average, by law:"
    ]
    for cost in costs:
        gamma = "" if cost.gamma is None else f"  (gamma {cost.gamma:.6g})"
        lines.append(f"  {cost.law:30} epsilon <= {up(cost.epsilon)}{gamma}")
    return data, [
        *lines,
        "Composed: exactly so many, and all may be published. Else K is drawn and only the best is.",
    ]


def add(command: Callable[[str, Callable[..., Any], str, str], argparse.ArgumentParser]) -> None:
    """Add the commands; `command(name, action, text, example)` makes the parser of one."""
    text = "A plan from per-record gradients: clip norm, noise, batch, steps, learning rate and gap, with reasons."
    example = (
        "--dataset-size 50000 --target-epsilon 3 --delta 1e-5 --probe probe.npz --out plan.json"
    )
    made = command("advise", _advise, text, example)
    made.add_argument(
        "--dataset-size", type=float, required=True, metavar="N", help="records in the training set"
    )
    made.add_argument(
        "--target-epsilon",
        type=float,
        required=True,
        metavar="E",
        help="epsilon to stay within, above 0",
    )
    made.add_argument("--delta", type=float, required=True, metavar="D", help="delta, in (0, 1)")
    made.add_argument(
        "--probe",
        required=True,
        metavar="FILE",
        help="of python -m trainer --probe, or one m x d array of gradients of public records (.npy, .npz)",
    )
    made.add_argument("--out", required=True, metavar="FILE", help="where the plan goes")
    made.add_argument(
        "--epochs",
        type=float,
        default=100.0,
        help="limit on compute, in passes over the data (100)",
    )
    made.add_argument(
        "--gap",
        type=number_or_auto,
        default="auto",
        metavar="G",
        help="mixing threshold / learning rate, or auto",
    )
    made.add_argument("--batch-size", type=float, metavar="B", help="fix the expected batch size")
    made.add_argument("--steps", type=float, metavar="T", help="fix the number of steps")
    made.add_argument("--clip-norm", type=float, metavar="C", help="fix the clip norm")
    made.add_argument("--learning-rate", type=float, metavar="ETA", help="fix the learning rate")
    made.add_argument(
        "--loss",
        type=float,
        metavar="R",
        help="how far the loss can fall, if the probe does not know",
    )
    made.add_argument(
        "--mixing-law",
        default=mixing_laws.UNIFORM,
        metavar="LAW",
        help="of a gap: uniform, raised-cosine or beta-B",
    )
    made.add_argument(
        "--adaptive-clipping",
        type=float,
        nargs="?",
        const=0.5,
        metavar="QUANTILE",
        help="let the clip norm follow a quantile of the gradients (0.5), paid for",
    )
    made.add_argument(
        "--picture", metavar="FILE", help="draw what is expected around the advice, .png or .svg"
    )
    text = "What it costs to train several times and publish the best, for several laws of the number of tries."
    made = command("tune-cost", _tune_cost, text, "plan.json --tries 25")
    made.add_argument("plan", help="the plan of one try")
    made.add_argument("--tries", type=float, required=True, metavar="K", help="tries, on average")
    made.add_argument(
        "--delta", type=float, metavar="D", help="delta, in (0, 1); default: the plan's"
    )
