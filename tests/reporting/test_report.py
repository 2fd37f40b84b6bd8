"""The report: says what plan and ledger say, stands by itself, escapes all text, refuses bad input
in one line."""

import json
import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace
from decimal import ROUND_FLOOR
from html import unescape
from html.parser import HTMLParser
from io import StringIO
from math import inf

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

import mmaccount as mm
from mmaccount import Ledger, Phase, Plan, Release
from mmaccount.commands import main
from mmaccount.reporting import plot_run
from mmaccount.records.bound import up
from mmaccount.analysis.comparison import of_equal_energy
from mmaccount.reporting.report import report
from mmaccount.reporting.run_folder import Source, load

PLAIN = Phase(steps=200, noise_multiplier=2.0, clip_norm=1.0, learning_rate=0.5)
MIXED = replace(PLAIN, steps=400, gap=0.06, truncation=16.0)
HOSTILE = "</pre><script src='http://evil'>alert(1)</script>&amp;\" onload=\"x \ud800 \u00e9"
CHROMIUM = shutil.which("chromium")


def plan_of(*phases, **more):
    return Plan(
        **(
            {
                "dataset_size": 100,
                "sample_rate": 0.5,
                "batch_size": 50,
                "phases": phases,
                "delta": 1e-4,
            }
            | more
        )
    )


def report_of(plan, **files):
    return report(Source(name="plan.json", plan=plan, **files), tight=False)


