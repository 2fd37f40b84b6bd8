"""Certificates: intervals hold independent values, what is certified is near what is reported,
tampering is seen."""

import json
from fractions import Fraction

import pytest
from conftest import ROOT, table
from flint import arb, ctx
from tampering import as_read, run_alone, see_every_change, status_of, tampered

import mmaccount as mm
from mmaccount.certificates import certificate, verify_plain, verify_renyi
from mmaccount.commands import main
from mmaccount.certificates.certificate import RENYI_FIELDS, certify, enclosure

CHECKER = ROOT / "mmaccount" / "certificates" / "verify_renyi.py"
PLAIN = {"sample_rate": 0.01, "steps": 10_000, "noise_multiplier": 1.0}
MIXED = {
    "sample_rate": 0.02,
    "steps": 500,
    "noise_multiplier": 0.7,
    "mixing": 2.0,
    "truncation": 100,
}
ONE_HOT = {"sample_rate": 0.02, "steps": 500, "noise_multiplier": 0.4, "mixing": 1.0}
TINY_MIXING = {"sample_rate": 0.02, "steps": 500, "noise_multiplier": 1.5, "mixing": 1e-9}
HOSTILE = {
    "sample_rate": 1e-9,
    "steps": 10**7,
    "noise_multiplier": 1e4,
    "mixing": 1e9,
    "truncation": 1e7,
}


def runs(*phases: dict) -> list[mm.Settings]:
    return [mm.Settings(**phase) for phase in phases]


def filled(phase: dict, delta: float, order: float, rule) -> dict:
    """A certificate with an order and a rule of our choosing."""
    shown = {
        name: value
        for name, value in mm.Settings(**phase).to_dict().items()
        if name in RENYI_FIELDS
    }
    made = {"schema": 1, "phases": [shown], "delta": delta, "order": order, "rules": [rule]}
    return made | {"values": verify_renyi.recompute(as_read(made))}


def status(made: dict, folder) -> int:
    return status_of(verify_renyi.check, made, folder)


def as_arb(end) -> arb:
    exact = verify_renyi._fraction(end)
    return arb(exact.numerator) / exact.denominator


# ----------------------------------------------------------------------------------- the intervals


@pytest.mark.parametrize("bits", [180, 250])
def test_normal_tail_holds_arb_and_is_narrow(bits, monkeypatch):
    monkeypatch.setattr(verify_renyi.iv, "prec", bits)
    monkeypatch.setattr(ctx, "prec", 2000)
    places = [
        "-40",
        "-1.5",
        "-1",
        "-0.9",
        "0",
        "1e-30",
        "0.3",
        "3",
        "15.5",
        "16",
        "16.5",
        "17",
        "18.5",
        "19",
        "60",
        "200",
    ]
    for text in places:
        found = verify_renyi._tail(verify_renyi._interval(Fraction(text)))
        truth = (arb(text) / arb(2).sqrt()).erfc() / 2
        assert as_arb(found.a) <= truth <= as_arb(found.b), text
        assert found.delta < verify_renyi.iv.mpf(2) ** (30 - bits) * found.mid, text


def held(interval, text: str) -> bool:
    """A table value of 30 digits lies in the interval, but for the rounding of its last digit; the
    interval is narrower."""
    low, high = verify_renyi._fraction(interval.a), verify_renyi._fraction(interval.b)
    last = Fraction(text) / 10**29
    return low - last <= Fraction(text) <= high + last and high - low < last


MIXING_ROWS = [
    row for row in table("mixing") if float(row["k"]) < 10 and 1e-5 <= float(row["v"]) <= 2
][::4]
SUBSAMPLED_ROWS = [
    row
    for row in table("subsampled_gaussian")
    if float(row["z"]) >= 0.5 and float(row["alpha"]) < 1000
][::6]


@pytest.mark.parametrize("row", MIXING_ROWS, ids=lambda row: "k {k} v {v} L {L}".format(**row))
def test_moments_of_mixing_hold_the_reference_table(row, monkeypatch):
    monkeypatch.setattr(verify_renyi.iv, "prec", 240)
    (moment,) = verify_renyi._moments(
        [Fraction(row["k"])],
        Fraction(1),
        verify_renyi._interval(Fraction(row["v"])),
        Fraction(row["L"]),
    )
    assert held(verify_renyi.iv.log(moment), row["h"])


def test_moments_of_subsampling_hold_the_reference_table(monkeypatch):
    monkeypatch.setattr(verify_renyi.iv, "prec", 240)
    for row in SUBSAMPLED_ROWS:
        q, z, order = (Fraction(row[name]) for name in ("q", "z", "alpha"))
        (moment,) = verify_renyi._moments([order], q, 1 / verify_renyi._interval(z), Fraction(0))
        assert held(verify_renyi.iv.log(moment), row["log_moment"]), row
    assert len(SUBSAMPLED_ROWS) > 10


# ------------------------------------------------------------------------------- what is certified


