"""Advice: meets the target by the accountant, follows from the probe, pays for private probes,
refuses bad input."""

import json
from dataclasses import replace
from math import log

import numpy as np
import pytest

import mmaccount as mm
from mmaccount import AdaptiveClipping
from mmaccount.advice import advisor, histogram, probe, reasons, schedule, sensitivity
from mmaccount.commands import main
from mmaccount.records import mixing_laws
from mmaccount.records.bound import Infeasible

COMMON = {"dataset_size": 2000, "epsilon": 2.0, "delta": 1e-5, "epochs": 20.0}


@pytest.fixture(scope="module")
def gradients():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(150, 40)) + 0.4) * rng.lognormal(0.0, 0.5, (150, 1))


@pytest.fixture(scope="module")
def advice(gradients):
    return mm.advise(gradients, **COMMON)


@pytest.fixture(scope="module")
def private(gradients):
    counts = histogram.true_counts(np.linalg.norm(np.tile(gradients, (14, 1)), axis=1)[:2000])
    noise = 5.0 * np.random.default_rng(1).normal(size=len(counts))
    return mm.NormHistogram(
        counts=counts + noise, noise_multiplier=5.0, dataset_size=2000, dimension=40, loss=log(10)
    )


def test_the_target_is_met_by_the_accountant_and_hardly_undershot(advice):
    assert 1.99 < mm.epsilon(advice.plan.settings(), delta=1e-5).upper <= 2.0
    assert advice.bound == mm.epsilon(advice.plan.settings(), delta=1e-5)
    assert advice.plan.target_epsilon == 2.0
    assert advice.plan.steps * advice.plan.sample_rate <= 20.0 * 1.05
    assert mm.Plan.from_dict(json.loads(json.dumps(advice.plan.to_dict()))) == advice.plan


def test_what_it_says(gradients, advice):
    assert (
        f"cosine {probe.from_gradients(gradients).cosine(advice.plan.phases[0].clip_norm):.4f}"
        in advice.reasons["clip_norm"]
    )
    assert {row["noise_multiplier"] for row in advice.curve()} == {
        advice.plan.phases[0].noise_multiplier
    }
    assert set(advice.reasons) >= {
        "clip_norm",
        "noise_multiplier",
        "batch_size",
        "steps",
        "learning_rate",
        "truncation",
        "gap",
    }
    assert advice.plan.phases[0].gap == 0.0
    assert "gap 0 costs least" in advice.rejected["mixing"]
    assert "public" in advice.plan.assumptions[0]
    floor = float(advice.rejected["theory's clip norm"].split()[0])
    assert floor > advice.plan.phases[0].clip_norm
    assert all(
        "\n" not in text and "nan" not in text
        for text in [*advice.reasons.values(), *advice.rejected.values()]
    )


def test_the_clip_norm_scales_with_the_gradients(gradients, advice):
    """In other units of the loss everything but noise, batch and steps scales: c like the gradient,
    eta like its inverse."""
    scaled = mm.advise(gradients * 100.0, **COMMON)
    one, other = advice.plan.phases[0], scaled.plan.phases[0]
    assert other.clip_norm == pytest.approx(100.0 * one.clip_norm, rel=0.01)
    assert (other.noise_multiplier, other.steps) == (one.noise_multiplier, one.steps)


def test_it_beats_its_own_neighbours_in_the_forecast(advice):
    rows = sensitivity.variations(advice)
    assert {row.knob for row in rows} == {
        "clip_norm",
        "learning_rate",
        "noise_multiplier",
        "steps",
        "batch_size",
    }
    here = [row for row in rows if row.factor == 1.0]
    assert all(row.epsilon == here[0].epsilon <= 2.0 for row in here)
    for row in rows:
        if row.knob == "learning_rate":
            assert row.remaining >= here[0].remaining * (1 - 1e-3)
        if row.knob in ("clip_norm", "learning_rate"):
            assert row.epsilon == here[0].epsilon
        if row.knob == "noise_multiplier":
            assert (row.epsilon - here[0].epsilon) * (row.factor - 1.0) <= 0.0


