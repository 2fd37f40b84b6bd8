"""Pictures: functions that draw what an accountant says on a matplotlib `Axes` and return it, and
whole figures by name.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; every curve also has its own
dash and marker, so that print in black and white will do. Solid lines are proven upper bounds,
dashed ones are reached by an attack. A value that is unbounded is left out. Sweeps use the fast
bounds (`tight=False`) unless told otherwise, and their labels say so.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from mmaccount.accounting.accountant import epsilon, upper_epsilon
from mmaccount.analysis.attacker import privacy_profile, trade_off
from mmaccount.analysis.comparison import of_equal_energy
from mmaccount.analysis.paper import DELTA, FIGURE_3, figure_3
from mmaccount.records import validate
from mmaccount.records.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Progress = Callable[[Sequence[Any]], Iterable[Any]]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (3, 1.5, 1, 1.5)), (0, (1, 1.5)))
SHADE = 0.15  # opacity between two bounds
SWEEP_POINTS = 17  # of a sweep
MARKER_DISTANCE = 0.05  # of the markers on a curve of many points, in heights of the picture
LABELS = {
    "steps": "steps",
    "noise_multiplier": "noise multiplier (std of the noise / clip norm)",
    "mixing": "mixing width (in clip norm / batch size)",
    "truncation": "truncation p (coordinates cut at clip norm / sqrt p)",
    "sample_rate": "sample rate (chance of a record to join a step)",
}
LOGARITHMIC = ("truncation", "sample_rate")
PROVEN, REACHED = "proven upper bound", "an attack reaches this"
FIGURE_3_RANGE = 0.5, 100.0  # epsilon; leaves room for the legend
FAST_NOTE = " (fast: Renyi moments)"
GAP_LABEL = "gap (mixing threshold / learning rate)"
KINDS = ("profile", "trade-off", "steps", "noise", "gap", "truncation", "equal-energy", "figure-3")
CURVE_RATES = (
    0.0,
    *(10.0 ** (e / 10.0) for e in range(-40, -20)),
    *(rate / 100.0 for rate in range(1, 101)),
)  # false positive
SMALLEST_DELTA = 1e-9  # that a profile reaches
WIDTH, HEIGHT, DPI = 5.6, 3.9, 160  # inches, dots per inch


def _draw(
    ax: "Axes", x: np.ndarray, y: np.ndarray, label: str, i: int = 0, *, dashed: bool = False
) -> None:
    """Curve number i, in its colour, marker and dash."""
    every = None if x.size <= 2 * SWEEP_POINTS else MARKER_DISTANCE
    ax.plot(
        x,
        y,
        label=label,
        color=COLOURS[i],
        marker=MARKERS[i],
        linestyle=DASHES[dashed],
        markersize=3.5,
        markevery=every,
    )


def _finite(values: Iterable[float]) -> np.ndarray:
    """The values, where unbounded ones become NaN, which is not drawn."""
    finite = np.array([value if isfinite(value) else nan for value in values])
    if np.all(np.isnan(finite)):
        raise ValueError("there is nothing to draw: every value is unbounded.")
    return finite


def _finish(ax: "Axes", x: str, y: str) -> "Axes":
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def _both(
    ax: "Axes",
    x: np.ndarray,
    proven: np.ndarray,
    attack: np.ndarray | None,
    labels: tuple[str, str],
) -> None:
    """Two bounds of one curve, the space between them shaded."""
    _draw(ax, x, proven, labels[0])
    if attack is not None:
        _draw(ax, x, attack, labels[1], 1, dashed=True)
        ax.fill_between(x, attack, proven, color=COLOURS[0], alpha=SHADE, linewidth=0.0)


def _plain_numbers(axis: "Axis") -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, ..., written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def sweep(
    ax: "Axes",
    settings: Settings,
    name: str,
    values: Sequence[float],
    *,
    delta: float,
    tight: bool = False,
    scale: float = 1.0,
    label: str | None = None,
    progress: Progress = iter,
) -> "Axes":
    """Epsilon at `delta` while one setting takes `values`, from both sides.

    Args:
        ax: where to draw.
        settings: the run.
        name: "steps", "noise_multiplier", "mixing", "truncation" or "sample_rate".
        values: of that setting.
        delta: in (0, 1).
        tight: False takes the fast bounds, by Renyi moments where there is mixing.
        scale: the axis shows value * scale; for a gap, clip_norm / batch_size.
        label: of the axis, if not the usual one.
        progress: is given the runs and passes them on, one at a time.
    """
    name = validate.choice("name", name, tuple(LABELS))
    runs: list[Settings] = [replace(settings, **{name: value}) for value in values]  # type: ignore[arg-type]
    bounds = [epsilon(run, delta=delta, tight=tight) for run in progress(runs)]
    upper = _finite(bound.upper for bound in bounds)
    attacked = [bound.lower for bound in bounds if bound.lower is not None]
    lower = _finite(attacked) if len(attacked) == len(bounds) else None
    note = FAST_NOTE if not tight and any(run.mixing > 0.0 for run in runs) else ""
    x = scale * np.array(values, dtype=float)
    _both(ax, x, upper, lower, (PROVEN + note, REACHED))
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    if name in LOGARITHMIC:
        ax.set_xscale("log")
        _plain_numbers(ax.xaxis)
    return _finish(ax, label or LABELS[name], f"epsilon at delta = {delta:g}")


def profile(
    ax: "Axes", settings: Settings, epsilons: Sequence[float], *, tight: bool = True
) -> "Axes":
    """Draw delta over epsilon, from both sides (`privacy_profile`)."""
    deltas = privacy_profile(settings, epsilons, tight=tight)
    _both(ax, deltas.epsilons, deltas.upper, deltas.lower, (PROVEN, REACHED))
    ax.set_yscale("log")
    return _finish(ax, "epsilon", "delta")


def trade_off_curve(
    ax: "Axes",
    settings: Settings | Iterable[Settings],
    rates: Sequence[float],
    *,
    tight: bool = True,
) -> "Axes":
    """False negative over false positive rate of the best attack, from both sides (`trade_off`),
    with a blind guess."""
    errors = trade_off(settings, rates, tight=tight)
    _both(
        ax,
        errors.false_positive_rates,
        errors.lower,
        errors.upper,
        ("no attack gets below (proven)", "an attack gets down to this"),
    )
    ax.plot([0.0, 1.0], [1.0, 0.0], color="#000000", linestyle=DASHES[3], label="guessing blindly")
    return _finish(ax, 'false positive rate ("in" though the record is out)', "false negative rate")


def equal_energy(
    ax: "Axes",
    settings: Settings,
    mixings: Sequence[float],
    *,
    delta: float,
    tight: bool = False,
    progress: Progress = iter,
) -> "Axes":
    """Epsilon of mixing, and of plain DP-SGD whose noise has the same energy, as `mixing` grows
    (`of_equal_energy`)."""
    mixed = [replace(settings, mixing=mixing) for mixing in mixings]
    pairs = [(run, of_equal_energy(run)) for run in mixed]
    epsilons = [
        [epsilon(run, delta=delta, tight=tight).upper for run in pair] for pair in progress(pairs)
    ]
    with_mixing, plain = (_finite(uppers) for uppers in zip(*epsilons, strict=True))
    x = np.array([run.noise_multiplier for _, run in pairs])
    note = "" if tight else FAST_NOTE
    label = f"noise multiplier {settings.noise_multiplier:g}, the rest is mixing{note}"
    _draw(ax, x, with_mixing, label)
    _draw(ax, x, plain, "plain DP-SGD with the same energy", 1, dashed=True)
    ax.set_yscale("log")
    _plain_numbers(ax.yaxis)
    energy = "total noise: sqrt(noise multiplier^2 + variance of mixing), in clip norms"
    return _finish(ax, energy, f"epsilon at delta = {delta:g} (upper bound)")


def figure_3_panel(
    ax: "Axes", gap: float, steps: Sequence[int], *, progress: Progress = iter
) -> "Axes":
    """One panel of Fig. 3 of arXiv 2210.03843: proven epsilon over steps for each truncation p, the
    paper's figures beside.

    The bounds are the fast ones (Renyi moments). The paper's figures for p = 1 rest on something
    unproven (`reproduce`).
    """
    for i, p in enumerate(sorted({p for _, p in FIGURE_3})):
        runs = [(count, replace(figure_3(gap, p), steps=count)) for count in steps]
        epsilons = _finite(upper_epsilon([run], DELTA) for _, run in progress(runs))
        _draw(ax, np.array(steps, dtype=float), epsilons, f"p = {p}", i)
    paper = [epsilon for (at, _), epsilon in FIGURE_3.items() if at == gap]
    last = figure_3(gap, 1).steps
    ax.plot(
        [last] * len(paper),
        paper,
        label="the paper",
        color=COLOURS[-1],
        marker="x",
        linestyle="none",
        zorder=3,
    )
    ax.set_yscale("log")
    ax.set_ylim(FIGURE_3_RANGE)
    _plain_numbers(ax.yaxis)
    ax.set_title(f"threshold / learning rate = {gap:g}", fontsize="medium")
    return _finish(ax, LABELS["steps"], f"epsilon at delta = {DELTA:g}{FAST_NOTE}")


# ----------------------------------------------------------------------------------- whole figures


def _around(settings: Settings, name: str) -> list[float]:
    """Values of a setting that show where the run stands."""
    here = float(getattr(settings, name))
    if name == "steps":
        return [
            float(count) for count in np.unique(np.ceil(np.linspace(0.0, here, SWEEP_POINTS)[1:]))
        ]
    if name == "mixing":
        return [float(value) for value in np.linspace(0.0, 2.0 * here or 10.0, SWEEP_POINTS)]
    low, high = {
        "noise_multiplier": (0.5 * here, 4.0 * here),
        "truncation": (1.0, max(100.0, 4.0 * here)),
    }[name]
    return [float(value) for value in np.geomspace(low, high, SWEEP_POINTS)]


def _epsilons(settings: Settings) -> list[float]:
    """Values of epsilon from 0 to where delta is very small."""
    largest = epsilon(settings, delta=SMALLEST_DELTA, tight=False).upper
    if not 0.0 < largest < inf:
        largest = 10.0
    return [float(value) for value in np.linspace(0.0, largest, 81)]


def figure(
    kind: str,
    settings: Settings | None = None,
    *,
    delta: float | None = None,
    tight: bool = True,
    gap_scale: float | None = None,
    progress: Progress = iter,
) -> "Figure":
    """A whole figure, to be saved with `savefig`.

    Args:
        kind: one of KINDS. "figure-3" is the paper's and takes nothing else.
        settings: the run.
        delta: in (0, 1); not for "profile" and "trade-off".
        tight: of "profile" and "trade-off"; the sweeps take the fast bounds.
        gap_scale: clip_norm / batch_size, which turns mixing into a gap on the axis of "gap".
        progress: is given the points of the figure and passes them on, one at a time.

    Raises:
        ValueError: an unknown kind, a missing argument, or nothing finite to draw.
    """
    from matplotlib.figure import Figure

    kind = validate.choice("kind", kind, KINDS)
    if kind == "figure-3":
        gaps = sorted({gap for gap, _ in FIGURE_3})
        whole = Figure(figsize=(WIDTH * len(gaps) * 0.8, HEIGHT), dpi=DPI, layout="constrained")
        steps = [
            int(count) for count in np.linspace(0, figure_3(gaps[0], 1).steps, SWEEP_POINTS)[1:]
        ]
        for ax, gap in zip(whole.subplots(1, len(gaps), sharey=True), progress(gaps), strict=True):
            figure_3_panel(ax, gap, steps).label_outer()
        return whole
    if settings is None:
        raise ValueError(f"`settings` is missing: {kind} draws a run.")
    whole = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    ax = whole.subplots()
    if kind in ("profile", "trade-off"):
        for run in progress([settings]):
            if kind == "profile":
                profile(ax, run, _epsilons(run), tight=tight)
            else:
                trade_off_curve(ax, run, CURVE_RATES, tight=tight)
        return whole
    if delta is None:
        raise ValueError(f"`delta` is missing: {kind} shows epsilon at a delta.")
    name = {"noise": "noise_multiplier", "gap": "mixing", "equal-energy": "mixing"}.get(kind, kind)
    values = _around(settings, name)
    if kind == "equal-energy":
        equal_energy(ax, settings, values, delta=delta, progress=progress)
    elif kind == "gap" and gap_scale is not None:
        sweep(
            ax,
            settings,
            name,
            values,
            delta=delta,
            scale=gap_scale,
            label=GAP_LABEL,
            progress=progress,
        )
    else:
        sweep(ax, settings, name, values, delta=delta, progress=progress)
    return whole


def curves(figure: "Figure") -> list[dict[str, Any]]:
    """The numbers that a figure shows, ready for JSON: panel, label, x and y of each curve; None
    where unbounded."""
    drawn = []
    for panel, ax in enumerate(figure.axes):
        for line in ax.lines:
            x, y = (
                [float(v) if isfinite(v) else None for v in np.asarray(data)]
                for data in line.get_data()
            )
            drawn.append({"panel": panel, "label": line.get_label(), "x": x, "y": y})
    return drawn