@pytest.mark.parametrize(
    ("phases", "delta", "rules"),
    [
        ([MIXED], 1e-5, ["binomial"]),
        ([MIXED, PLAIN], 1e-6, ["binomial", "plain"]),
        ([HOSTILE], 1e-300, ["plain"]),
    ],
)
def test_certificate_is_the_renyi_bound(phases, delta, rules, tmp_path):
    """Never above the reported Renyi bound, to which about 1e-11 is added for float arithmetic, and
    not far below."""
    made = certify(runs(*phases), delta=delta)
    reported = mm.epsilon(runs(*phases), delta=delta, conversion="improved").upper
    assert made["rules"] == rules
    assert reported * (1 - 1e-4) <= float(made["values"]["epsilon"]) <= reported * (1 + 1e-12)
    low, high = (Fraction(end) for end in enclosure(made))
    assert low <= high <= low * (1 + Fraction(1, 10**20))
    assert status(made, tmp_path) == 0


def test_certificate_at_fractional_order_is_the_am_gm_bound(tmp_path):
    made = certify(runs(ONE_HOT), delta=1e-5)
    reported = mm.epsilon(runs(ONE_HOT), delta=1e-5, conversion="improved").upper
    assert 1 < made["order"] < made["rules"][0] < 2
    assert reported * (1 - 1e-4) <= float(made["values"]["epsilon"]) <= reported * 1.001
    assert status(made, tmp_path) == 0


def test_what_the_checker_does_not_know_is_refused():
    with pytest.raises(ValueError, match="certificate is not available with `noise`"):
        certify(mm.Settings(**PLAIN, noise="laplace"), delta=1e-5)
    with pytest.raises(ValueError, match="`delta` must be in"):
        certify(mm.Settings(**PLAIN), delta=1.0)


def test_a_certificate_is_checked_by_the_checker_of_its_schema(tmp_path):
    path = tmp_path / "certificate.json"
    made = filled(PLAIN, 1e-5, 4.25, "plain")
    path.write_text(json.dumps(made))
    assert certificate.check(str(path)) == verify_renyi.check(str(path))
    path.write_text(json.dumps(made | {"rules": ["unknown"]}))
    assert (
        certificate.check(str(path))
        == verify_renyi.check(str(path))
        != verify_plain.check(str(path))
    )
    for text in ("[]", "{", '{"schema": 3}'):
        path.write_text(text)
        assert certificate.check(str(path))[0] == 2
    assert certificate.check(str(tmp_path / "none"))[0] == 2


# --------------------------------------------------------------------------------------- tampering


def changed(value) -> list:
    """The same with a digit or a type changed."""
    if isinstance(value, str):
        return [value[:-1] + ("1" if value[-1] != "1" else "2"), "", value + "1", None]
    if value is None:
        return [2, 1.5]
    return [value * (1 + 1e-9), value + 1, value - 1, -value - 1, str(value), None]


SHOWN = {
    "plain": lambda: filled(PLAIN, 1e-5, 4.25, "plain"),
    "binomial": lambda: filled(TINY_MIXING, 1e-5, 3, "binomial"),
    "am-gm": lambda: filled(TINY_MIXING, 1e-5, 1.5, 1.75),
}


@pytest.mark.parametrize("name", SHOWN)
def test_every_change_is_seen(name, tmp_path):
    see_every_change(verify_renyi.check, SHOWN[name](), changed, tmp_path)


@pytest.mark.slow
def test_changes_of_a_mixed_run_are_seen(tmp_path):
    made = certify(runs(MIXED), delta=1e-5)
    for name, value in [
        ("steps", 499),
        ("noise_multiplier", 0.701),
        ("mixing", 2.0001),
        ("truncation", 101),
    ]:
        assert status(tampered(made, ("phases", 0, name), value), tmp_path) == 1
    assert status(tampered(made, ("order",), made["order"] + 1), tmp_path) == 1
    assert status(tampered(made, ("values", "epsilon"), "1.5"), tmp_path) == 1


# --------------------------------------------------------------------------- the checker as a file


def test_checker_needs_only_mpmath(tmp_path):
    printed = run_alone(CHECKER, filled(PLAIN, 1e-5, 4, "plain"), tmp_path)
    assert printed.startswith("proven: epsilon <= ")


def test_command_line_writes_and_verifies(tmp_path, capsys):
    path = tmp_path / "certificate.json"
    words = [
        "--sample-rate",
        "0.01",
        "--steps",
        "10000",
        "--noise-multiplier",
        "1",
        "--delta",
        "1e-5",
    ]
    assert main.main(["epsilon", *words, "--exact", "--certificate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "% above the first line, which does without the added step" in out
    assert json.loads(path.read_text())["values"]["epsilon"] in out
    assert main.main(["epsilon", *words, "--exact", "--json"]) == 0
    exact = json.loads(capsys.readouterr().out)["exact"]
    assert exact["upper"] == json.loads(path.read_text())["values"]["epsilon"]
    assert Fraction(exact["lower"]) < Fraction(exact["upper"])
    assert main.main(["verify", str(path)]) == 0
    assert capsys.readouterr().out == f"proven: epsilon <= {exact['upper']} at delta 1e-05\n"
    path.write_text(path.read_text().replace("10000", "10001"))
    assert main.main(["verify", str(path)]) == 1
    assert "does not hold" in capsys.readouterr().err
    for text in ("", "[]", "{}", '{"schema": 1}', "null", "[" * 100_000):
        path.write_text(text)
        assert main.main(["verify", str(path)]) == 2
        err = capsys.readouterr().err
        assert "cannot be checked" in err
        assert err.count("\n") == 1
    assert main.main(["verify", str(tmp_path / "nothing.json")]) == 2
