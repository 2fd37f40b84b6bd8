"""What clipping costs in accuracy: the theory of arXiv 2210.03843 as functions, every constant
computed.

F is the mean loss, grad F its gradient, g the gradient of one random record, noise = g - grad F. F
is beta-smooth. Clipping to norm c is g min(1, c/|g|). Nothing here bears on privacy. Units: clip
norm and kappa are gradients, beta is gradient per weight, `initial_loss` is R_F = F(start) - inf F.
"""

from math import exp, inf, log, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmaccount.accounting.search import safe_end
from mmaccount.records import validate

Array = npt.NDArray[np.float64]
MIXING_SMOOTHNESS = 101.0 / 12.0  # factor on beta that mixing costs in the proof of Theorem 3.2


class Alignment(NamedTuple):
    """E<grad F, clipped g> >= min(quadratic |grad F|^2 - offset, linear |grad F|)."""

    quadratic: float
    offset: float
    linear: float

    def lower(self, gradient_norm: float) -> float:
        """The right-hand side."""
        return min(self.quadratic * gradient_norm**2 - self.offset, self.linear * gradient_norm)


def alignment(clip_norm: float, kappa: float) -> Alignment:
    """How far the expected clipped gradient points along the true one, if P(|noise| >= t) <=
    exp(-t/kappa) for t >= c/4.

    With x = exp(-c/(4 kappa)): quadratic (1 - x)/2, offset ((c/4 + kappa) x / (1 - x))^2, linear c
    (1/6 - 7/6 x). Proof. Let A be |noise| <= c/4, so P(not A) <= x and E[|noise|; not A] <= v =
    (c/4 + kappa) x. If |grad F| <= 3c/4, nothing is clipped on A; with the clipping factor a of a
    record, E<grad F, clipped> = |grad F|^2 (P(A) + E[a; not A]) - E[(1 - a) <grad F, noise>; not A]
    >= (1 - x) |grad F|^2 - v |grad F| >= (1 - x)/2 |grad F|^2 - v^2 / (2 (1 - x)), and v^2 / (2 (1
    - x)) <= offset. Otherwise |noise| <= |grad F|/3 on A, where <grad F, clipped> >= c |grad F| /
    2; off A it is >= -c |grad F|; so the mean is at least c (1/2 - 3/2 x) |grad F| >= linear |grad
    F|.

    Source: arXiv 2210.03843, Lemma B.1 with c0 = c/4.
    """
    c, kappa = validate.positive("clip_norm", clip_norm), validate.positive("kappa", kappa)
    x = exp(-c / (4.0 * kappa))
    offset = ((c / 4.0 + kappa) * x / (1.0 - x)) ** 2 if x < 1.0 else inf
    return Alignment(quadratic=(1.0 - x) / 2.0, offset=offset, linear=c * (1.0 - 7.0 * x) / 6.0)


class Problem(NamedTuple):
    """What the rates are about: smoothness beta, R_F, number of weights d, records n, and the
    target."""

    beta: float
    initial_loss: float
    dimension: int
    dataset_size: int
    epsilon: float
    delta: float

    @property
    def log_delta(self) -> float:
        """log(1/delta)."""
        return log(1.0 / self.delta)

    @property
    def floor(self) -> float:
        """sqrt(R_F beta d log(1/delta)) / (n epsilon), a gradient: what privacy noise alone leaves
        unresolved."""
        energy = self.initial_loss * self.beta * self.dimension * self.log_delta
        return sqrt(energy) / (self.dataset_size * self.epsilon)


def clip_floor(problem: Problem, kappa: float) -> float:
    """The smallest clip norm for which the proof of Theorem 3.2 goes through: clipping bias below
    the noise floor.

    The smallest c >= 4 kappa ln 10 with c/(2 kappa) - ln((c/4 + kappa)^2 / c) >= 0.4 -
    ln(problem.floor); the left side grows with c. By it the offset of Lemma B.1 is at most
    exp(-0.4) / 0.81 < 0.83 times c problem.floor. Eq. (12) of the paper states the same with an
    unnamed constant.
    """
    kappa = validate.positive("kappa", kappa)
    least, wanted = 4.0 * kappa * log(10.0), 0.4 - log(validate.positive("floor", problem.floor))

    def excess(c: float) -> float:
        return wanted - c / (2.0 * kappa) + 2.0 * log(c / 4.0 + kappa) - log(c)

    if excess(least) <= 0.0:
        return least
    enough = 2.0 * least
    while excess(enough) > 0.0:
        enough *= 2.0
    return safe_end(excess, enough, least)


