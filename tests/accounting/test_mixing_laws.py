"""Mixing laws other than the uniform: kernels against 50-digit tables and closed forms, (S) and
(M), two-sided bounds."""

from dataclasses import replace
from math import inf, isfinite, pi

import mpmath
import numpy as np
import pytest
from conftest import table
from hypothesis import given, settings
from hypothesis import strategies as st

import mmaccount as mm
from mmaccount.records import mixing_laws
from mmaccount.accounting import mixing_bounds, renyi
from mmaccount.accounting.mixing_envelope import envelope
from mmaccount.accounting.pld import Atoms, merge, power
from mmaccount.accounting.step_moments import StepShape, fisher_information
from mmaccount.kernels import gaussian, smooth_density, smooth_mixing
from mmaccount.kernels.pld import coordinate_cells
from mmaccount.kernels.complex_moments import lines_of_moments, lines_of_moments_of_law

ACCURATE = 1e-12  # what the kernels are trusted to (MOMENT_ERROR); measured below 2e-14
LAWS = ["raised-cosine", "beta-1.5", "beta-2", "beta-10"]
DELTA = 1e-5


def relative(value: float, exact: str) -> float:
    with mpmath.workdps(40):
        return float(mpmath.mpf(value) / mpmath.mpf(exact) - 1)


def moments(law: str, width: float, orders: list[float], shift: float) -> np.ndarray:
    return smooth_mixing.log_moments(
        np.array(orders, dtype=float), shift, smooth_density.named(law, width)
    )


# -------------------------------------------------------------------------------------- the kernel


@pytest.mark.parametrize(
    "row", table("laws"), ids=lambda row: " ".join(f"{key}={row[key]}" for key in "bkvL")
)
def test_moments_of_the_laws(row):
    law = "raised-cosine" if row["b"] == "0" else f"beta-{row['b']}"
    value = moments(law, float(row["L"]), [float(row["k"])], float(row["v"]))[0]
    assert abs(relative(value, row["h"])) < ACCURATE


NARROW_ENOUGH = [
    row for name in ("mixing", "ball_moments") for row in table(name) if 0 < float(row["v"]) <= 100
]


def test_the_same_code_with_the_uniform_meets_its_tables():
    """Orders up to 1000, shifts from 1e-8 to 30, widths from 1e-6 to 1e9."""
    rows = [row for row in NARROW_ENOUGH if float(row["L"]) > 0]
    assert len(rows) > 300
    for row in rows:
        value = moments("uniform", float(row["L"]), [float(row["k"])], float(row["v"]))[0]
        assert abs(relative(value, row["h"])) < ACCURATE, row


@pytest.mark.parametrize("law", LAWS)
def test_small_width_meets_plain_noise(law):
    orders, shift = [1.5, 2.0, 20.0, 1000.0], 0.4
    plain = gaussian.log_moments(np.array(orders), shift, 0.0)
    for width in (1e-8, 1e-5, 1e-2):
        mixed_ = moments(law, width, orders, shift)
        assert np.all(mixed_ <= plain * (1 + ACCURATE))
        assert np.all(mixed_ >= plain * (1 - width**2 - ACCURATE))


@pytest.mark.parametrize(
    ("law", "limit"), [("raised-cosine", 4 * pi**2), ("beta-3", 40.0), ("beta-10", 85.5)]
)
def test_wide_limit_is_the_fisher_information_of_the_law_alone(law, limit):
    """W^2 Int f'^2/f: 4 pi^2 for the raised cosine, 4 (2b - 1)(b - 1)/(b - 2) for Beta(b, b)."""
    for width in (1e5, 1e7, 1e9):
        h = moments(law, width, [2.0, 5.0], 1e-3)
        assert h / 1e-6 * width**2 == pytest.approx(
            [limit, 10 * limit], rel=max(1e-11, 100 / width)
        )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("width", [0.3, 5.0, 33.58, 1e4])
def test_moments_do_not_depend_on_company(law, width):
    """Orders that share their panels, and orders on their own."""
    orders = [1.05, 1.5, 2.0, 3.0, 7.0, 30.0, 64.0, 200.0]
    together = moments(law, width, orders, 0.3)
    assert together == pytest.approx([moments(law, width, [k], 0.3)[0] for k in orders], rel=1e-13)
    assert np.all(np.diff(together / (np.array(orders) - 1.0)) > 0)


