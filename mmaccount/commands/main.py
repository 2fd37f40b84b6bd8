"""The command `mmaccount`. Exit status: 0 done; 2 bad input, one line on standard error; 1 could
not finish, and why; 130 interrupted."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from decimal import ROUND_CEILING, ROUND_FLOOR
from math import isfinite
from typing import Any, NoReturn

from mmaccount.accounting import accountant
from mmaccount.analysis.calibrate import KNOBS, Infeasible, solve, solve_batch_size, solve_for
from mmaccount.analysis.comparison import Comparison, LawRow, compare, compare_laws
from mmaccount.analysis.sampling_schemes import SAMPLINGS, refuse_unless_poisson
from mmaccount.commands import advise, audit, draw, train
from mmaccount.commands.run_options import (
    RUN,
    STARTS,
    add_fast,
    add_number,
    add_run,
    options,
    settings,
)
from mmaccount.records import files, validate
from mmaccount.records.bound import Bound, BoundError, as_json, as_text, up
from mmaccount.records.settings import Settings
from mmaccount.terminal import Status, say_when_compiling

SOLVABLE = ("noise-multiplier", "steps", "sample-rate", "batch-size", "gap", "mixing", "truncation")
GDP_NOTE = (
    "a description, never a guarantee: the Gaussian mechanism with the same epsilon at this delta"
)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from importlib.metadata import version  # only now: it takes long to load

        print(f"mmaccount {version('mmaccount')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


# ------------------------------------------------------------------------------------ the commands


def _json_comparison(made: Comparison) -> dict[str, Any]:
    def finite(bound: Bound) -> float | None:
        return bound.upper if isfinite(bound.upper) else None

    return {
        "without_mixing": finite(made.without_mixing),
        "equal_noise": {
            "noise_multiplier": made.equal_noise_multiplier,
            "epsilon": finite(made.equal_noise),
        },
        "effective_noise_multiplier": made.effective_noise_multiplier,
    }


def _text_comparison(made: Comparison) -> list[str]:
    effective = made.effective_noise_multiplier
    plain, equal = up(made.without_mixing.upper), up(made.equal_noise.upper)
    lines = [
        f"  without mixing            epsilon <= {plain}  (noise_multiplier {made.noise_multiplier:g})",
        f"  plain DP-SGD, same energy epsilon <= {equal}  (noise_multiplier {made.equal_noise_multiplier:.4g})",
    ]
    if effective is not None:
        lines.append(
            f"  effective noise multiplier of a spread-out gradient: {effective:.4g} (a description, not a bound)"
        )
    return lines


def _epsilon(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    run = settings(options(arguments))
    refuse_unless_poisson(arguments.sampling, run, delta=arguments.delta)
    made = compare(run, delta=arguments.delta, tight=not arguments.fast)
    data = (
        as_json(made.as_given)
        | {"delta": arguments.delta, "settings": run.to_dict()}
        | _json_comparison(made)
    )
    lines = [
        as_text(made.as_given, "epsilon", f"delta {arguments.delta:g}"),
        *_text_comparison(made),
    ]
    if arguments.json or arguments.prior is not None:
        found, more = _meaning(run, made.as_given, arguments)
        data["meaning"] = found
        lines += more
    if arguments.exact or arguments.certificate is not None:
        data["exact"], more = _exact(run, made.as_given, arguments)
        lines += more
    return data, lines


def _exact(
    run: Settings, bound: Bound, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
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
    lines += [] if data["note"] is None else [f"  ({data['note']})"]
    if arguments.certificate is not None:
        files.write(arguments.certificate, proof)
        lines.append(f"  certificate written to {arguments.certificate}")
    return data, lines


def _meaning(
    run: Settings, bound: Bound, arguments: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.analysis.attacker import gdp_mu, meaning_of

    made = meaning_of(
        run, prior=0.5 if arguments.prior is None else arguments.prior, tight=not arguments.fast
    )
    mu = gdp_mu(bound.upper, arguments.delta) if isfinite(bound.upper) else None
    data = made.to_dict() | {"gdp_mu": {"value": mu, "note": GDP_NOTE}}
    rate, found = made.true_positive_rates[-1]
    lines = [
        f"  an attacker's best guess, prior {made.prior:g}: right with probability <= {up(made.bayes_success.upper)}; "
        f"advantage <= {up(made.advantage.upper)}",
        f"  true positive rate at false positive rate {rate:g} <= {up(found.upper)}",
    ]
    return data, lines


def _verify(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.certificates.certificate import check

    status, text = check(arguments.certificate)
    if status == 1:
        raise BoundError(text)
    if status == 2:
        raise ValueError(text)
    return {"proven": text}, [text]


def _delta(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    run = settings(options(arguments))
    bound = accountant.delta(run, epsilon=arguments.epsilon, tight=not arguments.fast)
    data = as_json(bound, "delta") | {"epsilon": arguments.epsilon, "settings": run.to_dict()}
    return data, [as_text(bound, "delta", f"epsilon {arguments.epsilon:g}")]


def _solve(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    name = arguments.knob.replace("-", "_")
    given, epsilon, delta = options(arguments), arguments.target_epsilon, arguments.delta
    tight = not arguments.fast
    value: float
    if name in ("batch_size", "gap"):
        value, found = _solve_training(given, name, epsilon, delta, tight)
    else:
        if name in ("sample_rate", "mixing") and given["dataset_size"] is not None:
            instead = {"sample_rate": "batch-size", "mixing": "gap"}[name]
            raise ValueError(f"with `--dataset-size` solve for {instead}, not {arguments.knob}.")
        given[name] = STARTS[name] if given[name] is None else given[name]
        found = solve(settings(given), name, epsilon=epsilon, delta=delta, tight=tight)
        value = getattr(found, name)
    bound = accountant.epsilon(found, delta=delta, tight=tight)
    data = {name: value} | as_json(bound) | {"delta": delta, "settings": found.to_dict()}
    private_is_high = name in ("noise_multiplier", "mixing", "gap", "truncation")
    shown = (
        f"{value:.0f}"
        if isinstance(value, int)
        else up(value, 7, ROUND_CEILING if private_is_high else ROUND_FLOOR)
    )
    return data, [f"{name} = {shown}", as_text(bound, "epsilon", f"delta {delta:g}")]


def _solve_training(
    given: dict[str, Any], name: str, epsilon: float, delta: float, tight: bool
) -> tuple[float, Settings]:
    """Solve for an option that only the training form has: batch_size (whole) or gap."""
    if given["dataset_size"] is None:
        raise ValueError(
            f"`--dataset-size` is missing: solving for {name.replace('_', '-')} needs it."
        )

    def build(value: float) -> Settings:
        return settings(given | {name: value})

    if name == "batch_size":
        size = validate.count("dataset_size", given["dataset_size"])
        value: float = solve_batch_size(
            build, dataset_size=size, epsilon=epsilon, delta=delta, tight=tight
        )
    else:
        start = given["gap"] or STARTS["gap"]
        value = solve_for(
            build,
            KNOBS["mixing"],
            name="gap",
            start=start,
            epsilon=epsilon,
            delta=delta,
            tight=tight,
        )
    return value, build(value)


def _compare(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    run = settings(options(arguments))
    made = compare(run, delta=arguments.delta, tight=not arguments.fast)
    data = {
        "delta": arguments.delta,
        "settings": run.to_dict(),
        "noise_multiplier": made.noise_multiplier,
    }
    data |= as_json(made.as_given) | _json_comparison(made)
    rows = [
        ("as given", made.noise_multiplier, made.as_given),
        ("without mixing", made.noise_multiplier, made.without_mixing),
        ("plain, equal noise energy", made.equal_noise_multiplier, made.equal_noise),
    ]
    lines = [
        f"{'':26}{'noise multiplier':>17}{'epsilon >=':>12}{'epsilon <=':>12}   at delta {arguments.delta:g}"
    ]
    for name, z, bound in rows:
        lower = "?" if bound.lower is None else up(bound.lower, rounding=ROUND_FLOOR)
        lines.append(f"{name:26}{z:17.4g}{lower:>12}{up(bound.upper):>12}")
    if made.effective_noise_multiplier is not None:
        lines.append(
            f"{'effective (spread-out)':26}{made.effective_noise_multiplier:17.4g}   a description, not a bound"
        )
    laws = compare_laws(run, delta=arguments.delta)
    data["laws"] = [
        {"law": row.law, "matched": row.matched, "mixing": row.settings.mixing} | as_json(row.bound)
        for row in laws
    ]
    return data, lines + _text_laws(laws)


def _text_laws(laws: list[LawRow]) -> list[str]:
    if not laws:
        return []
    lines = [
        f"{'other mixing laws':26}{'mixing':>17}{'epsilon >=':>12}{'epsilon <=':>12}   by the bounds of --fast"
    ]
    named = {"itself": "", "support": ", same width", "variance": ", same energy"}
    for row in laws:
        lower = "?" if row.bound.lower is None else up(row.bound.lower, rounding=ROUND_FLOOR)
        name = row.law + named[row.matched]
        lines.append(f"{name:26}{row.settings.mixing:17.4g}{lower:>12}{up(row.bound.upper):>12}")
    return lines


def _reproduce(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    from mmaccount.analysis.paper import CUT, integration_range, one_hot_cut, rows

    found, cut, one_hot = rows(), integration_range(), one_hot_cut()
    lines = [
        f"{'arXiv 2210.03843, delta 1e-5':34}{'paper':>8}{'its way':>10}{'our bound':>11}   its way is"
    ]
    lines += [
        f"{row.name:34}{row.paper:8.1f}{row.paper_way:10.3f}{up(row.bound, 5):>11}   {row.way}"
        for row in found
    ]
    lines += [
        "",
        "Our bound: integer orders as far as needed, the AM-GM bound between 1 and 2, the better conversion; exact without",
        "mixing. p 1: the paper's figures lie up to 1.6 % below its way on the full range. Cut "
        f"{CUT:g} std past the edge, the",
        f"integral gives {', '.join(f'{epsilon:.2f}' for epsilon in one_hot.values())}.",
        f"Range: the authors' script integrates over +-(L/2 + 8), too short once order * shift > 8. At {cut.settings}",
        f"  it gives {cut.script_range:.2f}; the same orders and conversion on the full range give {cut.full_range:.2f}.",
    ]
    data = {"figures": [asdict(row) for row in found], "integration_range": asdict(cut)}
    return data | {"one_hot_cut": {f"{gap:g}": epsilon for gap, epsilon in one_hot.items()}}, lines


# -------------------------------------------------------------------------------------- the parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mmaccount", description="Price, solve and compare DP-SGD and ModelMix runs."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )

    def command(
        name: str, action: Callable[..., Any], text: str, example: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"Example: mmaccount {name} {example}".rstrip(),
        )
        made.set_defaults(action=action)
        made.add_argument(
            "--json", action="store_true", help="print one JSON object and nothing else"
        )
        return made

    made = command(
        "epsilon", _epsilon, "The epsilon of a run at a given delta.", f"{RUN} --delta 1e-5"
    )
    add_fast(made)
    add_run(made)
    add_number(made, "--delta", metavar="D", help="delta, in (0, 1)")
    made.add_argument(
        "--prior",
        type=float,
        metavar="P",
        help="say what an attacker can do; chance that the record is in",
    )
    made.add_argument(
        "--sampling",
        choices=SAMPLINGS,
        default=SAMPLINGS[0],
        help="all but poisson are refused, with what they cost",
    )
    made.add_argument(
        "--exact",
        action="store_true",
        help="recompute the best bound that can be certified in intervals",
    )
    made.add_argument(
        "--certificate", metavar="FILE", help="write a proof of that bound, for mmaccount verify"
    )
    made = command("delta", _delta, "The delta of a run at a given epsilon.", f"{RUN} --epsilon 8")
    add_fast(made)
    add_run(made)
    add_number(made, "--epsilon", metavar="E", help="epsilon, 0 or more")
    text = "The least private value of one setting that meets a target."
    made = command(
        "solve", _solve, text, f"--for noise-multiplier --target-epsilon 3 --delta 1e-5 {RUN}"
    )
    add_fast(made)
    made.add_argument(
        "--for", dest="knob", choices=SOLVABLE, required=True, help="what to solve for"
    )
    add_number(made, "--target-epsilon", metavar="E", help="epsilon to stay within, above 0")
    add_number(made, "--delta", metavar="D", help="delta, in (0, 1)")
    add_run(made)
    text = "The run, the same without mixing, and plain DP-SGD with the same noise energy."
    made = command("compare", _compare, text, f"{RUN} --delta 1e-5")
    add_fast(made)
    add_run(made)
    add_number(made, "--delta", metavar="D", help="delta, in (0, 1)")
    made = command(
        "verify",
        _verify,
        "Check a certificate, computing all of it again in intervals.",
        "certificate.json",
    )
    made.add_argument("certificate", help="the file that mmaccount epsilon --certificate writes")
    train.add(command)
    advise.add(command)
    draw.add(command)
    audit.add(command)
    command("reproduce", _reproduce, "The published figures of the ModelMix paper beside ours.", "")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    say_when_compiling("mmaccount")
    try:
        with Status() as status:
            arguments.progress = status.counted
            data, lines = arguments.action(arguments)
    except (Infeasible, BoundError) as error:
        print(f"mmaccount: {error}", file=sys.stderr)
        return 1
    except (ArithmeticError, MemoryError) as error:
        print(f"mmaccount: too extreme to compute here: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"mmaccount: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmaccount: interrupted.", file=sys.stderr)
        return 130
    print(json.dumps(data, allow_nan=False) if arguments.json else "\n".join(lines))
    return 0 if data.get("passed", True) else 1
