"""Pictures of one plan and of the run that carried it out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmaccount.accounting.accountant import upper_epsilon
from mmaccount.plots import COLOURS, FAST_NOTE, LABELS, MARKERS, PROVEN, SWEEP_POINTS, Progress
from mmaccount.records.ledger import Ledger
from mmaccount.records.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, float]]


def _up_to(plan: Plan, step: int) -> Ledger:
    """A ledger in which every step of the plan up to this one is charged once."""
    runs, first = [], 1
    for phase in plan.phases:
        if first <= step:
            runs.append((first, min(step, first + phase.steps - 1)))
        first += phase.steps
    return Ledger(plan=plan, runs=tuple(runs))


def spending(
    ax: "Axes", plan: Plan, *, points: int = SWEEP_POINTS, progress: Progress = iter
) -> "Axes":
    """Upper bound on epsilon (the fast one) after so many steps of the plan, with what was released
    before; where phases change there is a vertical line."""
    steps = [int(count) for count in np.unique(np.ceil(np.linspace(0.0, plan.steps, points)[1:]))]
    spent = [upper_epsilon(_up_to(plan, step).settings(), plan.delta) for step in progress(steps)]
    note = FAST_NOTE if any(phase.gap for phase in plan.phases) else ""
    shown = [value if np.isfinite(value) else np.nan for value in spent]
    ax.plot(steps, shown, color=COLOURS[0], marker=MARKERS[0], markersize=3.5, label=PROVEN + note)
    for end in np.cumsum([phase.steps for phase in plan.phases])[:-1]:
        ax.axvline(float(end), color=COLOURS[-1], linewidth=0.8)
    ax.set_xlabel(LABELS["steps"])
    ax.set_ylabel(f"epsilon at delta = {plan.delta:g}")
    ax.set_ylim(bottom=0.0)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def learning(ax: "Axes", rows: Rows, value: str, label: str) -> "Axes":
    """`value` ("accuracy" or "epsilon") of the rows of metrics.jsonl over steps; a redone step
    counts as last seen."""
    last_seen = {row["step"]: row[value] for row in rows}
    steps = sorted(last_seen)
    colour = int(value == "epsilon")
    ax.plot(
        steps,
        [last_seen[step] for step in steps],
        color=COLOURS[colour],
        marker=MARKERS[colour],
        markersize=3.5,
    )
    ax.set_xlabel(LABELS["steps"])
    ax.set_ylabel(label)
    ax.grid(alpha=0.3)
    return ax
