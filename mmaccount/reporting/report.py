"""A plan or a run as one page that needs nothing else: what it promises, what that rests on, what
it cost, how to redo it.

Everything that stands in files is text to this page. Numbers are priced again from plan and ledger;
what files say about privacy is not believed.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from mmaccount.accounting.accountant import epsilon
from mmaccount.analysis.attacker import meaning_of
from mmaccount.analysis.comparison import effective_noise_multiplier, of_equal_energy
from mmaccount.plots import CURVE_RATES, DPI, HEIGHT, WIDTH, Progress, equal_energy, trade_off_curve
from mmaccount.records.bound import Bound, up
from mmaccount.records.metrics import number
from mmaccount.records.plan import Plan
from mmaccount.records.settings import Settings
from mmaccount.reporting.html_page import (
    bullets,
    code,
    document,
    paragraph,
    picture,
    section,
    table,
)
from mmaccount.reporting.run_folder import Source, spent
from mmaccount.reporting.wording import RELATIONS, conditions, settings_rows, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIXING_SHARES = tuple(i / 4.0 for i in range(9))  # mixing of the picture, in that of the plan
PRICE = (
    "import mmaccount as mm; plan = mm.Plan.load('plan.json'); "
    "print(mm.epsilon(plan.settings(), delta=plan.delta))"
)
NOT_CHARGED = (
    "This is the price of the whole plan. Nothing has been charged yet, as far as this file knows."
)
SEEDED = "Seeded: its randomness can be repeated, so this run is not private. It is for tests."
LEARNT_BEFORE = "Learnt from the records before training, and paid for in the number above:"
MIXING_IS_NOISE = (
    "Mixing is noise as well. Noise of equal energy disturbs training as much as noise and mixing "
    "together; where its epsilon is smaller, plain DP-SGD is the better choice. The effective "
    "noise multiplier is that of plain noise which costs as much, where gradients are spread over "
    "very many coordinates and steps."
)
HOW_TO = (
    "Save the plan below as plan.json. Model, momentum and the like are options of the trainer; "
    "they change accuracy, not the guarantee. A run that is not seeded ends in other weights at "
    "the same price."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page, in ASCII, and the bound in its headline: of what was charged, or of a plan that was
    not carried out."""

    html: bytes
    bound: Bound
    plan: Plan


def report(source: Source, *, tight: bool = True, progress: Progress = iter) -> Report:
    """The page about a plan or a run.

    Args:
        source: what `load` has read.
        tight: False takes a second less where there is mixing, and is looser.
        progress: is given the parts of the page and passes them on, one at a time.
    """
    plan, ledger = source.plan, source.ledger
    planned = epsilon(plan.settings(), delta=plan.delta, tight=tight)
    bound = planned
    if ledger is not None and ledger.settings() != plan.settings():
        bound = spent(ledger, delta=plan.delta, tight=tight)
    parts: Sequence[Callable[[], str]] = (
        partial(_head, source, bound, planned),
        partial(_plan, plan),
        partial(_guarantee, source, bound, tight),
        partial(_comparison, plan, planned),
        partial(_course, source),
        partial(_ledger, source, bound),
        partial(_audit, source, tight),
        partial(_again, source),
    )
    written = [part() for part in progress(parts)]
    kind = "Plan" if ledger is None else "Run"
    return Report(html=document(f"{kind} {source.name}", *written), bound=bound, plan=plan)


def _stated(bound: Bound, plan: Plan) -> str:
    if not isfinite(bound.upper):
        return f"epsilon unbounded: {bound.reason}"
    return f"epsilon \u2264 {up(bound.upper)} at delta {plan.delta:g}"


def _head(source: Source, bound: Bound, planned: Bound) -> str:
    plan, ledger = source.plan, source.ledger
    parts = [paragraph(f"{_stated(bound, plan)}, for {RELATIONS[plan.neighbours]}", "headline")]
    if ledger is None:
        parts.append(paragraph(NOT_CHARGED))
    elif ledger.distinct < plan.steps:
        whole = _stated(planned, plan)
        parts.append(paragraph(f"The run is not finished; the whole plan has {whole}."))
    if ledger is not None and ledger.seeded:
        parts.append(paragraph(SEEDED, "warning"))
    target = plan.target_epsilon
    if target is not None and bound.upper <= target:
        parts.append(paragraph(f"Within the target that was set, epsilon {target:g}."))
    elif target is not None:
        parts.append(paragraph(f"Above the target that was set, epsilon {target:g}.", "warning"))
    return "".join(parts)