def test_what_the_user_fixes_stays(gradients):
    made = mm.advise(
        gradients, **COMMON, batch_size=100, steps=50, clip_norm=2.0, learning_rate=0.125
    )
    phase = made.plan.phases[0]
    assert (made.plan.batch_size, phase.steps, phase.clip_norm, phase.learning_rate) == (
        100.0,
        50,
        2.0,
        0.125,
    )
    assert mm.advise(gradients, **COMMON, steps=80).plan.batch_size == 500.0


def test_a_forced_gap_says_what_it_costs(gradients):
    made = mm.advise(gradients, **COMMON, gap=0.02, steps=100)
    phase, rho = made.plan.phases[0], made.plan.settings()[0].mixing
    assert phase.gap == 0.02
    assert rho == pytest.approx(0.02 * 400 / phase.clip_norm)
    assert made.bound.upper <= 2.0
    plain = mm.advise(gradients, **COMMON, steps=100).plan.phases[0].noise_multiplier
    assert plain**2 < phase.noise_multiplier**2 + rho**2 / 12.0
    assert "times the energy" in made.reasons["gap"]
    assert made.noise[:-1] == pytest.approx(
        np.sort(made.noise[:-1]), rel=1e-3
    )  # a larger clip norm is mixed less
    assert np.interp(
        np.log(phase.clip_norm), np.log(made.evidence.curves[0].clip_norms), made.noise
    ) == pytest.approx(phase.noise_multiplier, rel=0.05)
    rows = {
        knob: [row for row in sensitivity.variations(made) if row.knob == knob]
        for knob in ("gap", "truncation")
    }
    for knob, found in rows.items():
        assert [row.value for row in found] == pytest.approx(
            [getattr(phase, knob) * row.factor for row in found]
        )
        assert [row.epsilon for row in found] == sorted(
            (row.epsilon for row in found), reverse=True
        )
    assert rows["gap"][0].remaining < rows["gap"][-1].remaining


def test_a_smoother_law_costs_less(gradients):
    """The plan says the law, is priced by it, and energies are those of its variance."""
    options = COMMON | {"gap": 0.05, "steps": 100, "clip_norm": 2.0}
    made = [
        mm.advise(gradients, **options, mixing_law=law)
        for law in ("uniform", "raised-cosine", "beta-2")
    ]
    energies = []
    for one, law in zip(made, ("uniform", "raised-cosine", "beta-2"), strict=True):
        run = one.plan.settings()[0]
        assert run.mixing_law == one.plan.phases[0].mixing_law == law
        assert 1.98 < mm.epsilon(run, delta=1e-5).upper == one.bound.upper <= 2.0
        energies.append(run.noise_multiplier**2 + mixing_laws.variance(law) * run.mixing**2)
        assert law in one.reasons["gap"]
        at = one.evidence.at(2.0)
        assert one.curve()[0]["descent"] == pytest.approx(
            one.evidence.curves[0].descent(400.0, _energy(one, law))[0]
        )
        assert one.forecast.first == pytest.approx(_first(at, one, energies[-1]), rel=1e-9)
    assert energies[1] < energies[0]
    assert energies[2] < energies[0]
    assert (
        mm.advise(gradients, **COMMON, mixing_law="beta-2").plan.phases[0].mixing_law == "uniform"
    )  # gap 0
    with pytest.raises(ValueError, match="mixing_law"):
        mm.advise(gradients, **COMMON, mixing_law="normal")


def _energy(advice, law):
    phase = advice.plan.phases[0]
    rho = phase.gap * advice.plan.batch_size / advice.evidence.curves[0].clip_norms
    return phase.noise_multiplier**2 + mixing_laws.variance(law) * rho**2


def _first(curve, advice, energy):
    eta = advice.forecast.learning_rate / advisor.RECOVERY
    return float(
        eta * curve.signal[0]
        - eta**2 * (curve.bend_square[0] + curve.noise(400.0, energy)[0]) / 2.0
    )


@pytest.mark.parametrize("law", ["uniform", "raised-cosine", "beta-3"])
@pytest.mark.parametrize("z", [0.5, 2.0, 10.0])
def test_mixing_never_saves_noise_energy(z, law):
    best, energies = schedule.cheapest_mixing(z, law)
    assert best == 0.0
    assert min(energies.values()) == z * z
    rho = 4.0 * z
    run = mm.Settings(sample_rate=1.0, steps=1, noise_multiplier=z, mixing=rho, mixing_law=law)
    made = replace(run, noise_multiplier=schedule.least_noise(run))
    comparison = mm.compare(made, delta=1e-5, tight=False)
    assert comparison.effective_noise_multiplier == pytest.approx(z, rel=1e-5)
    assert comparison.equal_noise_multiplier >= z