@pytest.mark.parametrize("law", LAWS)
def test_worst_shift_is_the_largest_and_wider_is_better(law):
    """(S): h(sqrt x) is convex, so slopes of h against v^2 grow. (M): h falls with the width."""
    orders, shifts = [1.25, 2.0, 5.0, 20.0, 100.0], np.geomspace(0.02, 4.0, 25)
    before = np.full((shifts.size, len(orders)), inf)
    for width in (0.05, 0.5, 2.0, 5.0, 10.0, 22.0, 24.0, 33.58, 60.0, 300.0, 1000.0):
        h = np.array([moments(law, width, orders, v) for v in shifts])
        slopes = np.diff(h, axis=0) / np.diff(shifts**2)[:, None]
        assert np.all(np.diff(slopes, axis=0) >= -1e-11 * slopes[1:])
        assert np.all(
            np.diff(h / shifts[:, None] ** 2, axis=0) >= -1e-12 * h[1:] / shifts[1:, None] ** 2
        )
        assert np.all(h <= before * (1 + 1e-12))
        before = h


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("width", [0.5, 20.0, 1e4])
def test_density_and_score_agree(law, width):
    given_ = smooth_density.named(law, width)
    for t in (
        -0.5 * width,
        -0.4 * width,
        -0.1 * width - 1.0,
        -17.0,
        -3.0,
        0.0,
        0.5,
        15.9999,
        16.0001,
        60.0,
    ):
        if t >= -0.5 * width:
            slope = (
                smooth_density.log_density(t + 1e-3, given_)
                - smooth_density.log_density(t - 1e-3, given_)
            ) / 2e-3
            assert -smooth_density.score(t, given_) == pytest.approx(slope, rel=1e-5, abs=1e-6)
            mirrored = smooth_density.log_density(-width - t, given_)
            assert mirrored == pytest.approx(
                smooth_density.log_density(t, given_), rel=1e-12, abs=1e-12
            )


@pytest.mark.parametrize(("shift", "width"), [(0.3, 33.58), (0.05, 4.0), (2.0, 0.7)])
def test_cells_of_a_coordinate(shift, width):
    for law in LAWS:
        without, moved, _ = smooth_mixing.coordinate_masses(
            shift, smooth_density.named(law, width), mixing_bounds.CELL_WIDTH
        )
        assert np.sum(without) == pytest.approx(1.0, abs=1e-12)
        assert np.sum(moved) == pytest.approx(1.0, abs=1e-12)
        second = np.log(np.sum(moved[without > 0] ** 2 / without[without > 0]))
        exact = moments(law, width, [2.0], shift)[0]
        assert exact * (1 - 1e-3) < second <= exact * (1 + 1e-9)
    _, _, *expected, _ = coordinate_cells(shift, width, mixing_bounds.CELL_WIDTH)
    found = smooth_mixing.coordinate_masses(
        shift, smooth_density.named("uniform", width), mixing_bounds.CELL_WIDTH
    )
    chi = [np.sum(p[1][p[0] > 1e-30] ** 2 / p[0][p[0] > 1e-30]) for p in (expected, found)]
    assert chi[0] == pytest.approx(chi[1], rel=1e-3)


@pytest.mark.parametrize("width", [1.0, 33.58, 80.0])
def test_complex_moments_of_the_uniform_both_ways(width):
    shifts, tilts = np.array([0.0, 0.01, 0.3]), np.array([1.0, 2.5])
    expected = lines_of_moments(shifts, width, tilts, 0.7, 20)
    found = lines_of_moments_of_law(shifts, smooth_density.named("uniform", width), tilts, 0.7, 20)
    assert np.max(np.abs(found[0] - expected[0])) < 1e-14
    assert np.max(np.abs(found[1] - expected[1])) < 1e-13


# ------------------------------------------------------------------------------- two-sided bounds