def horizon(problem: Problem) -> float:
    """Steps of Theorem B.1: T = (n epsilon)^2 / (d log(1/delta))."""
    return (problem.dataset_size * problem.epsilon) ** 2 / (problem.dimension * problem.log_delta)


def step_size(problem: Problem, clip_norm: float, sample_rate: float = 1.0) -> float:
    """Learning rate of Theorem B.1 on the averaged gradient: sqrt(R_F d log(1/delta) / beta) / (n
    epsilon c / q).

    The factor q stems from bounding the average by c/q (every record in one batch). The rate (23)
    itself is met without it, sample_rate = 1: there it follows from `mean_alignment` and
    `clip_floor`.
    """
    root = sqrt(problem.initial_loss * problem.dimension * problem.log_delta / problem.beta)
    return root * sample_rate / (problem.dataset_size * problem.epsilon * clip_norm)


def noise_constant(
    problem: Problem, noise_multiplier: float, batch_size: float, steps: int
) -> float:
    """The v of the rates: noise energy d (z c / B)^2 of an averaged gradient over c^2 T d
    log(1/delta) / (n epsilon)^2.

    Nearly constant over plans that meet the same target: z grows like q sqrt(T).
    """
    scale = problem.dataset_size * problem.epsilon * noise_multiplier / batch_size
    return scale**2 / (steps * problem.log_delta)


def mean_alignment(
    problem: Problem,
    *,
    clip_norm: float,
    learning_rate: float,
    steps: int,
    batch_size: float,
    noise_multiplier: float,
) -> float:
    """Upper bound on the mean over steps of E<grad F, expected clipped gradient>, plain DP-SGD, any
    F:
    R_F / (eta T) + beta eta / 2 * c^2 (1 + 1/B + d z^2 / B^2).

    Proof: smoothness gives E F(w') <= F(w) - eta <grad F, m> + beta eta^2 / 2 E|step|^2, where the
    step is a Poisson sample's sum over B plus noise: E|step|^2 <= |m|^2 + E|clipped|^2 / B + d (z c
    / B)^2 with |m|, |clipped| <= c.
    """
    energy = 1.0 + 1.0 / batch_size + problem.dimension * (noise_multiplier / batch_size) ** 2
    descent = problem.initial_loss / (learning_rate * steps)
    return descent + problem.beta * learning_rate / 2.0 * clip_norm**2 * energy


def rate(problem: Problem, clip_norm: float, noise: float) -> float:
    """Upper bound on the mean over steps of min(9/20 |grad F|^2, c/20 |grad F|) of plain DP-SGD, at
    the horizon and step size of Theorem B.1 and a clip norm from `clip_floor` up: (v/2 + 5/2) c
    sqrt(R_F beta d log(1/delta)) / (n epsilon).

    Proof: Lemma B.1 at c >= 4 kappa ln 10 has quadratic 9/20, linear c/20; `mean_alignment` there
    is (3/2 + 1/(2B) + v/2) c floor and the offset is below 0.83 c floor, so it holds from batches
    of 4 on. Source: arXiv 2210.03843, Eq. (23).
    """
    return (noise / 2.0 + 2.5) * clip_norm * problem.floor


def rate_mixing(
    problem: Problem,
    *,
    clip_norm: float,
    noise: float,
    sample_rate: float,
    mixing_energy: float,
    start: float = 0.0,
) -> float:
    """The bound of `rate` with mixing, as published.

    `mixing_energy` is the sum of d tau_k^2 over steps, `start` is W = |w_0 - w_-1|.

    (v/2 + 5/2) c sqrt(R_F 101/12 beta d l) / (n e) + 28 c beta d l W / (12 q (n e)^2)
    + c d l sqrt(101/12) beta^(3/2) / (q n e sqrt(R_F)) (sum d tau_k^2 / 12 + 21 W^2 / 24),  l =
    log(1/delta), e = epsilon. Source: arXiv 2210.03843, Theorem 3.2, Eq. (13).
    """
    n_eps, energy = problem.dataset_size * problem.epsilon, problem.dimension * problem.log_delta
    first = sqrt(MIXING_SMOOTHNESS) * rate(problem, clip_norm, noise)
    second = 28.0 * clip_norm * problem.beta * energy * start / (12.0 * sample_rate * n_eps**2)
    scale = (
        clip_norm
        * energy
        * sqrt(MIXING_SMOOTHNESS * problem.beta**3 / problem.initial_loss)
        / (sample_rate * n_eps)
    )
    return first + second + scale * (mixing_energy / 12.0 + 21.0 * start**2 / 24.0)


