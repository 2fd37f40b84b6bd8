"""Certificates by Fourier inversion: independent moments and epsilons, hostile settings,
tampering, the checker as a file."""

import json
import random
from fractions import Fraction
from math import inf

import pytest
from conftest import ROOT, table
from flint import acb, arb, ctx
from mpmath import exp, findroot, log, mp, mpf, ncdf, workdps
from tampering import as_read, run_alone, see_every_change, status_of, tampered

import mmaccount as mm
from mmaccount.certificates import certificate, verify_plain, verify_renyi
from mmaccount.certificates import plain_certificate
from mmaccount.certificates.certificate import certify, enclosure

CHECKER = ROOT / "mmaccount" / "certificates" / "verify_plain.py"
QUICK = {1e-2: 3e5, 0.1: 3e5}


def run(*phases: tuple[float, int, float]) -> list[mm.Settings]:
    return [mm.Settings(sample_rate=q, steps=steps, noise_multiplier=z) for q, steps, z in phases]


def status(made: dict, folder) -> int:
    return status_of(verify_plain.check, made, folder)


def certified(made: dict) -> float:
    return float(made["values"]["epsilon"])


@pytest.fixture
def quick(monkeypatch):
    """Looser contours, which take a fraction of a second."""
    monkeypatch.setattr(plain_certificate, "LOOSENESS_TRIED", QUICK)


# ------------------------------------------------------------------------------------- the moments


def as_arb(interval) -> arb:
    low, high = verify_plain._fraction(interval.a), verify_plain._fraction(interval.b)
    return (arb(low.numerator) / low.denominator).union(arb(high.numerator) / high.denominator)


def moment_by_arb(order: Fraction, frequency: Fraction, q: Fraction, z: Fraction) -> acb:
    """E[R^(order + i frequency)] over +-60 standard deviations, by adaptive quadrature with
    enclosures."""
    rate, shift = arb(q.numerator) / q.denominator, arb(z.denominator) / z.numerator
    power = acb(
        arb(order.numerator) / order.denominator, arb(frequency.numerator) / frequency.denominator
    )

    def integrand(x: acb, analytic: bool) -> acb:
        ratio = 1 - rate + rate * (shift * x - shift * shift / 2).exp()
        return (power * ratio.log(analytic=analytic) - x * x / 2).exp() / (2 * arb.pi()).sqrt()

    return acb.integral(integrand, -60, 60, rel_tol=arb(2) ** -150, abs_tol=arb(2) ** -170)


@pytest.mark.parametrize(
    ("order", "spacing", "q", "z"),
    [
        ("3.9", "1.25", "0.01", "1"),
        ("-2.5", "-3.5", "0.3", "0.7"),
        ("1.05", "20", "0.001", "2"),
        ("-40", "-0.75", "0.9", "5"),
    ],
)
def test_moments_hold_those_of_arb_and_are_narrow(order, spacing, q, z, monkeypatch):
    monkeypatch.setattr(ctx, "prec", 200)
    order, spacing, q, z = map(Fraction, (order, spacing, q, z))
    found = verify_plain._moments(order, spacing, q, z, 7)
    for j in (0, 1, 6):
        truth = moment_by_arb(order, j * spacing, q, z)
        assert truth.rad() < 1e-30
        for part, true in ((found[j].real, truth.real), (found[j].imag, truth.imag)):
            assert as_arb(part).overlaps(true)
            assert part.delta < 1e-50 * abs(found[0].real)


def test_real_moments_hold_the_reference_table():
    rows = [
        row
        for row in table("subsampled_gaussian")
        if float(row["z"]) >= 0.5 and float(row["alpha"]) < 100
    ][::14]
    for row in rows:
        (moment,) = verify_plain._moments(
            *(Fraction(row[name]) for name in ("alpha",)),
            Fraction(1),
            *(Fraction(row[name]) for name in ("q", "z")),
            1,
        )
        found = verify_plain.iv.log(moment.real)
        low, high = verify_plain._fraction(found.a), verify_plain._fraction(found.b)
        last = Fraction(row["log_moment"]) / 10**29
        assert low - last <= Fraction(row["log_moment"]) <= high + last
    assert len(rows) > 4


def test_a_contour_that_is_too_coarse_is_refused():
    """Frequencies so high that cosines are not known: their errors would no longer add up as is
    assumed."""
    with pytest.raises(ValueError, match="too coarse"):
        verify_plain._moments(
            Fraction(2), Fraction(10) ** 80, Fraction(1, 2), Fraction(10) ** 80, 3
        )