A = mm.Settings(sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100)
B = mm.Settings(sample_rate=0.02, steps=5000, noise_multiplier=0.366945, mixing=15, truncation=100)
C = replace(B, noise_multiplier=1.0)
VARIANCE = {
    "raised-cosine": (mixing_laws.variance("uniform") / mixing_laws.variance("raised-cosine"))
    ** 0.5,
    "beta-2": (5 / 3) ** 0.5,
}
# independently: Renyi moments, and the attack in p coordinates, at equal support and at equal
# variance
COMPUTED = [
    (A, "raised-cosine", (4.76, 4.38), (2.72, 2.50)),
    (A, "beta-2", (4.65, 4.27), (3.54, 3.25)),
    (replace(B, mixing=3.75), "raised-cosine", (19.68, 17.70), (8.74, 7.94)),
    (replace(B, mixing=3.75), "beta-2", (15.04, 13.35), (9.90, 9.06)),
    (replace(B, mixing=7.5), "raised-cosine", (6.25, 5.73), (3.42, 3.14)),
    (replace(B, mixing=7.5), "beta-2", (5.59, 5.14), (4.17, 3.84)),
    (B, "raised-cosine", (2.62, 2.41), (1.55, 1.42)),
    (B, "beta-2", (2.63, 2.41), (2.03, 1.87)),
    (replace(C, mixing=3.75), "raised-cosine", (7.24, 6.69), (5.33, 4.92)),
    (replace(C, mixing=3.75), "beta-2", (6.44, 5.92), (5.37, 4.95)),
    (C, "raised-cosine", (2.31, 2.12), (1.44, 1.32)),
    (C, "beta-2", (2.05, 1.88), (1.63, 1.50)),
]


@pytest.mark.parametrize(("run", "law", "support", "variance"), COMPUTED)
def test_independent_table_of_laws(run, law, support, variance):
    for factor, (moments, attack) in ((1.0, support), (VARIANCE[law], variance)):
        given_ = replace(run, mixing=factor * run.mixing, mixing_law=law)
        bound = mm.epsilon(given_, delta=DELTA, tight=False)
        assert bound.upper == pytest.approx(moments, abs=0.0051)
        found = dict(mixing_bounds.attacks([given_]))["gradient spread evenly over p coordinates"][
            0
        ].epsilon(DELTA)
        assert found == pytest.approx(attack, abs=0.011)
        assert max(bound.lower, found) <= bound.upper


def test_a_law_that_is_the_uniform_is_priced_as_the_uniform():
    assert mm.epsilon(replace(A, mixing_law="beta-1"), delta=DELTA) == mm.epsilon(A, delta=DELTA)
    near = mm.epsilon(replace(A, mixing_law="beta-1.000001"), delta=DELTA, tight=False)
    assert near.upper == pytest.approx(mm.epsilon(A, delta=DELTA, tight=False).upper, rel=1e-4)


def test_the_envelope_holds_for_the_laws():
    bound = mm.epsilon(
        replace(A, mixing=11.25 * VARIANCE["raised-cosine"], mixing_law="raised-cosine"),
        delta=DELTA,
    )
    assert bound.lower == pytest.approx(2.4993, abs=1e-3)
    assert bound.upper == pytest.approx(2.5215, abs=1e-3)
    assert "envelope" in bound.method


def _any_shift(levels, law, width):
    """A pair below that of the shifts {v: count}."""
    masses, spacing, start = None, min(levels) / 60.0, 0.0
    for shift, count in levels.items():
        without, moved, _ = smooth_mixing.coordinate_masses(
            shift, smooth_density.named(law, width), mixing_bounds.CELL_WIDTH
        )
        held = (without > 0) & (moved > 0)
        made = power(
            merge(Atoms(np.log(moved[held] / without[held]), without[held]), spacing),
            count,
            upper=False,
        )
        start += made.start
        masses = made.masses if masses is None else np.convolve(masses, made.masses)
    return Atoms(start + spacing * np.arange(masses.size), np.maximum(masses, 0.0))


def profile(pair, x):
    losses, masses = pair.losses, pair.masses
    return np.array(
        [
            np.sum(masses * np.maximum(np.exp(losses) - point, 0.0)) + pair.infinite
            for point in np.atleast_1d(x)
        ]
    )


CASES = [
    ("raised-cosine", 0.3, 33.6, 60),
    ("raised-cosine", 0.3, 5.0, 20),
    ("beta-2", 0.5, 12.0, 10),
    ("beta-4.5", 0.3, 20.0, 30),
]


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_no_shift_exceeds_the_envelope(case, data):
    """Random search: part of the budget at the largest shift, the rest at two smaller ones."""
    law, shift, width, copies = case
    pair = envelope(StepShape("gaussian", shift, width, float(copies), law))
    whole = data.draw(st.integers(0, copies))
    part = data.draw(st.floats(0.25, 0.95))
    other = data.draw(st.floats(0.15, 1.0)) * part
    rest = (copies - whole) * shift**2
    middle = int(data.draw(st.floats(0, 1)) * rest / (part * shift) ** 2)
    small = int((rest - middle * (part * shift) ** 2) / (other * shift) ** 2)
    levels = {
        v: count
        for v, count in ((shift, whole), (part * shift, middle), (other * shift, small))
        if count > 0
    }
    x = np.exp(np.array([-3.0, -1.0, -0.3, -0.03, 0.0, 0.01, 0.1, 0.4, 1.0, 2.0, 4.0]))
    assert np.all(
        profile(_any_shift(levels, law, width), x) <= profile(pair.atoms(), x) * (1 + 1e-9)
    )