def rate_convex(
    *,
    lipschitz: float,
    beta: float,
    distance: float,
    steps: int,
    sample_rate: float,
    dataset_size: int,
    noise_energy: float,
    mixing_energy: float,
    step_constant: float,
) -> float:
    """Theorem 3.1: an upper bound on E F(average of midpoints) - min F.

    For convex, L-Lipschitz losses clipped at c = L, as published:

    (3 W^2 + sum d tau_k^2/12) / (2 g sqrt T) + g (L^2/q^2 + S/(n q)^2) / sqrt T
    + beta (12 W^2/(8 T) + 2 g W (L + sqrt S / n) / (q T^(3/2)) + 11 g^2 (L^2 + S/n^2) / (8 T q^2)).

    Args:
        lipschitz: L.
        beta: smoothness.
        distance: W = sup |w - w*|.
        noise_energy: S = E|Delta|^2 = d (z c)^2 of the noise on the sum.
        mixing_energy: the sum of d tau_k^2 over steps.
        step_constant: g; the learning rate is g / sqrt(T) on the averaged gradient.

    Source: arXiv 2210.03843, Theorem 3.1, Eq. (11).
    """
    g, q, n, root = step_constant, sample_rate, dataset_size, sqrt(steps)
    first = (3.0 * distance**2 + mixing_energy / 12.0) / (2.0 * g * root)
    second = g * (lipschitz**2 / q**2 + noise_energy / (n * q) ** 2) / root
    third = 12.0 * distance**2 / (8.0 * steps)
    third += 2.0 * g * distance * (lipschitz + sqrt(noise_energy) / n) / (q * steps * root)
    third += 11.0 * g**2 * (lipschitz**2 + noise_energy / n**2) / (8.0 * steps * q**2)
    return first + second + beta * third


class Bias(NamedTuple):
    """|E clipped - grad F| and upper bounds on it; `near` needs |grad F| <= c/2 and is inf
    otherwise."""

    norm: float
    excess: float
    second_moment: float
    near: float


def bias(gradients: npt.ArrayLike, clip_norm: float) -> Bias:
    """Bias of clipping for records that are equally likely, and what bounds it:

    excess = E(|g| - c)_+ >= norm, since clipping moves a record by (|g| - c)_+; second_moment =
    E|g|^2 / (4 c) >= excess, since (x - c)_+ <= x^2 / (4 c); near = E|noise|^2 / (2 c) if |grad F|
    <= c/2, since then |g| - c <= |noise| - c/2.

    The paper's Example 3.1, where the mean is 20:

    >>> f"{float(clipped([[-20.0], [-10.0], [90.0]], 1.0).mean()):.4f}"
    '-0.3333'
    """
    rows = np.asarray(gradients, dtype=np.float64)
    mean, norms = rows.mean(0), np.linalg.norm(rows, axis=1)
    moved = clipped(rows, clip_norm).mean(0) - mean
    variance = float(np.square(rows - mean).sum(1).mean())
    return Bias(
        norm=float(np.linalg.norm(moved)),
        excess=float(np.maximum(norms - clip_norm, 0.0).mean()),
        second_moment=float(np.square(norms).mean()) / (4.0 * clip_norm),
        near=variance / (2.0 * clip_norm) if 2.0 * np.linalg.norm(mean) <= clip_norm else inf,
    )


def clipped(gradients: npt.ArrayLike, clip_norm: float) -> Array:
    """Rows scaled to l2 norm at most `clip_norm`."""
    rows, c = np.asarray(gradients, dtype=np.float64), validate.positive("clip_norm", clip_norm)
    shortened: Array = rows * (c / np.maximum(np.linalg.norm(rows, axis=1), c))[:, None]
    return shortened