# ------------------------------------------------------------------------------- what is certified


@pytest.mark.parametrize(
    ("phases", "delta", "above"),
    [
        ([(0.01, 10_000, 1.0)], 1e-5, 5e-4),
        ([(0.1, 100, 1.0)], 1e-9, 5e-4),
        ([(0.02, 300, 0.8), (1.0, 3, 20.0), (0.01, 2000, 1.5)], 1e-6, 1e-3),
    ],
)
def test_certificate_is_near_the_reported_epsilon(phases, delta, above, tmp_path):
    made, reported = certify(run(*phases), delta=delta), mm.epsilon(run(*phases), delta=delta)
    assert made["schema"] == 2
    assert reported.lower <= certified(made) <= reported.upper * (1 + above)
    low, high = map(Fraction, enclosure(made))
    assert low < high <= low * (1 + Fraction(1, 10**20))
    assert status(made, tmp_path) == 0
    assert "does without the added step" in certificate.note(made, reported)


@pytest.mark.parametrize(
    ("steps", "noise", "delta"),
    [
        (100, 10.0, 1e-5),
        (10_000, 100.0, 1e-14),
        (1, 1e4, 0.5),
        (10**6, 1.0, 1e-9),
        (1, 1.0, 1e-300),
    ],
)
def test_full_batches_are_certified_as_their_closed_form(steps, noise, delta, tmp_path):
    made = certify(run((1.0, steps, noise)), delta=delta)
    with workdps(60):
        mu, wanted = mp.sqrt(steps) / mpf(noise), mpf(repr(delta))

        def excess(e):
            return log((ncdf(mu / 2 - e / mu) - exp(e) * ncdf(-mu / 2 - e / mu)) / wanted)

        start = mpf(made["values"]["epsilon"]) * (1 + mpf(10) ** -12)
        truth = mpf(0) if excess(mpf(0)) <= 0 else findroot(excess, start)
        assert truth <= mpf(made["values"]["epsilon"]) <= truth * (1 + mpf(10) ** -25)
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(made))
    assert certificate.check(str(path))[0] == 0


def hostile_or_not(seed: int) -> tuple[list[mm.Settings], float]:
    rng = random.Random(seed)
    phases = [
        (
            rng.choice([1.0, 10 ** rng.uniform(-6, 0), 1 - 1e-9]),
            int(10 ** rng.uniform(0, 6)),
            10 ** rng.uniform(-1.0, 3.0),
        )
        for _ in range(rng.choice([1, 1, 2]))
    ]
    return run(*phases), rng.choice([10 ** rng.uniform(-14, -1), 1e-200, 0.5])


@pytest.mark.parametrize("seed", range(40))
def test_certified_epsilon_is_above_the_lower_bound(seed, quick):
    """Whatever the settings: above what an attack reaches, and never without an answer."""
    phases, delta = hostile_or_not(seed)
    found = mm.epsilon(phases, delta=delta)
    made = certify(phases, delta=delta)
    assert found.lower * (1 - 1e-12) <= certified(made) < inf


@pytest.mark.parametrize(
    ("q", "z", "delta"),
    [(0.01, 1.0, 1e-5), (0.3, 0.5, 1e-10), (0.999, 3.0, 1e-3), (0.1, 0.2, 1e-8)],
)
def test_one_step_is_certified_above_its_exact_epsilon(q, z, delta):
    """delta of one step in closed form: R crosses e^eps once."""
    with workdps(50):
        rate, shift, wanted = mpf(repr(q)), 1 / mpf(repr(z)), mpf(repr(delta))

        def remove(e):
            at = log((exp(e) - 1 + rate) / rate) / shift + shift / 2
            return (1 - rate - exp(e)) * ncdf(-at) + rate * ncdf(shift - at)

        certain = mpf(certify(run((q, 1, z)), delta=delta)["values"]["epsilon"])
        assert 0.7 * wanted < remove(certain) <= wanted or certain == 0


