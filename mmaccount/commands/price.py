"""The commands that price a run: `mmaccount epsilon`, `delta`, `solve`, `compare`, `verify` and
`reproduce`."""

import argparse
from dataclasses import asdict
from decimal import ROUND_CEILING, ROUND_FLOOR
from math import isfinite
from typing import TYPE_CHECKING, Any

from mmaccount.commands.run_options import (
    RUN,
    STARTS,
    Answer,
    Command,
    add_delta,
    add_fast,
    add_number,
    add_run,
    add_target_epsilon,
    options,
    settings,
)
from mmaccount.records import files, validate
from mmaccount.records.bound import Bound, BoundError, as_json, as_text, up
from mmaccount.records.settings import SAMPLINGS, Settings

if TYPE_CHECKING:
    from mmaccount.analysis.comparison import Comparison, LawRow

SOLVABLE = ("noise-multiplier", "steps", "sample-rate", "batch-size", "gap", "mixing", "truncation")
PRIVATE_IS_HIGH = ("noise_multiplier", "mixing", "gap", "truncation")
DEFAULT_PRIOR = 0.5
GDP_NOTE = (
    "a description, never a guarantee: the Gaussian mechanism with the same epsilon at this delta"
)


# ------------------------------------------------------------------------------- epsilon and delta


def _epsilon(arguments: argparse.Namespace) -> Answer:
    from mmaccount.analysis.comparison import compare
    from mmaccount.analysis.sampling_schemes import refuse_unless_poisson

    delta = arguments.delta
    run = settings(options(arguments))
    refuse_unless_poisson(arguments.sampling, run, delta=delta)
    comparison = compare(run, delta=delta, tight=not arguments.fast)
    bound = comparison.as_given
    data = as_json(bound) | {"delta": delta, "settings": run.to_dict()}
    data |= _json_comparison(comparison)
    lines = [as_text(bound, "epsilon", f"delta {delta:g}"), *_text_comparison(comparison)]
    if arguments.json or arguments.prior is not None:
        data["meaning"], more = _meaning(run, bound, arguments)
        lines += more
    if arguments.exact or arguments.certificate is not None:
        data["exact"], more = _exact(run, bound, arguments)
        lines += more
    return data, lines


def _json_comparison(comparison: "Comparison") -> dict[str, Any]:
    def finite(bound: Bound) -> float | None:
        return bound.upper if isfinite(bound.upper) else None

    return {
        "without_mixing": finite(comparison.without_mixing),
        "equal_noise": {
            "noise_multiplier": comparison.equal_noise_multiplier,
            "epsilon": finite(comparison.equal_noise),
        },
        "effective_noise_multiplier": comparison.effective_noise_multiplier,
    }


def _text_comparison(comparison: "Comparison") -> list[str]:
    plain = up(comparison.without_mixing.upper)
    equal = up(comparison.equal_noise.upper)
    effective = comparison.effective_noise_multiplier
    lines = [
        f"  without mixing            epsilon <= {plain}"
        f"  (noise_multiplier {comparison.noise_multiplier:g})",
        f"  plain DP-SGD, same energy epsilon <= {equal}"
        f"  (noise_multiplier {comparison.equal_noise_multiplier:.4g})",
    ]
    if effective is not None:
        lines.append(
            f"  effective noise multiplier of a spread-out gradient: {effective:.4g}"
            " (a description, not a bound)"
        )
    return lines


