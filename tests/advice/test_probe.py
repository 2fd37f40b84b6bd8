"""What a probe says: against the definitions on whole gradient matrices; the file; the tail's
confidence; bad input."""

from math import inf

import numpy as np
import pytest

from mmaccount.advice import clipping_theory, descent, probe


@pytest.fixture(scope="module")
def gradients():
    rng = np.random.default_rng(0)
    return rng.standard_t(4, size=(120, 30)) * rng.lognormal(0, 0.5, (120, 1)) + 0.5


def test_statistics_by_definition(gradients):
    made = probe.from_gradients(gradients)
    mean = gradients.mean(0)
    assert made.norms == pytest.approx(np.linalg.norm(gradients, axis=1), rel=1e-12)
    noise = np.linalg.norm(gradients - mean, axis=1) * (120 / 119) ** 0.5
    assert made.noise_norms == pytest.approx(noise, rel=1e-10)
    assert made.fisher == pytest.approx(np.square(gradients).sum(1).mean(), rel=1e-12)
    assert made.beta == pytest.approx(
        np.linalg.eigvalsh(gradients.T @ gradients / 120)[-1], rel=1e-10
    )
    assert made.gap_to_minimum == 1.0 > mean @ mean / (2 * made.beta)
    steep = probe.Probe(gram=100.0 * made.gram, dimension=30, kept=made.kept, smoothness=1.0)
    assert steep.gap_to_minimum == pytest.approx(100.0 * mean @ mean / 2, rel=1e-10)
    moved = clipping_theory.clipped(gradients, 3.0).mean(0)
    cosine = moved @ mean / np.linalg.norm(moved) / np.linalg.norm(mean)
    assert made.cosine(3.0) == pytest.approx(cosine, rel=1e-10)


def test_truncation_keeps_what_it_says(gradients):
    made = probe.from_gradients(gradients)
    unit = gradients / np.linalg.norm(gradients, axis=1)[:, None]
    p = made.truncation
    cut = np.clip(unit, -(p**-0.5), p**-0.5).mean(0)
    assert p > 1.0
    assert cut @ unit.mean(0) >= 0.999 * unit.mean(0) @ unit.mean(0)
    assert probe.from_gradients(np.eye(3)).truncation == 1.0


def test_chunks_make_the_same_gram_matrix(gradients):
    parts = [gradients[:50], gradients[50:100], gradients[100:]]
    made = probe.gram_matrix([lambda part=part: part for part in parts])
    assert made == pytest.approx(gradients @ gradients.T, rel=1e-12, abs=1e-12)
    assert probe.kept_by_truncation(parts) == pytest.approx(
        probe.from_gradients(gradients).kept, rel=1e-12
    )


def test_round_trip_and_bare_arrays(gradients, tmp_path):
    made = probe.Probe(
        gram=gradients @ gradients.T,
        dimension=30,
        kept=np.ones(41),
        loss=2.3,
        later=np.eye(120),
        public=False,
        about="x",
    )
    made.save(tmp_path / "probe.npz")
    back = probe.load(tmp_path / "probe.npz")
    for name in made.__slots__:
        assert np.array_equal(getattr(back, name), getattr(made, name)), name
    np.save(tmp_path / "bare.npy", gradients)
    np.savez(tmp_path / "bare.npz", anything=gradients)
    for name in ("bare.npy", "bare.npz"):
        assert np.array_equal(
            probe.load(tmp_path / name).gram, probe.from_gradients(gradients).gram
        )


@pytest.mark.parametrize(("law", "kappa"), [("exponential", 2.0), ("repeated", 2.0)])
def test_the_upper_limit_of_kappa_covers_the_true_one(law, kappa):
    """Exponential norms have kappa exactly; rounded up to whole numbers P(norm >= t) = exp(-(t - 1)
    / 2) at whole t, so the sup over t in [start, largest] is at the largest or the smallest of
    them."""
    missed = 0
    for seed in range(200):
        norms = np.random.default_rng(seed).exponential(kappa, 200)
        norms = np.ceil(norms) if law == "repeated" else norms
        found = probe.tail(norms)
        points = np.unique(norms[norms >= found.start])
        true = (
            kappa
            if law == "exponential"
            else (points * kappa / np.maximum(points - 1.0, 1e-9)).max()
        )
        assert found.estimate < found.upper
        missed += found.upper < true
    assert missed <= 15  # 5 % of 200 and 1.6 standard deviations


def test_tail_by_definition():
    norms = np.arange(1.0, 101.0)
    found = probe.tail(norms)
    assert found.start == pytest.approx(90.1)
    assert found.estimate == pytest.approx(
        max(t / -np.log((101 - t) / 100) for t in range(91, 101)), rel=1e-12
    )
    assert probe.tail(np.ones(10)).upper == inf


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((5, 3), np.nan), "NaN or infinite"),
        (np.array([[1.0, np.inf]] * 3), "NaN or infinite"),
        (np.arange(9.0).reshape(3, 3) * 1e200, "NaN or infinite"),
        (np.ones((1, 4)), "at least 3 records, got 1"),
        (np.ones((0, 4)), "at least 3 records, got 0"),
        (np.ones((5, 4)), "same gradient"),
        (np.zeros((5, 4)), "are zero"),
        (np.ones(5), "m x d array"),
        (np.array([["a", "b"]]), "m x d array"),
    ],
)
def test_bad_gradients_are_one_clear_line(rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        probe.from_gradients(rows)
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_clear_line(tmp_path, gradients):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "two.npz", a=gradients, b=gradients)
    np.savez(tmp_path / "odd.npz", schema=1, gram=np.eye(3), colour=1)
    np.savez(tmp_path / "new.npz", schema=9, gram=np.eye(3))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    for name, message in {
        "none.npy": "cannot read",
        "text.npz": "not a .npy or .npz",
        "objects.npy": "not a .npy or .npz",
        "two.npz": "`gram` or one array",
        "odd.npz": "unknown key `colour`",
        "new.npz": "`schema`",
    }.items():
        with pytest.raises(ValueError, match=message):
            probe.load(tmp_path / name)


