"""Pictures: axes labelled, what is drawn is what the accountant says, files written, bad requests
refused."""

import json
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import mmaccount as mm
from mmaccount import plots, terminal
from mmaccount.commands import main, price
from mmaccount.analysis.paper import FIGURE_3, figure_3

RUN = mm.Settings(sample_rate=0.02, steps=500, noise_multiplier=0.6, mixing=4.0, truncation=16)
OPTIONS = [
    "--sample-rate",
    "0.02",
    "--steps",
    "500",
    "--noise-multiplier",
    "0.6",
    "--mixing",
    "4",
    "--truncation",
    "16",
]


@pytest.fixture
def ax():
    return Figure().subplots()


def drawn(ax) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): tuple(map(np.asarray, line.get_data())) for line in ax.lines}


def labelled(ax) -> bool:
    return bool(ax.get_xlabel() and ax.get_ylabel()) and len(ax.get_legend().get_texts()) == len(
        ax.lines
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("steps", [100, 500]),
        ("noise_multiplier", [0.5, 1.0]),
        ("mixing", [0.0, 4.0]),
        ("truncation", [4.0, 16.0]),
    ],
)
def test_a_sweep_draws_the_bounds(ax, name, values):
    assert plots.sweep(ax, RUN, name, values, delta=1e-5) is ax
    curves = drawn(ax)
    upper, lower = (
        curves["proven upper bound (fast: Renyi moments)"],
        curves["an attack reaches this"],
    )
    assert list(upper[0]) == list(lower[0]) == values
    for i, value in enumerate(values):
        bound = mm.epsilon(mm.Settings(**(RUN.to_dict() | {name: value})), delta=1e-5, tight=False)
        assert (upper[1][i], lower[1][i]) == (bound.upper, bound.lower)
    assert labelled(ax)
    assert "delta = 1e-05" in ax.get_ylabel()


def test_labels_say_when_bounds_are_the_fast_ones(ax):
    plots.sweep(
        ax,
        mm.Settings(sample_rate=0.02, steps=50, noise_multiplier=1.0),
        "noise_multiplier",
        [1.0, 2.0],
        delta=1e-5,
    )
    assert "proven upper bound" in drawn(ax)  # without mixing there is but one


def test_a_gap_axis_is_in_units_of_the_gradient(ax):
    plots.sweep(ax, RUN, "mixing", [2.0, 4.0], delta=1e-5, scale=0.25, label="gap")
    assert list(ax.lines[0].get_xdata()) == [0.5, 1.0]
    assert ax.get_xlabel() == "gap"


def test_a_run_without_an_attack_has_one_curve(ax):
    laplace = mm.Settings(sample_rate=0.1, steps=20, noise_multiplier=2.0, noise="laplace")
    plots.sweep(ax, laplace, "noise_multiplier", [2.0, 4.0], delta=1e-5)
    assert len(ax.lines) == 1


def test_unbounded_values_are_left_out(ax):
    plots.sweep(ax, RUN, "noise_multiplier", [1e-200, 1.0], delta=1e-5)
    assert np.isnan(ax.lines[0].get_ydata()[0])
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.sweep(ax, RUN, "noise_multiplier", [1e-200], delta=1e-5)


def test_profile_and_trade_off(ax):
    plots.profile(ax, RUN, [0.0, 1.0, 2.0], tight=False)
    made = mm.privacy_profile(RUN, [0.0, 1.0, 2.0], tight=False)
    assert np.array_equal(ax.lines[0].get_ydata(), made.upper)
    assert np.array_equal(ax.lines[1].get_ydata(), made.lower)
    assert labelled(ax)
    other = Figure().subplots()
    plots.trade_off_curve(other, RUN, [0.1, 0.5], tight=False)
    curve = mm.trade_off(RUN, [0.1, 0.5], tight=False)
    assert np.array_equal(other.lines[0].get_ydata(), curve.lower)
    assert np.array_equal(other.lines[1].get_ydata(), curve.upper)
    assert labelled(other)


def test_equal_energy(ax):
    plots.equal_energy(ax, RUN, [0.0, 4.0], delta=1e-5)
    made = mm.compare(RUN, delta=1e-5, tight=False)
    mixing, plain = ax.lines
    assert mixing.get_xdata()[1] == plain.get_xdata()[1] == made.equal_noise_multiplier
    assert (mixing.get_ydata()[1], plain.get_ydata()[1]) == (
        made.as_given.upper,
        made.equal_noise.upper,
    )
    assert mixing.get_ydata()[0] == plain.get_ydata()[0]
    assert labelled(ax)


