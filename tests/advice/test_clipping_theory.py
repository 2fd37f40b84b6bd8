"""Clipping theory: the paper's example, closed forms at 50 digits, and every inequality by Monte
Carlo with a known law."""

from math import exp, inf, log

import mpmath
import numpy as np
import pytest

from mmaccount.advice import clipping_theory
from mmaccount.advice.clipping_theory import Problem

PROBLEM = Problem(
    beta=2.0, initial_loss=3.0, dimension=10, dataset_size=1000, epsilon=1.0, delta=1e-5
)


def exponential_noise(rng, count, dimension, kappa):
    """Uniform direction, length exponential: P(|noise| >= t) = exp(-t/kappa) exactly."""
    directions = rng.normal(size=(count, dimension))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    return directions * rng.exponential(kappa, count)[:, None]


def test_example_3_1_of_the_paper():
    """f(w) = (w - x)^2 / 2 for x = -20, -10, 90 at w = 0: the gradient is -20, the mean clipped one
    +1/3."""
    gradients = -np.array([[-20.0], [-10.0], [90.0]])
    found = clipping_theory.bias(gradients, 1.0)
    assert gradients.mean() == -20.0
    assert clipping_theory.clipped(gradients, 1.0).mean() == pytest.approx(1.0 / 3.0, rel=1e-15)
    assert found.norm == pytest.approx(61.0 / 3.0, rel=1e-14)
    assert found.norm <= found.excess <= found.second_moment


@pytest.mark.parametrize("kappa", [0.3, 1.0])
@pytest.mark.parametrize("ratio", [4.0, 4 * log(10), 20.0])
@pytest.mark.parametrize(
    "norm", [0.05, 0.5, 0.74, 0.76, 1.0, 3.0]
)  # of the gradient, in clip norms
def test_alignment_holds_for_exponential_noise(kappa, ratio, norm):
    c, rng = ratio * kappa, np.random.default_rng(0)
    mean = np.zeros(3)
    mean[0] = norm * c
    along = clipping_theory.clipped(mean + exponential_noise(rng, 200_000, 3, kappa), c) @ mean
    error = 4.0 * along.std() / len(along) ** 0.5
    assert clipping_theory.alignment(c, kappa).lower(norm * c) <= along.mean() + error


def test_alignment_at_the_clip_norm_of_the_theorem():
    made = clipping_theory.alignment(4.0 * log(10.0), 1.0)
    assert made.quadratic == pytest.approx(9 / 20, rel=1e-12)
    assert made.linear == pytest.approx(4.0 * log(10.0) / 20.0, rel=1e-12)
    assert clipping_theory.alignment(1e-300, 1.0).offset == inf


@pytest.mark.parametrize(
    ("law", "c"), [("normal", 0.5), ("normal", 3.0), ("cauchy", 2.0), ("exponential", 1.0)]
)
def test_bias_bounds(law, c):
    rng = np.random.default_rng(1)
    noise = {"normal": rng.normal, "cauchy": rng.standard_cauchy, "exponential": rng.exponential}[
        law
    ](size=(5000, 4))
    found = clipping_theory.bias(noise - 0.2, c)
    assert 0.0 < found.norm <= found.excess <= found.second_moment
    assert found.excess <= found.near


def test_formulas_at_fifty_digits():
    mpmath.mp.dps = 50
    m = mpmath.mpf
    p, kappa, c = PROBLEM, m(0.7), m(9)
    x = mpmath.exp(-c / (4 * kappa))
    made = clipping_theory.alignment(9.0, 0.7)
    assert made.offset == pytest.approx(float(((c / 4 + kappa) * x / (1 - x)) ** 2), rel=1e-13)
    l = mpmath.log(1 / m(p.delta))
    n_eps = m(p.dataset_size) * m(p.epsilon)
    assert clipping_theory.horizon(p) == pytest.approx(float(n_eps**2 / (10 * l)), rel=1e-13)
    assert clipping_theory.step_size(p, 9.0, 0.1) == pytest.approx(
        float(mpmath.sqrt(3 * 10 * l / 2) / (n_eps * 9 / m(0.1))), rel=1e-13
    )
    root = mpmath.sqrt(m(3) * m(101) / 12 * 2 * 10 * l) / n_eps
    tau, w, q, v = m(0.01), m(0.2), m(0.05), m(1.5)
    expected = (v / 2 + m(5) / 2) * c * root + 28 * c * 2 * 10 * l * w / (12 * q * n_eps**2)
    expected += (
        c
        * 10
        * l
        * mpmath.sqrt(m(101) / 12)
        * m(2) ** 1.5
        / (q * n_eps * mpmath.sqrt(3))
        * (50 * 10 * tau**2 / 12 + 21 * w**2 / 24)
    )
    made = clipping_theory.rate_mixing(
        p, clip_norm=9.0, noise=1.5, sample_rate=0.05, mixing_energy=50 * 10 * 0.01**2, start=0.2
    )
    assert made == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("kappa", [1e-6, 0.01, 0.3, 5.0])
def test_the_clip_floor_meets_the_condition_of_the_proof_and_no_smaller_one_does(kappa):
    c = clipping_theory.clip_floor(PROBLEM, kappa)

    def met(c):
        return c >= 4 * kappa * log(10) and c / (2 * kappa) - log(
            (c / 4 + kappa) ** 2 / c
        ) >= 0.4 - log(PROBLEM.floor)

    assert met(c * (1 + 1e-12))
    assert not met(c * (1 - 1e-8))
    assert clipping_theory.alignment(c, kappa).offset <= exp(-0.4) / 0.81 * c * PROBLEM.floor * (
        1 + 1e-9
    )