@pytest.mark.parametrize("law", LAWS)
def test_fisher_information_obeys_cramer_rao(law):
    before = 1.0
    for width in (1e-9, 1e-3, 0.5, 3.0, 30.0, 1e3, 1e8, 1e10, 1e300):
        run = mm.Settings(
            sample_rate=1.0, steps=1, noise_multiplier=1.0, mixing=width, mixing_law=law
        )
        found = fisher_information(run)
        least = 1.0 / (1.0 + min(width, 1e140) ** 2 * mixing_laws.variance(law))
        assert least * (1 - 1e-7) <= found <= before
        before = found


HOSTILE = [
    {"mixing": 1e-12},
    {"mixing": 1e9},
    {"mixing": 1e300},
    {"noise_multiplier": 0.001},
    {"noise_multiplier": 1e4},
    {"noise_multiplier": 0.05, "truncation": 1.0},
    {"truncation": 1e7},
    {"truncation": 1e300},
    {"sample_rate": 1e-9},
    {"sample_rate": 1.0, "steps": 1},
    {"steps": 10**7},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
@pytest.mark.parametrize("law", ["raised-cosine", "beta-1.5"])
def test_hostile_settings_have_a_sound_answer(changes, law):
    run = replace(A, mixing_law=law, **changes)
    bound = mm.epsilon(run, delta=DELTA, tight=False)
    assert 0 <= bound.lower <= bound.upper
    assert isfinite(bound.upper) or bound.reason is not None
    assert bound.upper <= renyi.epsilon(replace(run, mixing=0.0), delta=DELTA).upper * (1 + 1e-6)


def test_compare_shows_the_laws_at_equal_width_and_at_equal_energy():
    run = replace(A, mixing_law="beta-3")
    itself, *others = mm.compare_laws(run, delta=DELTA)
    assert (itself.settings, itself.matched) == (run, "itself")
    assert [(row.law, row.matched) for row in others] == [
        (law, matched)
        for law in ("uniform", "raised-cosine", "beta-2")
        for matched in ("support", "variance")
    ]
    energy = mm.compare(run, delta=DELTA, tight=False).equal_noise_multiplier
    for row in others:
        made = mm.compare(row.settings, delta=DELTA, tight=False)
        assert row.bound == made.as_given == mm.epsilon(row.settings, delta=DELTA, tight=False)
        if row.matched == "variance":
            assert made.equal_noise_multiplier == pytest.approx(energy, rel=1e-12)
            assert made.equal_noise.upper <= row.bound.upper
        else:
            assert row.settings == replace(run, mixing_law=row.law)
    assert mm.compare_laws(replace(A, mixing=0.0), delta=DELTA) == []
    assert mm.compare_laws(replace(A, noise="laplace"), delta=DELTA) == []


def test_a_replaced_record_costs_more_with_any_law():
    run = replace(A, mixing_law="beta-2", noise_multiplier=1.0)
    one, two = (
        mm.epsilon(replace(run, neighbours=kind), delta=DELTA, tight=False)
        for kind in ("zero-out", "replace-one")
    )
    assert one == mm.epsilon(run, delta=DELTA, tight=False)
    assert one.upper < two.upper < inf
    batch = replace(run, sample_rate=1.0, steps=10)
    twice = replace(batch, noise_multiplier=0.5, mixing=batch.mixing / 2)
    replaced = mm.epsilon(replace(batch, neighbours="replace-one"), delta=DELTA, tight=False)
    assert replaced.upper == pytest.approx(
        mm.epsilon(twice, delta=DELTA, tight=False).upper, rel=1e-9
    )


@pytest.mark.parametrize("law", LAWS)
def test_certificates_refuse_the_laws(law):
    from mmaccount.certificates.certificate import certify

    with pytest.raises(ValueError, match="a certificate is not available with `mixing_law`"):
        certify(replace(A, mixing_law=law), delta=DELTA)
