"""Pictures of advice: what a step gains at each clip norm, and what changes around the
recommendation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmaccount.advice.recommendation import Advice
from mmaccount.advice.sensitivity import Variation
from mmaccount.plots import COLOURS, DPI, HEIGHT, MARKERS, WIDTH

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VALUES = {
    "remaining": "share of the gradient that remains",
    "first": "decrease in the first step",
}
POINT_LABELS = ("at the start", "where the loss has halved")


def descent(ax: "Axes", advice: Advice) -> "Axes":
    """Decrease of the loss in the best step over clip norm, as a share of the largest, at every
    point of the probe; the interval where it is within 5 % of its best is shaded."""
    plan = advice.plan
    for curve, label, colour in zip(advice.evidence.curves, POINT_LABELS, COLOURS, strict=False):
        gained = curve.descent(plan.batch_size, advice.energy())
        ax.plot(curve.clip_norms, gained / gained.max(), color=colour, label=label)
    ax.axvspan(advice.choice.low, advice.choice.high, color=COLOURS[2], alpha=0.15)
    ax.axvline(plan.phases[0].clip_norm, color=COLOURS[2], label="recommended")
    ax.set_xscale("log")
    ax.xaxis.set_minor_formatter("")
    ax.set_xlabel("clip norm")
    ax.set_ylabel("decrease of one step / best")
    ax.legend(fontsize="small")
    return ax


def knobs(ax: "Axes", rows: Sequence[Variation], value: str = "epsilon") -> "Axes":
    """`value` ("epsilon", "remaining" or "first") as each knob is multiplied; knobs without it are
    left out."""
    for i, knob in enumerate(dict.fromkeys(row.knob for row in rows)):
        points = [
            (row.factor, getattr(row, value))
            for row in rows
            if row.knob == knob and getattr(row, value) is not None
        ]
        if points:
            x, y = zip(*points, strict=True)
            ax.plot(
                x,
                y,
                color=COLOURS[i],
                marker=MARKERS[i],
                markersize=3.5,
                label=knob.replace("_", " "),
            )
    factors = sorted({row.factor for row in rows})
    ax.set_xscale("log")
    ax.set_xticks(factors, labels=[f"{factor:.2g}" for factor in factors], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlabel("times the recommendation")
    ax.set_ylabel(VALUES.get(value, value))
    ax.legend(fontsize="small")
    return ax


def figure(advice: Advice, rows: Sequence[Variation]) -> "Figure":
    """Three pictures side by side: decrease of a step over clip norm, epsilon around the
    recommendation, and the forecast there (left out after a private probe)."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(2.6 * WIDTH, HEIGHT), layout="constrained", dpi=DPI)
    left, middle, right = picture.subplots(1, 3)
    descent(left, advice)
    knobs(middle, rows)
    if advice.plan.releases:
        right.set_axis_off()
    else:
        knobs(right, rows, "remaining")
    return picture