def test_figure_3_panel(ax):
    plots.figure_3_panel(ax, 0.15, [100, 5000])
    curves = drawn(ax)
    for p in (1, 25, 100):
        assert (
            curves[f"p = {p}"][1][-1]
            == mm.epsilon(figure_3(0.15, p), delta=1e-5, tight=False).upper
        )
    assert sorted(curves["the paper"][1]) == sorted(FIGURE_3[0.15, p] for p in (1, 25, 100))
    assert labelled(ax)


def test_curves_are_told_apart_without_colour():
    assert len(set(plots.COLOURS)) == len(set(plots.MARKERS)) == 7
    ax = Figure().subplots()
    plots.profile(ax, RUN, [0.0, 1.0], tight=False)
    upper, lower = ax.lines
    assert upper.get_linestyle() != lower.get_linestyle()
    assert upper.get_marker() != lower.get_marker()


# ------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("kind", plots.KINDS)
def test_every_kind_has_a_labelled_figure(kind, monkeypatch):
    monkeypatch.setattr(plots, "SWEEP_POINTS", 2)
    made = plots.figure(
        kind, None if kind == "figure-3" else RUN, delta=1e-5, tight=False, gap_scale=0.1
    )
    assert made.axes[0].get_ylabel()
    assert len(made.axes) == (3 if kind == "figure-3" else 1)
    assert all(ax.get_xlabel() for ax in made.axes)
    assert all(np.all(np.isfinite(line.get_ydata())) for ax in made.axes for line in ax.lines)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_files_are_written(ending, tmp_path, capsys):
    out = tmp_path / f"profile.{ending}"
    assert main.main(["plot", "profile", *OPTIONS, "--fast", "--out", str(out), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [curve["label"] for curve in data["curves"]] == [
        "proven upper bound",
        "an attack reaches this",
    ]
    top = data["curves"][0]
    assert top["y"] == mm.privacy_profile(RUN, top["x"], tight=False).upper.tolist()
    if ending == "png":
        assert out.read_bytes().startswith(b"\x89PNG")
    else:
        assert ElementTree.parse(out).getroot().tag.endswith("svg")


def slow_command(arguments):
    for _ in arguments.progress("ab"):
        time.sleep(0.1)
    return {}, ["done"]


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(price, "_reproduce", slow_command)
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_UPDATES", 0.02)
    assert main.main(["reproduce"]) == 0
    assert capsys.readouterr() == ("done\n", "")
    monkeypatch.setattr(main.sys.stderr, "isatty", lambda: True)
    assert main.main(["reproduce"]) == 0
    out, err = capsys.readouterr()
    assert out == "done\n"
    assert "0 of 2, 0 s" in err
    assert "1 of 2, 0 s" in err
    assert err.endswith("\r\033[K")


def test_interrupting_is_one_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(price, "_reproduce", interrupted)
    assert main.main(["reproduce"]) == 130
    assert capsys.readouterr() == ("", "mmaccount: interrupted.\n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pie", *OPTIONS, "--out", "a.png"], "`kind` must be one of profile, "),
        (["profile", *OPTIONS, "--out", "a.jpg"], "`--out` must end in .png or .svg"),
        (
            ["noise", *OPTIONS, "--out", "a.png"],
            "`delta` is missing: noise shows epsilon at a delta",
        ),
        (["noise", *OPTIONS, "--delta", "2", "--out", "a.png"], "`delta` must be in (0, 1)"),
        (["profile", "--out", "a.png"], "`--steps` is missing"),
        (["profile", *OPTIONS, "--out", "/nowhere/a.png"], "/nowhere/a.png"),
        (["profile", *OPTIONS], "--out"),
    ],
)
def test_bad_requests_are_one_line(argv, message, capsys):
    try:
        status = main.main(["plot", *argv, "--fast"])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_bad_arguments_of_the_library(ax):
    with pytest.raises(ValueError, match="`name` must be one of"):
        plots.sweep(ax, RUN, "delta", [1.0], delta=1e-5)
    with pytest.raises(ValueError, match="`settings` is missing: noise"):
        plots.figure("noise", delta=1e-5)