class Page(HTMLParser):
    """Checks that tags close in order, and collects text, tags, identifiers and everything that
    could be fetched."""

    def __init__(self, html: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.targets, self.parts = [], [], [], [], []
        self.feed(html.decode("ascii"))
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name == "id":
                self.ids.append(value)
            elif name.split(":")[-1] in ("href", "src", "action", "data", "srcset"):
                self.targets.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.parts.append(data)


def alone(html: bytes) -> Page:
    """A page that is well formed and refers to nothing outside itself."""
    page = Page(html)
    assert len(set(page.ids)) == len(page.ids)
    assert {target.removeprefix("#") for target in page.targets} <= set(page.ids)
    assert set(re.findall(rb"url\((.)", html)) <= {b"#"}
    assert {"script", "link", "img", "iframe", "object", "base", "a", "form"}.isdisjoint(page.tags)
    assert b"default-src 'none'" in html
    assert b"@import" not in html
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A seeded run of the trainer, interrupted in step 151, after a checkpoint at step 140."""
    from trainer import PrivateTrainer, data
    from trainer.loop import Options, train

    out, real = tmp_path_factory.mktemp("runs") / "a run", PrivateTrainer.step

    def interrupted(trainer):
        if trainer.step_number == 150:
            raise KeyboardInterrupt
        return real(trainer)

    given = (
        plan_of(PLAIN, target_epsilon=40.0),
        data.take(data.digits(), 100),
        out,
        Options(checkpoint_every=140),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateTrainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(*given, seed=1, quiet=True)
    train(*given, seed=1, quiet=True, resume=True)
    return out


@pytest.fixture(scope="module")
def made(run):
    return report(load(run))


def test_a_run(run, made):
    page, ledger = alone(made.html), Ledger.load(run / "ledger.json")
    assert ledger.charged == 210
    assert made.bound == mm.epsilon(ledger.settings(), delta=1e-4)
    assert made.bound.upper > mm.epsilon(made.plan.settings(), delta=1e-4).upper
    for said in [
        f"epsilon \u2264 {up(made.bound.upper)} at delta 0.0001, for adding or removing one record",
        f"an attack that exists reaches {up(made.bound.lower, rounding=ROUND_FLOOR)}",
        "Seeded: its randomness can be repeated, so this run is not private",
        "steps charged 210 of these redone after an interruption, and charged again 10 "
        "steps not taken 0",
        "Within the target that was set, epsilon 40.",
        "The plan mixes nothing: it is plain DP-SGD.",
        "data digits",
        f"mmaccount spent {shlex.quote('a run')}/ledger.json",
        made.plan.fingerprint,
    ]:
        assert said in page.text
    assert page.tags.count("svg") == 4  # trade-off, epsilon, accuracy, epsilon as shown
    assert "private.jsonl" not in page.text
    assert "median_norm" not in page.text
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"{last['accuracy']:.4f} after step 200" in page.text


def test_a_plan_with_mixing():
    plan = plan_of(MIXED, neighbours="zero-out")
    made = report_of(plan)
    page, settings = alone(made.html), plan.settings()[0]
    equal = of_equal_energy(settings)
    for said in [
        "Nothing has been charged yet",
        "each coordinate is cut at 0.25",
        "at least 0.03 (gap times learning rate): ModelMix.",
        "making the gradients of one record zero",
        f"the plan 2 {up(made.bound.upper)}",
        f"without mixing 2 {up(mm.epsilon(replace(settings, mixing=0.0), delta=1e-4).upper)}",
        "noise of equal energy "
        f"{equal.noise_multiplier:.4g} {up(mm.epsilon(equal, delta=1e-4).upper)}",
        "effective (a description, not a bound) "
        f"{mm.compare(settings, delta=1e-4).effective_noise_multiplier:.4g}",
        "Mixing coefficients are fresh and secret",
    ]:
        assert said in page.text
    assert page.tags.count("svg") == 3
    assert "fast: Renyi moments" in page.text


def test_phases_and_releases_are_priced_together(tmp_path):
    paid = Release(what="a histogram of norms", noise_multiplier=5.0)
    plan = plan_of(
        PLAIN, MIXED, releases=(paid,), assumptions=("the probe is public",), target_epsilon=0.5
    )
    made = report_of(plan)
    text = alone(made.html).text
    assert made.bound == mm.epsilon(plan.settings(), delta=1e-4, tight=False)
    equal = [*plan.settings()[:2], of_equal_energy(plan.settings()[2])]
    assert f"2, {equal[2].noise_multiplier:.4g} {up(mm.epsilon(equal, delta=1e-4).upper)}" in text
    for said in [
        "Phase 2 of 2",
        "a histogram of norms 5 1",
        "Assumed: the probe is public",
        "Above the target",
    ]:
        assert said in text


def test_an_unfinished_run_says_so():
    plan = plan_of(PLAIN)
    text = alone(report_of(plan, ledger=Ledger(plan=plan, runs=((1, 160),))).html).text
    assert "The run is not finished; the whole plan has epsilon \u2264" in text
    assert "steps not taken 40" in text
    assert "randomness of the operating system" in text
    assert "epsilon \u2264 0 at" in alone(report_of(plan, ledger=Ledger(plan=plan)).html).text


def test_an_unbounded_plan_says_why():
    made = report_of(plan_of(replace(PLAIN, noise_multiplier=1e-200)))
    assert made.bound.upper == inf
    assert f"epsilon unbounded: {made.bound.reason}" in alone(made.html).text


@pytest.mark.parametrize(
    ("audit", "said"),
    [
        (
            {"lower": 0.25, "delta": 1e-4},
            "Measured: epsilon \u2265 0.25 at delta 0.0001; "
            "claimed: \u2264 {claim}. The claim stands",
        ),
        (
            {"lower": 50.0, "delta": 1e-4},
            "Measured: epsilon \u2265 50 at delta 0.0001; "
            "claimed: \u2264 {claim}. The audit refutes",
        ),
        ({"lower": "<b>", "note": HOSTILE}, "lower <b>"),
        (
            {"passed": False, "attacks": [{"name": HOSTILE, "found": 1.5}, {"found": 2.5}]},
            "The audit failed",
        ),
        (
            {"passed": True, "attacks": [{"name": "plain", "found": 1.5}, {"found": 2.5}]},
            "name found plain 1.5 2.5",
        ),
        ({"attacks": [1, "two"]}, "attacks [1, 'two']"),
    ],
)
def test_an_audit_stands_beside_the_claim(audit, said):
    plan = plan_of(PLAIN)
    made = report_of(plan, ledger=Ledger(plan=plan, runs=((1, 200),)), audit=audit)
    assert said.format(claim=up(made.bound.upper)) in alone(made.html).text


def test_hostile_text_is_text(tmp_path, monkeypatch):
    folder = tmp_path / HOSTILE.replace("/", "|").replace("\ud800", "")
    folder.mkdir()
    plan = plan_of(
        PLAIN, assumptions=(HOSTILE,), releases=(Release(what=HOSTILE, noise_multiplier=9.0),)
    )
    (folder / "ledger.json").write_text(json.dumps(Ledger(plan=plan, runs=((1, 200),)).to_dict()))
    said = {"plan_fingerprint": plan.fingerprint, "data": HOSTILE, HOSTILE: [HOSTILE]}
    (folder / "report.json").write_text(json.dumps(said))
    rows = [
        {"step": 3, "epsilon": 1.0, "accuracy": 0.5},
        {"step": HOSTILE, "epsilon": 1.0, "accuracy": 1.0},
    ]
    rows += [{"step": 4, "epsilon": float("nan"), "accuracy": 1.0}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 6, "eps')
    source = load(folder)
    assert source.metrics == (rows[0],)
    page = alone(report(source, tight=False).html)
    assert page.text.count("<script src='http://evil'>alert(1)</script>&amp;\" onload=\"x") >= 4


def test_the_commands_do_it_again(tmp_path, monkeypatch, capsys):
    plan = plan_of(MIXED)
    made = report_of(plan)
    commands, saved = re.findall(r"<pre>(.*?)</pre>", made.html.decode(), flags=re.DOTALL)
    (tmp_path / "plan.json").write_text(unescape(saved))
    assert Plan.load(tmp_path / "plan.json") == plan
    price, compare, train, again = (shlex.split(line) for line in unescape(commands).splitlines())
    monkeypatch.chdir(tmp_path)
    with redirect_stdout(StringIO()) as out:
        exec(price[2], {})
    tight = mm.epsilon(plan.settings(), delta=1e-4)
    assert out.getvalue() == f"{tight}\n"
    assert main.main(compare[1:]) == 0
    assert up(tight.upper) in capsys.readouterr().out
    assert train[:3] == ["python", "-m", "trainer"]
    assert main.main([*again[1:], "--fast", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["epsilon"], data["file"]) == (made.bound.upper, "report.html")
    assert data["fingerprint"] == plan.fingerprint
    alone((tmp_path / "report.html").read_bytes())


def test_pictures_of_a_run():
    plan = plan_of(PLAIN, replace(PLAIN, noise_multiplier=3.0))
    ax = plot_run.spending(Figure().subplots(), plan, points=5)
    assert list(ax.lines[0].get_xdata()) == [100, 200, 300, 400]
    first, both = plan.priced(0, 200), [plan.priced(0, 200), plan.priced(1, 100)]
    assert ax.lines[0].get_ydata()[1] == mm.epsilon(first, delta=1e-4).upper
    assert ax.lines[0].get_ydata()[2] == mm.epsilon(both, delta=1e-4).upper
    assert list(ax.lines[1].get_xdata()) == [200.0, 200.0]
    rows = [
        {"step": 2, "accuracy": 0.5},
        {"step": 4, "accuracy": 0.6},
        {"step": 2, "accuracy": 0.7},
    ]
    line = plot_run.learning(Figure().subplots(), rows, "accuracy", "held-out accuracy").lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([2, 4], [0.7, 0.6])


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("nothing.json", "a.html", "cannot read plan nothing.json"),
        (".", "a.html", "cannot read ledger ledger.json"),
        ("bad.json", "a.html", "`schema` of the plan must be 1"),
        ("list.json", "a.html", "must hold one JSON object"),
        ("good.json", "a.pdf", "`--out` must end in .html"),
        ("good.json", "nowhere/a.html", "nowhere"),
        ("mixed", "a.html", "belongs to another plan"),
    ],
)
def test_bad_input_is_one_line(source, out, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan_of(PLAIN).save("good.json")
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "ledger.json").write_text(
        json.dumps(Ledger(plan=plan_of(PLAIN)).to_dict())
    )
    (tmp_path / "mixed" / "report.json").write_text('{"plan_fingerprint": "0"}')
    assert main.main(["report", source, "--out", out, "--fast"]) == 2
    printed, error = capsys.readouterr()
    assert (printed, error.count("\n")) == ("", 1)
    assert message in error
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser(made, tmp_path):
    """As a browser shows it: text and pictures, without network, not wider than the window."""
    (tmp_path / "page.html").write_bytes(made.html)
    common = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    shown = {}
    for width in (400, 1100):
        shot = tmp_path / f"{width}.png"
        options = [
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={width},6000",
            f"--screenshot={shot}",
        ]
        subprocess.run(
            [*common, *options, "page.html"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=120,
        )
        shown[width] = matplotlib.image.imread(shot)[:, :, :3]
    dark = (shown[1100] < 0.5).all(2)
    assert dark.any(1).mean() > 0.3  # lines of text, pictures
    blue = np.array([0x00, 0x72, 0xB2]) / 255.0  # curves
    assert (np.abs(shown[1100] - blue).max(2) < 0.02).sum() > 500
    assert (shown[1100][:, -10:] == 1.0).all()
    assert (shown[400][:, -10:] == 1.0).all()
    dumped = subprocess.run(
        [*common, "--dump-dom", "page.html"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=120,
    )
    page = dumped.stdout.decode()
    assert f"epsilon \u2264 {up(made.bound.upper)} at delta 0.0001" in page
    assert page.count("<svg") == 4