@pytest.mark.parametrize("seed", range(16))
def test_any_contour_bounds_delta(seed):
    """Whatever t, spacing, count and added step: the sum is above what an attack reaches, in both
    directions together."""
    rng = random.Random(seed)
    phases = [
        {
            "sample_rate": rng.choice([0.001, 0.05, 0.5, 1.0]),
            "steps": int(10 ** rng.uniform(0, 4)),
            "noise_multiplier": z,
        }
        for z in (10 ** rng.uniform(-0.5, 1.5), 10 ** rng.uniform(-0.3, 1.0))
    ]
    runs = [mm.Settings(**phase) for phase in phases]
    delta = 10 ** rng.uniform(-12, -2)
    epsilon = round(mm.epsilon(runs, delta=delta).upper * rng.uniform(0.8, 1.2) + 1e-3, 6)
    reached = mm.delta(runs, epsilon=epsilon).lower
    contour = {
        "t": rng.choice([0.1, 1.0, 4.0, 20.0]),
        "spacing": rng.choice([0.05, 0.5, 5.0]) * rng.uniform(0.5, 2.0),
    }
    contour |= {"count": rng.choice([1, 5, 40]), "added": rng.choice([0, 1e-4, 0.1])}
    made = {
        "schema": 2,
        "phases": [phase | {"noise": "gaussian"} for phase in phases],
        "delta": 1e-5,
    }
    made |= {"contours": {"remove": contour, "add": contour}, "values": {"epsilon": str(epsilon)}}
    values = verify_plain.recompute(as_read(made))
    assert max(Fraction(values[f"{name}: log delta"][1]) for name in ("remove", "add")) >= Fraction(
        float(log(reached))
    )


# --------------------------------------------------------------------------------------- tampering

COARSE = {
    "schema": 2,
    "phases": [
        {"sample_rate": 0.1, "steps": 100, "noise_multiplier": 1.5, "noise": "gaussian"},
        {"sample_rate": 1.0, "steps": 2, "noise_multiplier": 10.0, "noise": "gaussian"},
    ],
    "delta": 1e-5,
    "contours": {
        "remove": {"t": 3.0, "spacing": 0.75, "count": 14, "added": 0.01},
        "add": {"t": 3.0, "spacing": 0.75, "count": 9, "added": 0.02},
    },
    "values": {"epsilon": "4.1"},
}


def filled(made: dict) -> dict:
    return made | {"values": verify_plain.recompute(as_read(made))}


def changed(value) -> list:
    if isinstance(value, str):
        return [value[:-1] + ("1" if value[-1] != "1" else "2"), "", "nan", None]
    return [value * (1 + 1e-9), value + 1, -value, str(value), None]


def test_every_change_is_seen(tmp_path):
    see_every_change(verify_plain.check, filled(COARSE), changed, tmp_path)


def test_a_lower_claim_is_seen(tmp_path):
    """Whoever also corrects the values that follow still fails: the claim itself does not hold."""
    made = filled(COARSE)
    lower = tampered(made, ("values", "epsilon"), "3.6")
    lower["values"] = verify_plain.recompute(as_read(lower)) | {"epsilon": "3.6"}
    assert status(lower, tmp_path) == 1
    assert verify_plain.recompute(as_read(lower))["epsilon"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("contours", "remove", "t"), -3.0),
        (("contours", "add", "spacing"), 0),
        (("contours", "add", "added"), -0.1),
        (("contours", "remove", "count"), 0),
        (("contours", "remove", "count"), 2.5),
        (("contours", "remove", "count"), 10**15),
        (("contours", "remove", "spacing"), 1e90),
        (("phases", 0, "sample_rate"), 1.5),
        (("phases", 0, "noise_multiplier"), 0),
        (("phases", 0, "noise_multiplier"), 1e400),
        (("phases", 0, "steps"), 0.5),
        (("phases", 0, "noise"), "laplace"),
        (("phases", 0, "mixing"), 1.0),
        (("delta",), 0.0),
        (("values", "epsilon"), "-1"),
        (("schema",), 1),
        (("contours",), {"remove": COARSE["contours"]["remove"]}),
    ],
)
def test_what_is_out_of_range_cannot_be_checked(path, value, tmp_path):
    assert status(tampered(COARSE, path, value), tmp_path) == 2


# --------------------------------------------------------------------------- the checker as a file


def test_each_checker_refuses_the_certificates_of_the_other(tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(filled(COARSE)))
    assert verify_renyi.check(str(path))[0] == 2
    assert certificate.check(str(path)) == (0, "proven: epsilon <= 4.1 at delta 1e-05")
    path.write_text(json.dumps(COARSE | {"schema": 3}))
    assert certificate.check(str(path))[0] == 2


def test_checker_needs_only_mpmath(tmp_path):
    printed = run_alone(CHECKER, filled(COARSE), tmp_path)
    assert printed == "proven: epsilon <= 4.1 at delta 1e-05\n"