def test_adaptive_clipping_is_paid_for(gradients, advice):
    made = mm.advise(gradients, **COMMON, adaptive_clipping=0.4)
    phase, batch = made.plan.phases[0], made.plan.batch_size
    assert phase.adaptive == AdaptiveClipping.usual(batch, 0.4)
    assert 1.999 < mm.epsilon(made.plan.settings(), delta=1e-5).upper == made.bound.upper <= 2.0
    same = mm.advise(gradients, **COMMON, batch_size=batch, steps=phase.steps).plan.phases[0]
    assert (
        phase.noise_multiplier
        > same.noise_multiplier
        == pytest.approx(phase.priced_noise_multiplier, rel=1e-7)
    )
    assert "quantile" in made.reasons["adaptive"]
    assert "adaptive" not in advice.reasons
    assert all(
        row.epsilon == made.bound.upper for row in sensitivity.variations(made) if row.factor == 1.0
    )
    for change, message in [
        ({"adaptive_clipping": 2}, "adaptive_clipping"),
        ({"adaptive_clipping": 0.5, "gap": 0.1}, "gap"),
    ]:
        with pytest.raises(ValueError, match=message):
            mm.advise(gradients, **COMMON, **change)


def test_adaptive_clipping_leaves_out_batches_too_small_to_count_in(gradients):
    """Where a step takes more noise than twice that of the count, no noise on the gradients is
    enough."""
    target = COMMON | {"epsilon": 0.02, "epochs": 1.0}
    made = mm.advise(gradients, **target, adaptive_clipping=0.5)
    assert made.bound.upper <= 0.02
    plain = mm.advise(gradients, **target)
    assert made.rejected["other schedules"].count("batch") < plain.rejected[
        "other schedules"
    ].count("batch")
    with pytest.raises(Infeasible, match="best reachable"):
        mm.advise(
            gradients,
            **(target | {"epsilon": 1e-4}),
            adaptive_clipping=0.5,
            batch_size=1,
            steps=2000,
        )


def test_schedules_stay_within_the_limit():
    shapes = schedule.shapes(1000, 10.0)
    assert shapes[0] == (1000.0, 2)
    assert all(batch * steps <= 10.6 * 1000 for batch, steps in shapes)
    assert schedule.middle([5.0, 1.0, 1.01, 1.02, 3.0, 1.0]) == 2
    assert schedule.middle([1.0]) == 0


# ---------------------------------------------------------------------------------- private probes


def test_a_private_probe_is_paid_for(private):
    made = mm.advise(private, **COMMON)
    assert made.plan.releases == (private.release,)
    assert made.bound.upper <= 2.0
    assert mm.epsilon(made.plan.settings()[1:], delta=1e-5).upper < made.bound.upper
    free = mm.advise(private, **(COMMON | {"epsilon": 2.5}))
    assert free.plan.phases[0].noise_multiplier < made.plan.phases[0].noise_multiplier
    assert made.plan.assumptions == ()
    ledger = mm.Ledger(plan=made.plan)
    assert mm.epsilon(ledger.settings(), delta=1e-5).upper > 0.0


def test_batch_steps_and_noise_do_not_depend_on_a_private_probe(private):
    """Else the price of the composition would not hold: it takes them as fixed before the release."""
    other = replace(private, counts=np.roll(private.counts, 7))
    one, two = (mm.advise(probe, **COMMON).plan for probe in (private, other))
    assert one.sample_rate == two.sample_rate
    assert [(p.steps, p.noise_multiplier) for p in one.phases] == [
        (p.steps, p.noise_multiplier) for p in two.phases
    ]
    assert one.phases[0].clip_norm != two.phases[0].clip_norm
    with pytest.raises(ValueError, match="clip_norm"):
        mm.advise(private, **COMMON, gap=0.1)


