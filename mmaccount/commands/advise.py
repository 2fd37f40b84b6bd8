"""The commands that advise: `mmaccount advise` and `mmaccount tune-cost`."""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmaccount.commands.run_options import (
    Answer,
    Command,
    add_delta,
    add_plans_delta,
    add_target_epsilon,
    check_picture,
)
from mmaccount.records import mixing_laws, validate
from mmaccount.records.adaptive_clipping import AdaptiveClipping
from mmaccount.records.bound import as_json, as_text, up
from mmaccount.records.plan import Plan

if TYPE_CHECKING:
    from mmaccount.advice.recommendation import Advice
    from mmaccount.advice.sensitivity import Variation

LINE_WIDTH = 110
ADVISE_OPTIONS = (
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


def number_or_auto(text: str) -> float | str:
    """A number or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number or auto, got {text!r}") from None


def add_adaptive(parser: argparse.ArgumentParser) -> None:
    """Add the options of a plan whose clip norm follows the gradients."""
    clipping = parser.add_argument_group(
        "adaptive clipping: the clip norm starts at --clip-norm and follows the gradients"
    )
    clipping.add_argument(
        "--adaptive-clipping",
        type=float,
        metavar="QUANTILE",
        help="let the clip norm follow this quantile of the gradient norms, in (0, 1): the share "
        "of gradients that are not to be clipped; noisy counts of them are released, which the "
        "price includes",
    )
    clipping.add_argument(
        "--count-noise",
        type=float,
        metavar="S",
        help="with --adaptive-clipping: standard deviation of the noise on each of these counts, "
        "in records, above 0 (default: batch size / 20, but at least half its root)",
    )
    clipping.add_argument(
        "--clip-rate",
        type=float,
        default=0.2,
        metavar="R",
        help="with --adaptive-clipping: how fast the clip norm follows, above 0; a step changes "
        "it by about a factor exp(R) at most (default: 0.2)",
    )


def adaptive(arguments: argparse.Namespace, batch_size: float) -> AdaptiveClipping | None:
    """The adaptive clipping that the options of `add_adaptive` ask for; None if they do not."""
    if arguments.adaptive_clipping is None:
        if arguments.count_noise is not None:
            raise ValueError("`--count-noise` needs `--adaptive-clipping` beside it.")
        return None
    usual = AdaptiveClipping.usual(batch_size, arguments.adaptive_clipping, arguments.clip_rate)
    if arguments.count_noise is None:
        return usual
    return replace(usual, noise=arguments.count_noise)


# ------------------------------------------------------------------------------------------ advise


def _advise(arguments: argparse.Namespace) -> Answer:
    from mmaccount.advice.advisor import advise
    from mmaccount.advice.sensitivity import variations

    if arguments.picture is not None:
        check_picture("picture", arguments.picture)
    advice = advise(
        arguments.probe,
        dataset_size=arguments.dataset_size,
        epsilon=arguments.target_epsilon,
        delta=arguments.delta,
        **{name: getattr(arguments, name) for name in ADVISE_OPTIONS},
    )
    advice.plan.save(arguments.out)
    rows = variations(advice)
    if arguments.picture is not None:
        from mmaccount.reporting.plot_advice import figure

        figure(advice, rows).savefig(arguments.picture)
    data = as_json(advice.bound) | {
        "delta": advice.plan.delta,
        "plan": advice.plan.to_dict(),
        "fingerprint": advice.plan.fingerprint,
        "reasons": advice.reasons,
        "rejected": advice.rejected,
        "around": [row.to_dict() for row in rows],
        "curve": advice.curve(),
    }
    price = as_text(advice.bound, "epsilon", f"delta {advice.plan.delta:g}")
    return data, [f"{arguments.out}: {price}", *_reasons(advice), *_table_around(advice, rows)]


def _reasons(advice: "Advice") -> list[str]:
    return [
        "because",
        *(_indented(name, text) for name, text in advice.reasons.items()),
        "rejected",
        *(_indented(name, text) for name, text in advice.rejected.items()),
        *(_indented("assumed", text) for text in advice.plan.assumptions),
    ]


def _indented(name: str, text: str) -> str:
    return textwrap.fill(
        text, LINE_WIDTH, initial_indent=f"  {name:18} ", subsequent_indent=" " * 21
    )


def _table_around(advice: "Advice", rows: Sequence["Variation"]) -> list[str]:
    numbers = f"{'times':>7}{'value':>11}{'epsilon <=':>12}{'remaining':>11}{'first step':>12}"
    lines = [f"{'around':18}{numbers}"]
    if advice.plan.phases[0].gap:
        lines.append("  (with a gap epsilon by the bounds of --fast, also at times 1)")
    for row in rows:
        remaining, first = _or_unknown(row.remaining), _or_unknown(row.first)
        numbers = f"{row.factor:7.3g}{row.value:11.4g}{up(row.epsilon):>12}"
        lines.append(f"  {row.knob:16}{numbers}{remaining:>11}{first:>12}")
    return lines


def _or_unknown(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


# --------------------------------------------------------------------------------------- tune-cost


def _tune_cost(arguments: argparse.Namespace) -> Answer:
    from mmaccount.accounting.accountant import epsilon
    from mmaccount.analysis.tuning import tune_cost

    plan = Plan.load(arguments.plan)
    delta = plan.delta
    if arguments.delta is not None:
        delta = validate.probability("delta", arguments.delta)
    costs = tune_cost(plan.settings(), tries=arguments.tries, delta=delta)
    one = epsilon(plan.settings(), delta=delta)
    data: dict[str, Any] = {
        "delta": delta,
        "tries": arguments.tries,
        "one": as_json(one)["epsilon"],
        "laws": [{"law": cost.law, "epsilon": cost.epsilon, "gamma": cost.gamma} for cost in costs],
    }
    lines = [
        f"one run: epsilon <= {up(one.upper)} at delta {delta:g};"
        f" the best of {arguments.tries:g} on average, by law:"
    ]
    for cost in costs:
        gamma = "" if cost.gamma is None else f"  (gamma {cost.gamma:.6g})"
        lines.append(f"  {cost.law:30} epsilon <= {up(cost.epsilon)}{gamma}")
    lines.append(
        "Composed: exactly so many, and all may be published. Else K is drawn and only the best is."
    )
    return data, lines


# ------------------------------------------------------------------------------------- the options


def add(command: Command) -> None:
    """Add these commands."""
    _add_advise(command)
    _add_tune_cost(command)


def _add_advise(command: Command) -> None:
    text = (
        "A plan from per-record gradients: clip norm, noise, batch, steps, learning rate and gap, "
        "with reasons."
    )
    example = (
        "--dataset-size 50000 --target-epsilon 3 --delta 1e-5 --probe probe.npz --out plan.json"
    )
    parser = command("advise", _advise, text, example)
    parser.add_argument(
        "--dataset-size",
        type=float,
        required=True,
        metavar="N",
        help="number of records in the training set, at least 1",
    )
    add_target_epsilon(parser)
    add_delta(parser)
    parser.add_argument(
        "--probe",
        required=True,
        metavar="FILE",
        help="gradients to learn from: the file that python -m trainer --probe writes, or an "
        "array (.npy, .npz) of m rows, each the gradient of one public record",
    )
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="the plan is written here, as JSON"
    )
    parser.add_argument(
        "--epochs",
        type=float,
        default=100.0,
        help="most passes over the training set that the plan may take, above 0 (default: 100)",
    )
    parser.add_argument(
        "--gap",
        type=number_or_auto,
        default="auto",
        metavar="G",
        help="mixing threshold tau of ModelMix / learning rate, 0 or more, where 0 is plain "
        "DP-SGD; auto chooses (default: auto)",
    )
    parser.add_argument(
        "--batch-size",
        type=float,
        metavar="B",
        help="expected number of records in a batch, at most N (default: advised)",
    )
    parser.add_argument(
        "--steps", type=float, metavar="T", help="number of steps, at least 1 (default: advised)"
    )
    parser.add_argument(
        "--clip-norm",
        type=float,
        metavar="C",
        help="l2 norm that the gradient of each record is clipped to, above 0 (default: advised)",
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        metavar="ETA",
        help="learning rate, above 0: multiplies the noisy average of gradients (default: advised)",
    )
    parser.add_argument(
        "--loss",
        type=float,
        metavar="R",
        help="how far the training loss can fall from its value at the start, above 0; needed if "
        "the probe does not know it",
    )
    parser.add_argument(
        "--mixing-law",
        default=mixing_laws.UNIFORM,
        metavar="LAW",
        help="distribution of the mixing coefficients where there is a gap: uniform (the paper's), "
        "raised-cosine, or beta-B with B from 1 to 10, as in beta-2 (default: uniform)",
    )
    parser.add_argument(
        "--adaptive-clipping",
        type=float,
        nargs="?",
        const=0.5,
        metavar="QUANTILE",
        help="let the clip norm follow this quantile of the gradient norms, in (0, 1), 0.5 if the "
        "option stands alone; noisy counts are released, which the price includes; not with a gap",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="draw here, .png or .svg, what is expected at settings around the advised ones",
    )


def _add_tune_cost(command: Command) -> None:
    text = (
        "What it costs to train several times and publish the best, for several laws of the number "
        "of tries."
    )
    parser = command("tune-cost", _tune_cost, text, "plan.json --tries 25")
    parser.add_argument("plan", help="the plan that each try carries out, a JSON file")
    parser.add_argument(
        "--tries",
        type=float,
        required=True,
        metavar="K",
        help="number of tries, at least 1; where their number is random, its mean",
    )
    add_plans_delta(parser)