def test_the_rate_follows_from_the_mean_alignment_and_the_floor():
    kappa, batch = 0.05, 4.0
    c, steps = clipping_theory.clip_floor(PROBLEM, kappa), round(clipping_theory.horizon(PROBLEM))
    for z in (0.5, 2.0, 50.0):
        v = clipping_theory.noise_constant(PROBLEM, z, batch, steps)
        made = clipping_theory.mean_alignment(
            PROBLEM,
            clip_norm=c,
            learning_rate=clipping_theory.step_size(PROBLEM, c),
            steps=steps,
            batch_size=batch,
            noise_multiplier=z,
        )
        assert (
            made + clipping_theory.alignment(c, kappa).offset
            <= clipping_theory.rate(PROBLEM, c, v) * 1.001
        )  # steps are rounded


def run_quadratic(problem, *, kappa, c, eta, steps, batch, z, gap, runs=200):
    """DP-SGD or ModelMix on F = beta |w|^2 / 2 with exponential noise; the gradients of all steps,
    [steps, runs, d]."""
    rng, d, n = np.random.default_rng(2), problem.dimension, problem.dataset_size
    w = np.zeros((runs, d))
    w[:, 0] = (2 * problem.initial_loss / problem.beta) ** 0.5
    last, seen = w.copy(), []
    for _ in range(steps):
        seen.append(problem.beta * w)
        size = rng.binomial(n, batch / n)
        noisy = seen[-1][:, None] + exponential_noise(rng, runs * size, d, kappa).reshape(
            runs, size, d
        )
        norms = np.maximum(np.linalg.norm(noisy, axis=2), c)
        total = (noisy * (c / norms)[..., None]).sum(1) + z * c * rng.normal(size=w.shape)
        mixed = w
        if gap:
            width = np.maximum(np.abs(w - last), gap * eta)
            mixed = (w + last) / 2 + (rng.random(w.shape) - 0.5) * width
        w, last = mixed - eta * total / batch, w
    return np.array(seen)


@pytest.mark.parametrize("gap", [0.0, 0.05])
def test_rates_of_nonconvex_training_by_simulation(gap):
    problem = Problem(
        beta=1.0, initial_loss=2.0, dimension=5, dataset_size=200, epsilon=0.5, delta=1e-3
    )
    kappa, batch, steps = 0.02, 20.0, round(clipping_theory.horizon(problem))
    c, z = clipping_theory.clip_floor(problem, kappa), 8.0
    eta = clipping_theory.step_size(problem, c, 1.0 if gap == 0.0 else batch / problem.dataset_size)
    norms = np.linalg.norm(
        run_quadratic(problem, kappa=kappa, c=c, eta=eta, steps=steps, batch=batch, z=z, gap=gap),
        axis=2,
    )
    reached = np.minimum(9 / 20 * norms**2, c / 20 * norms).mean()
    v = clipping_theory.noise_constant(problem, z, batch, steps)
    bound = clipping_theory.rate(problem, c, v)
    if gap:
        energy = steps * problem.dimension * (gap * eta) ** 2
        bound = clipping_theory.rate_mixing(
            problem, clip_norm=c, noise=v, sample_rate=0.1, mixing_energy=energy
        )
    assert 0.0 < reached <= bound


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_rate_of_convex_training_by_simulation(gap):
    """Smoothed |w - x_i| in two dimensions (Huber, 1-Lipschitz, beta = 10), records on a circle:
    the minimum is at 0."""
    rng, n, steps, q, z, beta, g, runs = np.random.default_rng(3), 40, 60, 0.25, 1.0, 10.0, 0.3, 300
    angles = 2 * np.pi * np.arange(n) / n
    x, w, batch, eta = (
        np.stack([np.cos(angles), np.sin(angles)], 1),
        np.zeros((300, 2)),
        q * n,
        g / steps**0.5,
    )

    def loss(w):
        r = np.linalg.norm(w[:, None] - x, axis=2)
        return np.where(r < 1 / beta, beta * r**2 / 2, r - 1 / (2 * beta)).mean(1)

    w[:, 0] = 1.0
    last, total = w.copy(), np.zeros_like(w)
    for _ in range(steps):
        away = w[:, None] - x
        gradients = away / np.maximum(np.linalg.norm(away, axis=2), 1 / beta)[..., None]
        sampled = (rng.random((runs, n)) < q)[..., None] * gradients
        width = np.maximum(np.abs(w - last), gap * eta) if gap else np.abs(w - last) * 0
        middle = (w + last) / 2 if gap else w
        total += middle
        mixed = middle + (rng.random(w.shape) - 0.5) * width
        w, last = mixed - eta * (sampled.sum(1) + z * rng.normal(size=w.shape)) / batch, w
    bound = clipping_theory.rate_convex(
        lipschitz=1.0,
        beta=beta,
        distance=2.0,
        steps=steps,
        sample_rate=q,
        dataset_size=n,
        noise_energy=2 * z**2,
        mixing_energy=steps * 2 * (gap * eta) ** 2,
        step_constant=g,
    )
    assert 0.0 < (loss(total / steps) - loss(np.zeros((1, 2)))).mean() <= bound


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), inf])
def test_bad_input_is_one_clear_line(bad):
    with pytest.raises(ValueError, match="clip_norm"):
        clipping_theory.alignment(bad, 1.0)
    with pytest.raises(ValueError, match="kappa"):
        clipping_theory.clip_floor(PROBLEM, bad)