def _plan(plan: Plan) -> str:
    columns = ["value"]
    if len(plan.phases) > 1:
        columns = [f"phase {i}" for i in range(1, len(plan.phases) + 1)]
    return section(
        "The plan",
        *map(paragraph, words(plan)),
        table(["setting", *columns], settings_rows(plan)),
    )


def _guarantee(source: Source, bound: Bound, tight: bool) -> str:
    plan, ledger = source.plan, source.ledger
    parts = [_two_sides(bound)]
    if plan.releases:
        rows = [
            [one.what, f"{one.noise_multiplier:.6g}", f"{one.sample_rate:.6g}"]
            for one in plan.releases
        ]
        parts.append(paragraph(LEARNT_BEFORE))
        parts.append(table(["release", "noise multiplier", "sample rate"], rows))
    charged = plan.settings() if ledger is None else ledger.settings()
    if charged and isfinite(bound.upper):
        parts.append(_attacker(charged, tight))
    parts += [paragraph("Assumed:"), bullets(conditions(plan))]
    return section("What is guaranteed, and what that rests on", *parts)


def _two_sides(bound: Bound) -> str:
    order = "" if bound.order is None else f", order {bound.order:.4g}"
    lower = "none computed" if bound.lower is None else up(bound.lower, rounding=ROUND_FLOOR)
    rows = [
        ["proven: no attack gets above", up(bound.upper), bound.method + order],
        ["an attack that exists reaches", lower, bound.attack or ""],
    ]
    return table(["", "epsilon", "by"], rows)


def _attacker(runs: Sequence[Settings], tight: bool) -> str:
    meaning = meaning_of(runs, tight=tight)
    guess = "best guess whether a record is in, at even odds: right with probability"
    rows = [[guess, f"\u2264 {up(meaning.bayes_success.upper)}"]]
    for rate, true_rate in meaning.true_positive_rates:
        name = f"true positive rate at false positive rate {rate:g}"
        rows.append([name, f"\u2264 {up(true_rate.upper)}"])
    caption = (
        "What an attacker who wants to know whether one record is in can do: the closer to the "
        "dotted line, the less."
    )
    curve = _drawn(
        lambda ax: trade_off_curve(ax, runs, CURVE_RATES, tight=tight), "trade-off", caption
    )
    return table(["an attacker's", "bound"], rows) + curve