def test_quantiles_of_a_noisy_histogram_hold_the_true_ones(private, gradients, tmp_path):
    norms = np.linalg.norm(np.tile(gradients, (14, 1)), axis=1)[:2000]
    for share in (0.1, 0.5, 0.9):
        low, middle, high = private.quantile(share)
        assert low <= np.quantile(norms, share) <= high
        assert low < middle < high
    kappa, upper = private.tail()
    assert kappa <= upper
    private.save(tmp_path / "h.npz")
    back = histogram.load(tmp_path / "h.npz")
    assert np.array_equal(back.counts, private.counts)
    assert back.release == private.release
    assert histogram.load(tmp_path / "none.npz") is None
    np.savez(tmp_path / "less.npz", schema=1, counts=private.counts)
    with pytest.raises(ValueError, match=r"histogram.*noise_multiplier") as caught:
        histogram.load(tmp_path / "less.npz")
    assert "\n" not in str(caught.value)


def test_one_record_changes_one_count_by_one(gradients):
    norms = np.array([1e-30, 0.0, 3.0, 1e30, np.inf, np.nan])
    counts = histogram.true_counts(norms)
    assert counts.sum() == 6.0
    for i in range(6):
        change = counts - histogram.true_counts(np.delete(norms, i))
        assert np.abs(change).sum() == 1.0


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 3000}, "batch_size"),
        ({"batch_size": float("nan")}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"dataset_size": 0}, "dataset_size"),
        ({"epsilon": 0}, "epsilon"),
        ({"delta": 1}, "delta"),
        ({"epochs": -1}, "epochs"),
        ({"gap": -1.0}, "gap"),
        ({"clip_norm": 0}, "clip_norm"),
        ({"clip_norm": 1e300}, "clip_norm"),
        ({"epochs": 1e-9}, "epochs"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"loss": 0}, "loss"),
    ],
)
def test_bad_arguments_are_one_clear_line(gradients, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        mm.advise(gradients, **(COMMON | change))
    assert "\n" not in str(caught.value)


def test_a_histogram_of_other_data_is_refused(private):
    with pytest.raises(ValueError, match="dataset_size"):
        mm.advise(private, **(COMMON | {"dataset_size": 2001}))


def test_a_release_that_costs_more_than_the_target_is_refused(private):
    with pytest.raises(Infeasible, match="best reachable"):
        mm.advise(private, **(COMMON | {"epsilon": 0.01}), steps=10)


def test_a_private_gram_matrix_is_refused(gradients):
    made = replace(probe.from_gradients(gradients), public=False)
    with pytest.raises(ValueError, match="private records"):
        mm.advise(made, **COMMON)


def test_tan_is_a_cross_check(advice):
    assert reasons.tan_epsilon(advice.plan) == pytest.approx(advice.bound.upper, rel=0.5)


# ------------------------------------------------------------------------------------ command line


def test_command_line(gradients, tmp_path, capsys):
    np.save(tmp_path / "g.npy", gradients)
    words = [
        "--adaptive-clipping",
        "--dataset-size",
        "2000",
        "--target-epsilon",
        "2",
        "--delta",
        "1e-5",
        "--probe",
        str(tmp_path / "g.npy"),
    ]
    out, picture = tmp_path / "plan.json", tmp_path / "a.png"
    more = ["--steps", "100", "--epochs", "20", "--out", str(out)]
    assert main.main(["advise", *words, *more, "--json", "--picture", str(picture)]) == 0
    data = json.loads(capsys.readouterr().out)
    plan = mm.Plan.load(out)
    assert plan.to_dict() == data["plan"]
    assert plan.phases[0].adaptive.quantile == 0.5
    assert data["epsilon"] == mm.epsilon(plan.settings(), delta=1e-5).upper <= 2.0
    assert len(data["around"]) > 20
    assert max(data["curve"], key=lambda row: row["descent"])["descent"] > 0.0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main.main(["advise", *words, *more]) == 0
    assert "because" in capsys.readouterr().out
    assert main.main(["tune-cost", str(out), "--tries", "10", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["one"] == data["epsilon"] < min(law["epsilon"] for law in costs["laws"])
    assert main.main(["tune-cost", str(out), "--tries", "0"]) == 2
    np.save(tmp_path / "g.npy", gradients * np.nan)
    assert main.main(["advise", *words, *more]) == 2
    assert capsys.readouterr().err.count("\n") == 2
