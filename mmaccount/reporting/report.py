"""A plan or a run as one page that needs nothing else: what it promises, what that rests on, what
it cost, how to redo it.

Everything that stands in files is text to this page. Numbers are priced again from plan and ledger;
what files say about privacy is not believed.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR
from functools import partial
from math import isfinite
from typing import TYPE_CHECKING

from mmaccount.accounting.accountant import epsilon
from mmaccount.analysis.attacker import meaning_of
from mmaccount.analysis.comparison import effective_noise_multiplier, of_equal_energy
from mmaccount.plots import DPI, HEIGHT, RATES, WIDTH, Progress, equal_energy, trade_off_curve
from mmaccount.records.bound import Bound, up
from mmaccount.records.plan import Plan
from mmaccount.records.settings import Settings
from mmaccount.reporting import html_page
from mmaccount.reporting.run_folder import Source, number, spent
from mmaccount.reporting.wording import RELATIONS, conditions, settings_rows, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS = tuple(i / 4.0 for i in range(9))  # mixing of the picture, in that of the plan
PRICE = "import mmaccount as mm; plan = mm.Plan.load('plan.json'); print(mm.epsilon(plan.settings(), delta=plan.delta))"


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
        source: of `load`.
        tight: as for `epsilon`; False takes a second less where there is mixing, and is looser.
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
    made = [part() for part in progress(parts)]
    kind = "Plan" if ledger is None else "Run"
    return Report(html=html_page.document(f"{kind} {source.name}", *made), bound=bound, plan=plan)


def _stated(bound: Bound, plan: Plan) -> str:
    return (
        f"epsilon \u2264 {up(bound.upper)} at delta {plan.delta:g}"
        if isfinite(bound.upper)
        else f"epsilon unbounded: {bound.reason}"
    )


def _head(source: Source, bound: Bound, planned: Bound) -> str:
    plan, ledger = source.plan, source.ledger
    made = [
        html_page.paragraph(f"{_stated(bound, plan)}, for {RELATIONS[plan.neighbours]}", "headline")
    ]
    if ledger is None:
        made.append(
            html_page.paragraph(
                "This is the price of the whole plan. Nothing has been charged yet, as far as this file knows."
            )
        )
    elif ledger.distinct < plan.steps:
        made.append(
            html_page.paragraph(
                f"The run is not finished; the whole plan has {_stated(planned, plan)}."
            )
        )
    if ledger is not None and ledger.seeded:
        made.append(
            html_page.paragraph(
                "Seeded: its randomness can be repeated, so this run is not private. It is for tests.",
                "warning",
            )
        )
    target = plan.target_epsilon
    if target is not None and bound.upper <= target:
        made.append(html_page.paragraph(f"Within the target that was set, epsilon {target:g}."))
    elif target is not None:
        made.append(
            html_page.paragraph(f"Above the target that was set, epsilon {target:g}.", "warning")
        )
    return "".join(made)


def _plan(plan: Plan) -> str:
    columns = (
        [f"phase {i}" for i in range(1, len(plan.phases) + 1)]
        if len(plan.phases) > 1
        else ["value"]
    )
    return html_page.section(
        "The plan",
        *map(html_page.paragraph, words(plan)),
        html_page.table(["setting", *columns], settings_rows(plan)),
    )


def _guarantee(source: Source, bound: Bound, tight: bool) -> str:
    plan, ledger = source.plan, source.ledger
    order = "" if bound.order is None else f", order {bound.order:.4g}"
    lower = "none computed" if bound.lower is None else up(bound.lower, rounding=ROUND_FLOOR)
    parts = [
        html_page.table(
            ["", "epsilon", "by"],
            [
                ["proven: no attack gets above", up(bound.upper), bound.method + order],
                ["an attack that exists reaches", lower, bound.attack or ""],
            ],
        )
    ]
    if plan.releases:
        rows = [
            [one.what, f"{one.noise_multiplier:.6g}", f"{one.sample_rate:.6g}"]
            for one in plan.releases
        ]
        parts.append(
            html_page.paragraph(
                "Learnt from the records before training, and paid for in the number above:"
            )
        )
        parts.append(html_page.table(["release", "noise multiplier", "sample rate"], rows))
    runs = plan.settings() if ledger is None else ledger.settings()
    if runs and isfinite(bound.upper):
        parts.append(_attacker(runs, tight))
    parts += [html_page.paragraph("Assumed:"), html_page.bullets(conditions(plan))]
    return html_page.section("What is guaranteed, and what that rests on", *parts)


def _attacker(runs: Sequence[Settings], tight: bool) -> str:
    made = meaning_of(runs, tight=tight)
    rows = [
        [
            "best guess whether a record is in, at even odds: right with probability",
            f"\u2264 {up(made.bayes_success.upper)}",
        ],
        *(
            [f"true positive rate at false positive rate {a:g}", f"\u2264 {up(b.upper)}"]
            for a, b in made.true_positive_rates
        ),
    ]
    caption = "What an attacker who wants to know whether one record is in can do: the closer to the dotted line, the less."
    curve = _drawn(lambda ax: trade_off_curve(ax, runs, RATES, tight=tight), "trade-off", caption)
    return html_page.table(["an attacker's", "bound"], rows) + curve


def _drawn(draw: "Callable[[Axes], object]", name: str, caption: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    draw(figure.subplots())
    return html_page.picture(figure, name, caption)


def _comparison(plan: Plan, planned: Bound) -> str:
    title, runs = "Beside plain DP-SGD", plan.settings()
    if not any(run.mixing for run in runs):
        return html_page.section(
            title, html_page.paragraph("The plan mixes nothing: it is plain DP-SGD.")
        )

    def multipliers(of: Callable[[Settings], float | None]) -> str:
        return ", ".join(
            "?" if (z := of(run)) is None else f"{z:.4g}" for run in runs[len(plan.releases) :]
        )

    def row(name: str, others: list[Settings]) -> list[str]:
        changed = iter(others)
        noise = multipliers(lambda run: next(changed).noise_multiplier)
        return [
            name,
            noise,
            up(epsilon(plan.settings()[: len(plan.releases)] + others, delta=plan.delta).upper),
        ]

    trained = runs[len(plan.releases) :]
    rows = [
        ["the plan", multipliers(lambda run: run.noise_multiplier), up(planned.upper)],
        row("without mixing", [replace(run, mixing=0.0) for run in trained]),
        row("plain DP-SGD, noise of equal energy", [of_equal_energy(run) for run in trained]),
        ["effective (a description, not a bound)", multipliers(effective_noise_multiplier), ""],
    ]
    parts = [
        html_page.table(["", "noise multiplier", "epsilon \u2264"], rows),
        html_page.paragraph(
            "Mixing is noise as well. Noise of equal energy disturbs training as much as noise and mixing together; where "
            "its epsilon is smaller, plain DP-SGD is the better choice. The effective noise multiplier is that of plain "
            "noise which costs as much, where gradients are spread over very many coordinates and steps."
        ),
    ]
    if len(runs) == 1:
        widths = [share * runs[0].mixing for share in WIDTHS]
        caption = "The same energy as noise alone or as noise and mixing; the plan's width is the fifth of nine points."
        parts.append(
            _drawn(
                lambda ax: equal_energy(ax, runs[0], widths, delta=plan.delta),
                "equal-energy",
                caption,
            )
        )
    return html_page.section(title, *parts)


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
        parts.append(html_page.paragraph("What the trainer says about the run:"))
        parts.append(html_page.table(["", ""], said))
    return html_page.section("Over the steps", *parts)


def _ledger(source: Source, bound: Bound) -> str:
    plan, ledger = source.plan, source.ledger
    if ledger is None:
        return html_page.section(
            "Ledger", html_page.paragraph("A plan has none: nothing has been carried out yet.")
        )
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
    return html_page.section("Ledger", html_page.table(["", ""], rows))


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
    parts = [_measured(source, tight), html_page.table(["", ""], said)]
    if rows:
        names = list(rows[0])
        parts.append(
            html_page.table(names, [[str(row.get(name, "")) for name in names] for row in rows])
        )
    return html_page.section("Audit", *parts)


def _measured(source: Source, tight: bool) -> str:
    """The lower bound of an audit of this run beside what the ledger claims at the same delta."""
    made = source.audit or {}
    if made.get("passed") is False:
        return html_page.paragraph("The audit failed: it refutes what is claimed.", "warning")
    lower, delta = number(made.get("lower")), number(made.get("delta"))
    if source.ledger is None or lower is None or delta is None or not 0.0 < delta < 1.0:
        return ""
    claim, found = (
        spent(source.ledger, delta=delta, tight=tight).upper,
        up(max(lower, 0.0), rounding=ROUND_FLOOR),
    )
    measured = f"Measured: epsilon \u2265 {found} at delta {delta:g}; claimed: \u2264 {up(claim)}."
    if lower <= claim:
        return html_page.paragraph(
            f"{measured} The claim stands; an audit can refute it, never prove it."
        )
    return html_page.paragraph(
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
    return html_page.section(
        "How to do it again",
        html_page.paragraph(
            "Save the plan below as plan.json. Model, momentum and the like are options of the trainer; they change "
            "accuracy, not the guarantee. A run that is not seeded ends in other weights at the same price."
        ),
        html_page.code("\n".join(lines)),
        html_page.code(json.dumps(plan.to_dict() | {"fingerprint": plan.fingerprint}, indent=1)),
    )


def _compare_command(run: Settings, delta: float) -> str:
    given = {name: value for name, value in run.to_dict().items() if name != "group_size"}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in given.items())
    return f"mmaccount compare {options} --delta {delta}"