def _drawn(draw: "Callable[[Axes], object]", name: str, caption: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    draw(figure.subplots())
    return picture(figure, name, caption)


def _comparison(plan: Plan, planned: Bound) -> str:
    title = "Beside plain DP-SGD"
    runs = plan.settings()
    if not any(run.mixing for run in runs):
        return section(title, paragraph("The plan mixes nothing: it is plain DP-SGD."))
    releases, phases = runs[: len(plan.releases)], runs[len(plan.releases) :]

    def row(name: str, others: list[Settings]) -> list[str]:
        upper = epsilon(releases + others, delta=plan.delta).upper
        return [name, _multipliers(run.noise_multiplier for run in others), up(upper)]

    effective = _multipliers(effective_noise_multiplier(run) for run in phases)
    rows = [
        ["the plan", _multipliers(run.noise_multiplier for run in phases), up(planned.upper)],
        row("without mixing", [replace(run, mixing=0.0) for run in phases]),
        row("plain DP-SGD, noise of equal energy", [of_equal_energy(run) for run in phases]),
        ["effective (a description, not a bound)", effective, ""],
    ]
    parts = [table(["", "noise multiplier", "epsilon \u2264"], rows), paragraph(MIXING_IS_NOISE)]
    if len(runs) == 1:
        parts.append(_equal_energy(runs[0], plan.delta))
    return section(title, *parts)


def _multipliers(values: Iterable[float | None]) -> str:
    return ", ".join("?" if value is None else f"{value:.4g}" for value in values)


def _equal_energy(run: Settings, delta: float) -> str:
    widths = [share * run.mixing for share in MIXING_SHARES]
    caption = (
        "The same energy as noise alone or as noise and mixing; the plan's width is the fifth of "
        "nine points."
    )
    return _drawn(lambda ax: equal_energy(ax, run, widths, delta=delta), "equal-energy", caption)


def _course(source: Source) -> str:
    from mmaccount.reporting.plot_run import learning, spending

    plan, rows = source.plan, source.metrics
    caption = "Epsilon as the steps of the plan are taken, by a fast and looser bound."
    parts = [_drawn(lambda ax: spending(ax, plan), "spending", caption)]
    if rows:
        last = max(rows, key=lambda row: row["step"])
        caption = (
            f"Accuracy on held-out data; {last['accuracy']:.4f} after step {last['step']:.0f}."
        )
        parts.append(
            _drawn(
                lambda ax: learning(ax, rows, "accuracy", "held-out accuracy"), "accuracy", caption
            )
        )
        label = f"epsilon spent, delta = {plan.delta:g}"
        caption = "Epsilon as the run showed it on its way (upper bounds)."
        parts.append(_drawn(lambda ax: learning(ax, rows, "epsilon", label), "spent", caption))
    if source.said is not None:
        said = [
            [name.replace("_", " "), str(value)]
            for name, value in source.said.items()
            if name not in ("epsilon", "delta")
        ]
        parts.append(paragraph("What the trainer says about the run:"))
        parts.append(table(["", ""], said))
    return section("Over the steps", *parts)


def _ledger(source: Source, bound: Bound) -> str:
    plan, ledger = source.plan, source.ledger
    if ledger is None:
        return section("Ledger", paragraph("A plan has none: nothing has been carried out yet."))
    rows = [
        ["steps planned", f"{plan.steps:,}"],
        ["steps charged", f"{ledger.charged:,}"],
        [
            "of these redone after an interruption, and charged again",
            f"{ledger.charged - ledger.distinct:,}",
        ],
        ["steps not taken", f"{plan.steps - ledger.distinct:,}"],
        ["stretches of consecutive steps", f"{len(ledger.runs):,}"],
        ["releases before training", f"{len(plan.releases)}"],
        ["randomness", "seeded: not private" if ledger.seeded else "of the operating system"],
        ["cost of all of it", _stated(bound, plan)],
        ["fingerprint of the plan", plan.fingerprint],
    ]
    return section("Ledger", table(["", ""], rows))


def _audit(source: Source, tight: bool) -> str:
    if source.audit is None:
        return ""
    attacks = source.audit.get("attacks")
    rows = [one for one in attacks if isinstance(one, dict)] if isinstance(attacks, list) else []
    said = [
        [name.replace("_", " "), str(value)]
        for name, value in source.audit.items()
        if name != "attacks" or not rows
    ]
    parts = [_measured(source, tight), table(["", ""], said)]
    if rows:
        names = list(rows[0])
        parts.append(table(names, [[str(row.get(name, "")) for name in names] for row in rows]))
    return section("Audit", *parts)


def _measured(source: Source, tight: bool) -> str:
    """The lower bound of an audit of this run beside what the ledger claims at the same delta."""
    audit = source.audit or {}
    if audit.get("passed") is False:
        return paragraph("The audit failed: it refutes what is claimed.", "warning")
    lower, delta = number(audit.get("lower")), number(audit.get("delta"))
    if source.ledger is None or lower is None or delta is None or not 0.0 < delta < 1.0:
        return ""
    claim = spent(source.ledger, delta=delta, tight=tight).upper
    proven = up(max(lower, 0.0), rounding=ROUND_FLOOR)
    measured = f"Measured: epsilon \u2265 {proven} at delta {delta:g}; claimed: \u2264 {up(claim)}."
    if lower <= claim:
        return paragraph(f"{measured} The claim stands; an audit can refute it, never prove it.")
    return paragraph(
        f"{measured} The audit refutes the claim: this run did not do what its plan says.",
        "warning",
    )


def _again(source: Source) -> str:
    plan, ledger = source.plan, source.ledger
    data = "DATA" if source.said is None else shlex.quote(str(source.said.get("data", "DATA")))
    folder = "run" if ledger is None else shlex.quote(source.name)
    lines = [
        f'python -c "{PRICE}"',
        f"python -m trainer --plan plan.json --data {data} --out {folder}",
    ]
    if ledger is not None:
        lines.append(f"mmaccount spent {folder}/ledger.json")
    if len(plan.settings()) == 1:
        lines.insert(1, _compare_command(plan.settings()[0], plan.delta))
    lines.append(f"mmaccount report {'plan.json' if ledger is None else folder} --out report.html")
    stored = plan.to_dict() | {"fingerprint": plan.fingerprint}
    return section(
        "How to do it again",
        paragraph(HOW_TO),
        code("\n".join(lines)),
        code(json.dumps(stored, indent=1)),
    )


def _compare_command(run: Settings, delta: float) -> str:
    given = {name: value for name, value in run.to_dict().items() if name != "group_size"}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    return f"mmaccount compare {options} --delta {delta}"