# ----------------------------------------------------------------------------------------- descent


def test_curve_by_definition_and_without_counting_noise_as_signal():
    """Averages over many small probes are the population's values, which one large sample gives."""
    rng, d = np.random.default_rng(1), 12
    mean = np.zeros(d)
    mean[0] = 0.8

    def sample(m):
        return mean + rng.normal(size=(m, d)) * np.linspace(0.3, 1.5, d)

    at = np.array([0.5, 2.0, 50.0])
    curves = [descent.curve(probe.from_gradients(sample(40)), at=at) for _ in range(400)]
    rows = sample(200_000)
    hessian, full = rows.T @ rows / len(rows), rows.mean(0)
    for i, c in enumerate(at):
        clipped = clipping_theory.clipped(rows, c)
        m, covariance = clipped.mean(0), np.cov(clipped.T)
        expected = {
            "signal": full @ m,
            "square": m @ m,
            "spread": np.trace(covariance),
            "bend_square": m @ hessian @ m,
            "bend_spread": np.trace(hessian @ covariance),
        }
        for name, value in expected.items():
            seen = np.array([getattr(made, name)[i] for made in curves])
            assert abs(seen.mean() - value) <= 5 * seen.std() / 20 + 0.01 * abs(value), (name, c)
    assert np.mean([made.trace for made in curves]) == pytest.approx(np.trace(hessian), rel=0.02)


def test_isotropic_ratio_is_the_best_decrease_times_two_beta(gradients):
    made = descent.curve(probe.from_gradients(gradients))
    i, batch, energy = 20, 64.0, 4.0
    c = made.clip_norms[i]
    denominator = made.square[i] + made.spread[i] / batch + 30 * (c / batch) ** 2 * energy
    etas = np.geomspace(1e-4, 1e2, 20_001)
    best = (etas * made.signal[i] - made.beta * etas**2 / 2 * denominator).max()
    assert made.isotropic(batch, energy)[i] == pytest.approx(2 * made.beta * best, rel=1e-5)


def test_the_forecast_is_an_optimum_and_no_step_overshoots(gradients):
    made = descent.curve(probe.from_gradients(gradients))
    options = {"index": 10, "batch_size": 50.0, "energy": 9.0, "loss": 2.0}
    best = made.signal[10] / (made.bend_square + made.noise(50.0, 9.0))[10]
    firsts = [
        descent.forecast(made, steps=1, learning_rate=best * x, **options).first
        for x in (0.9, 1.0, 1.1)
    ]
    assert max(firsts) == firsts[1] == pytest.approx(made.descent(50.0, 9.0)[10] / 2, rel=1e-12)
    long = descent.forecast(made, steps=100_000, **options)
    left = [
        descent.forecast(
            made, steps=100_000, learning_rate=long.learning_rate * x, **options
        ).remaining
        for x in (0.9, 1.1)
    ]
    assert long.learning_rate < best
    assert min(left) > long.remaining
    factor = np.minimum(1.0, made.clip_norms[10] / np.linalg.norm(gradients, axis=1)).mean()
    top = np.linalg.eigvalsh(gradients.T @ gradients / 120)[-1]
    longest = min(made.signal[10] / made.bend_square[10], 2.0 / (top * factor))
    quiet = options | {"energy": 1e-12, "batch_size": 1e12}
    assert descent.forecast(made, steps=1, **quiet).learning_rate == pytest.approx(
        longest, rel=1e-9
    )


def test_a_clip_norm_at_which_gradients_point_nowhere_is_refused():
    """Some long gradients against more short ones: clipped, they point the other way."""
    rows = np.repeat([[-3.0, 0.1], [1.0, 0.0]], (100, 200), axis=0)
    made = descent.curve(probe.from_gradients(rows), at=np.array([0.1, 40.0]))
    options = {"batch_size": 10.0, "energy": 1.0, "steps": 5, "loss": 1.0}
    with pytest.raises(ValueError, match="clip_norm"):
        descent.forecast(made, **options)
    assert descent.forecast(made, learning_rate=1.0, **options).remaining == np.inf
    assert descent.forecast(made, index=1, **options).learning_rate > 0.0


def test_more_noise_never_helps(gradients):
    made = descent.curve(probe.from_gradients(gradients))
    assert (made.descent(50.0, 9.0) <= made.descent(50.0, 4.0)).all()
    assert (made.descent(50.0, 9.0) <= made.descent(100.0, 9.0)).all()


def test_choice_is_the_middle_of_a_flat_optimum(gradients):
    made = descent.curve(probe.from_gradients(gradients))
    chosen = descent.choose([made], 50.0, 9.0)
    assert chosen.low <= chosen.clip_norm <= chosen.high
    values = made.descent(50.0, 9.0)
    inside = (made.clip_norms >= chosen.low) & (made.clip_norms <= chosen.high)
    assert values[inside].min() >= 0.95 * values.max()
    assert values.max() == values[inside].max()


def test_no_common_direction_is_refused():
    with pytest.raises(ValueError, match="no common direction"):
        descent.curve(probe.from_gradients(np.concatenate([np.eye(8), -np.eye(8)])))