def _meaning(
    run: Settings, bound: Bound, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """What an attacker can do, for JSON and in words."""
    from mmaccount.analysis.attacker import gdp_mu, meaning_of

    prior = DEFAULT_PRIOR if arguments.prior is None else arguments.prior
    meaning = meaning_of(run, prior=prior, tight=not arguments.fast)
    mu = gdp_mu(bound.upper, arguments.delta) if isfinite(bound.upper) else None
    data = meaning.to_dict() | {"gdp_mu": {"value": mu, "note": GDP_NOTE}}
    false_rate, true_rate = meaning.true_positive_rates[-1]
    lines = [
        f"  an attacker's best guess, prior {meaning.prior:g}: "
        f"right with probability <= {up(meaning.bayes_success.upper)}; "
        f"advantage <= {up(meaning.advantage.upper)}",
        f"  true positive rate at false positive rate {false_rate:g} <= {up(true_rate.upper)}",
    ]
    return data, lines


def _exact(
    run: Settings, bound: Bound, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """The bound computed again in intervals, for JSON and in words; its proof goes to a file."""
    from mmaccount.certificates.certificate import certify, enclosure, method, note

    proof = certify(run, delta=arguments.delta)
    lower, upper = enclosure(proof)
    data = {
        "lower": lower,
        "upper": upper,
        "by": method(proof),
        "order": proof.get("order"),
        "note": note(proof, bound),
    }
    lines = [f"  in intervals, {data['by']}: {lower} <= bound <= {upper}"]
    if data["note"] is not None:
        lines.append(f"  ({data['note']})")
    if arguments.certificate is not None:
        files.write(arguments.certificate, proof)
        lines.append(f"  certificate written to {arguments.certificate}")
    return data, lines


def _delta(arguments: argparse.Namespace) -> Answer:
    from mmaccount.accounting import accountant

    run = settings(options(arguments))
    bound = accountant.delta(run, epsilon=arguments.epsilon, tight=not arguments.fast)
    data = as_json(bound, "delta") | {"epsilon": arguments.epsilon, "settings": run.to_dict()}
    return data, [as_text(bound, "delta", f"epsilon {arguments.epsilon:g}")]


def _verify(arguments: argparse.Namespace) -> Answer:
    from mmaccount.certificates.certificate import check

    status, text = check(arguments.certificate)
    if status == 1:
        raise BoundError(text)
    if status == 2:
        raise ValueError(text)
    return {"proven": text}, [text]


# ------------------------------------------------------------------------------------------- solve


def _solve(arguments: argparse.Namespace) -> Answer:
    from mmaccount.accounting import accountant
    from mmaccount.analysis.calibrate import solve

    name = arguments.knob.replace("-", "_")
    epsilon, delta = arguments.target_epsilon, arguments.delta
    tight = not arguments.fast
    given = options(arguments)
    value: float
    if name in ("batch_size", "gap"):
        value, run = _solve_training(given, name, epsilon, delta, tight)
    else:
        if name in ("sample_rate", "mixing") and given["dataset_size"] is not None:
            instead = {"sample_rate": "batch-size", "mixing": "gap"}[name]
            raise ValueError(f"with `--dataset-size` solve for {instead}, not {arguments.knob}.")
        if given[name] is None:
            given[name] = STARTS[name]
        run = solve(settings(given), name, epsilon=epsilon, delta=delta, tight=tight)
        value = getattr(run, name)
    bound = accountant.epsilon(run, delta=delta, tight=tight)
    data = {name: value} | as_json(bound) | {"delta": delta, "settings": run.to_dict()}
    return data, [
        f"{name} = {_to_the_private_side(name, value)}",
        as_text(bound, "epsilon", f"delta {delta:g}"),
    ]


def _to_the_private_side(name: str, value: float) -> str:
    """A solution to print, rounded so that the target still holds."""
    if isinstance(value, int):
        return f"{value:.0f}"
    return up(value, 7, ROUND_CEILING if name in PRIVATE_IS_HIGH else ROUND_FLOOR)


def _solve_training(
    given: dict[str, Any], name: str, epsilon: float, delta: float, tight: bool
) -> tuple[float, Settings]:
    """Solve for an option that only the training form has: batch_size (whole) or gap."""
    from mmaccount.analysis.calibrate import KNOBS, solve_batch_size, solve_for

    if given["dataset_size"] is None:
        option = name.replace("_", "-")
        raise ValueError(f"`--dataset-size` is missing: solving for {option} needs it.")

    def build(value: float) -> Settings:
        return settings(given | {name: value})

    if name == "batch_size":
        size = validate.count("dataset_size", given["dataset_size"])
        batch_size = solve_batch_size(
            build, dataset_size=size, epsilon=epsilon, delta=delta, tight=tight
        )
        return batch_size, build(batch_size)
    gap = solve_for(
        build,
        KNOBS["mixing"],
        name="gap",
        start=given["gap"] or STARTS["gap"],
        epsilon=epsilon,
        delta=delta,
        tight=tight,
    )
    return gap, build(gap)


# ----------------------------------------------------------------------------------------- compare


def _compare(arguments: argparse.Namespace) -> Answer:
    from mmaccount.analysis.comparison import compare, compare_laws

    delta = arguments.delta
    run = settings(options(arguments))
    comparison = compare(run, delta=delta, tight=not arguments.fast)
    laws = compare_laws(run, delta=delta)
    data = {
        "delta": delta,
        "settings": run.to_dict(),
        "noise_multiplier": comparison.noise_multiplier,
    }
    data |= as_json(comparison.as_given) | _json_comparison(comparison)
    data["laws"] = [
        {"law": row.law, "matched": row.matched, "mixing": row.settings.mixing} | as_json(row.bound)
        for row in laws
    ]
    return data, _table_of_runs(comparison, delta) + _table_of_laws(laws)


def _table_of_runs(comparison: "Comparison", delta: float) -> list[str]:
    z, equal_z = comparison.noise_multiplier, comparison.equal_noise_multiplier
    rows = [
        ("as given", z, comparison.as_given),
        ("without mixing", z, comparison.without_mixing),
        ("plain, equal noise energy", equal_z, comparison.equal_noise),
    ]
    lines = [_row("", "noise multiplier", "epsilon >=", "epsilon <=") + f"   at delta {delta:g}"]
    lines += [_row(name, f"{noise:.4g}", *_sides(bound)) for name, noise, bound in rows]
    effective = comparison.effective_noise_multiplier
    if effective is not None:
        lines.append(f"{'effective (spread-out)':26}{effective:17.4g}   a description, not a bound")
    return lines


def _table_of_laws(laws: list["LawRow"]) -> list[str]:
    if not laws:
        return []
    matched = {"itself": "", "support": ", same width", "variance": ", same energy"}
    head = _row("other mixing laws", "mixing", "epsilon >=", "epsilon <=")
    return [
        f"{head}   by the bounds of --fast",
        *(
            _row(row.law + matched[row.matched], f"{row.settings.mixing:.4g}", *_sides(row.bound))
            for row in laws
        ),
    ]


def _sides(bound: Bound) -> tuple[str, str]:
    """Lower and upper bound, each rounded to its safe side."""
    lower = "?" if bound.lower is None else up(bound.lower, rounding=ROUND_FLOOR)
    return lower, up(bound.upper)


def _row(name: str, value: str, lower: str, upper: str) -> str:
    return f"{name:26}{value:>17}{lower:>12}{upper:>12}"


# --------------------------------------------------------------------------------------- reproduce


def _reproduce(arguments: argparse.Namespace) -> Answer:
    from mmaccount.analysis.paper import CUT_PAST_EDGE, integration_range, one_hot_cut, rows

    figures, cut, one_hot = rows(), integration_range(), one_hot_cut()
    head = f"{'paper':>8}{'its way':>10}{'our bound':>11}   its way is"
    lines = [f"{'arXiv 2210.03843, delta 1e-5':34}{head}"]
    for row in figures:
        numbers = f"{row.paper:8.1f}{row.paper_way:10.3f}{up(row.bound, 5):>11}"
        lines.append(f"{row.name:34}{numbers}   {row.way}")
    cut_values = ", ".join(f"{epsilon:.2f}" for epsilon in one_hot.values())
    lines += [
        "",
        "Our bound: integer orders as far as needed, the AM-GM bound between 1 and 2, the better"
        " conversion; exact without",
        "mixing. p 1: the paper's figures lie up to 1.6 % below its way on the full range."
        f" Cut {CUT_PAST_EDGE:g} std past the edge, the",
        f"integral gives {cut_values}.",
        "Range: the authors' script integrates over +-(L/2 + 8), too short once order * shift > 8."
        f" At {cut.settings}",
        f"  it gives {cut.script_range:.2f};"
        f" the same orders and conversion on the full range give {cut.full_range:.2f}.",
    ]
    data = {
        "figures": [asdict(row) for row in figures],
        "integration_range": asdict(cut),
        "one_hot_cut": {f"{gap:g}": epsilon for gap, epsilon in one_hot.items()},
    }
    return data, lines


# ------------------------------------------------------------------------------------- the options


def add(command: Command) -> None:
    """Add all of these commands but `reproduce`."""
    _add_epsilon(command)
    _add_delta(command)
    _add_solve(command)
    _add_compare(command)
    _add_verify(command)


def _add_epsilon(command: Command) -> None:
    text = "The epsilon of a run at a given delta."
    parser = command("epsilon", _epsilon, text, f"{RUN} --delta 1e-5")
    add_fast(parser)
    add_run(parser)
    add_delta(parser)
    parser.add_argument(
        "--prior",
        type=float,
        metavar="P",
        help="also print how well an attacker can guess whether one record was used, who gives "
        "that probability P, in (0, 1), beforehand (--json always shows it, by default for 0.5)",
    )
    parser.add_argument(
        "--sampling",
        choices=SAMPLINGS,
        default=SAMPLINGS[0],
        help="how batches are drawn; the guarantee holds for poisson alone, so the others are "
        "refused, with a message that says what they cost (default: poisson)",
    )
    parser.add_argument(
        "--exact",
        action="store_true",
        help="also compute epsilon in interval arithmetic at 50 digits, where every rounding "
        "error is enclosed; with mixing by Renyi moments, which are looser",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        help="do as --exact does, and write the proof to this JSON file, which mmaccount verify "
        "checks",
    )


def _add_delta(command: Command) -> None:
    text = "The delta of a run at a given epsilon."
    parser = command("delta", _delta, text, f"{RUN} --epsilon 8")
    add_fast(parser)
    add_run(parser)
    add_number(
        parser,
        "--epsilon",
        metavar="E",
        help="epsilon of the (epsilon, delta) guarantee, 0 or more",
    )


def _add_solve(command: Command) -> None:
    text = "The least private value of one setting with which a run meets a target epsilon."
    example = f"--for noise-multiplier --target-epsilon 3 --delta 1e-5 {RUN}"
    parser = command("solve", _solve, text, example)
    add_fast(parser)
    parser.add_argument(
        "--for",
        dest="knob",
        choices=SOLVABLE,
        required=True,
        help="the setting to solve for, all others fixed; its own option may be left out",
    )
    add_target_epsilon(parser)
    add_delta(parser)
    add_run(parser)


def _add_compare(command: Command) -> None:
    text = (
        "Epsilon of a run, of the run without mixing, and of plain DP-SGD with the same noise "
        "energy."
    )
    parser = command("compare", _compare, text, f"{RUN} --delta 1e-5")
    add_fast(parser)
    add_run(parser)
    add_delta(parser)


def _add_verify(command: Command) -> None:
    text = "Check a certificate of an epsilon: all of it is computed again in interval arithmetic."
    parser = command("verify", _verify, text, "certificate.json")
    parser.add_argument(
        "certificate", help="the JSON file that mmaccount epsilon --certificate wrote"
    )


def add_reproduce(command: Command) -> None:
    """Add `reproduce`, which is shown last."""
    text = "The published figures of the ModelMix paper beside ours."
    command("reproduce", _reproduce, text, "")
