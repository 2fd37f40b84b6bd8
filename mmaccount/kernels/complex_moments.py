"""Moments of complex order of one mixed coordinate, for many shifts and for many orders on vertical
lines."""

from math import ceil, cos, exp, pi, sin

import numpy as np

from mmaccount.kernels import gaussian, smooth_density
from mmaccount.kernels.logspace import jit

WINDOW = 12.0  # std beyond an edge or a peak; what is cut off is below 1e-30 of the integral
LANES = 8  # frequencies at a time


@jit
def _step(v: float, highest: float) -> float:
    """Step of the trapezoid rule, at shift v and frequencies up to `highest` (see `lines_of_moments`)."""
    return pi / (1.5 * v * highest + 30.0)


@jit
def _uniform_nodes(
    v: float, width: float, step: float, farthest: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Points and trapezoid weights, and the length of the stretch between the edges that is left
    out as flat."""
    first, last = -width - WINDOW, farthest * v + WINDOW
    apart = width - 2.0 * WINDOW - v
    if apart <= 0.0:
        x, weight = _trapezoid(first, last, step)
        return x, weight, 0.0
    x, weight = _trapezoid(first, -width + WINDOW + v, step)
    right, right_weight = _trapezoid(-WINDOW, last, step)
    return np.concatenate((x, right)), np.concatenate((weight, right_weight)), apart


@jit
def _trapezoid(lo: float, hi: float, step: float) -> tuple[np.ndarray, np.ndarray]:
    size = ceil((hi - lo) / step)
    weight = np.full(size + 1, (hi - lo) / size)
    weight[0] *= 0.5
    weight[-1] *= 0.5
    return lo + (hi - lo) / size * np.arange(size + 1), weight


@jit
def _add_real(
    log_r: float, score: float, score_0: float, t: float, weight: float, real: np.ndarray
) -> float:
    """Add up one node of the real integrals at one tilt; weight * p * r^{1+t} is returned."""
    power = weight * exp((1.0 + t) * log_r)
    real[0] += power
    real[1] += power * score**2
    real[2] += power * score**4
    real[3] += power * score * ((1.0 + t) * score - t * score_0)
    return power


@jit
def _add_lines(
    nodes: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    tilts: np.ndarray,
    spacing: float,
    out: np.ndarray,
    real: np.ndarray,
) -> None:
    """Add up one shift. `nodes`: weight * p, log r, score at x - v, score at x. LANES frequencies
    at a time, by turning the last ones further: independent of each other, so that the processor
    takes them at once."""
    blocks = ceil(out.shape[1] / LANES)
    cosines, sines = np.zeros((tilts.size, blocks, LANES)), np.zeros((tilts.size, blocks, LANES))
    powers, c, s = np.empty(tilts.size), np.empty(LANES), np.empty(LANES)
    mean = 0.0
    for k in range(nodes[0].size):
        weight, log_r = nodes[0][k], nodes[1][k]
        mean += weight * (exp(log_r) - 1.0)
        for a in range(tilts.size):
            powers[a] = _add_real(log_r, nodes[2][k], nodes[3][k], tilts[a], weight, real[a])
        for i in range(LANES):
            c[i], s[i] = cos(i * spacing * log_r), sin(i * spacing * log_r)
        turn_c, turn_s = cos(LANES * spacing * log_r), sin(LANES * spacing * log_r)
        for b in range(blocks):
            for a in range(tilts.size):
                for i in range(LANES):
                    cosines[a, b, i] += powers[a] * c[i] - weight
                    sines[a, b, i] += powers[a] * s[i]
            for i in range(LANES):
                c[i], s[i] = c[i] * turn_c - s[i] * turn_s, c[i] * turn_s + s[i] * turn_c
    for a in range(tilts.size):
        for j in range(out.shape[1]):
            at = complex(cosines[a, j // LANES, j % LANES], sines[a, j // LANES, j % LANES])
            out[a, j] += at - complex(1.0 + tilts[a], j * spacing) * mean


@jit
def lines_of_moments(
    shifts: np.ndarray, width: float, tilts: np.ndarray, spacing: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """F(w) - 1 = Int p(x) (r^w - 1 - w (r - 1)) dx at w = 1 + t + i j spacing, j < count, with r =
    p(x - v)/p(x); and the real Int p(x) r^{1+t} f(x - v) dx for f = 1, g'^2, g'^4 and g'', g = -log
    p (the last by parts).

    Shapes: (tilts, shifts, count) complex and (tilts, shifts, 4). Trapezoid rule: |arg r(x + i)| <=
    3 v (as |d/dx arg p(x + iy)| <= y + y / (1 - y^2/2), the posterior of the mixing given x having
    variance at most 1) and the bounds on |p(x + i)| of gaussian.py put the integrand below e^{3 v
    |Im w|} 2^{t} e^{(1+t)/2} times its size on the real line, so the step below leaves e^-60 times
    that.
    """
    out = np.zeros((tilts.size, shifts.size, count), dtype=np.complex128)
    real = np.zeros((tilts.size, shifts.size, 4))
    for i in range(shifts.size):
        v = shifts[i]
        x, weight, apart = _uniform_nodes(v, width, _step(v, spacing * count), 2.0 + np.max(tilts))
        for j in range(tilts.size):
            real[j, i, 0] += apart / width
        log_r, score, score_0 = np.empty(x.size), np.empty(x.size), np.empty(x.size)
        for k in range(x.size):
            weight[k] *= exp(gaussian.log_density(x[k], width)) / width
            log_r[k] = gaussian._log_ratio(x[k], -v, width)
            score[k], score_0[k] = gaussian._score(x[k] - v, width), gaussian._score(x[k], width)
        _add_lines((weight, log_r, score, score_0), tilts, spacing, out[:, i], real[:, i])
    return out, real


@jit
def lines_of_moments_of_law(
    shifts: np.ndarray, law: smooth_density.Mixing, tilts: np.ndarray, spacing: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """`lines_of_moments` for mixing by any log-concave law, which is all that its bounds need.

    Nothing is left out between the edges.
    """
    out = np.zeros((tilts.size, shifts.size, count), dtype=np.complex128)
    real = np.zeros((tilts.size, shifts.size, 4))
    for i in range(shifts.size):
        v = shifts[i]
        last = (2.0 + np.max(tilts)) * v + WINDOW
        x, weight = _trapezoid(-law.width - WINDOW, last, _step(v, spacing * count))
        log_r, score, score_0 = np.empty(x.size), np.empty(x.size), np.empty(x.size)
        for k in range(x.size):
            weight[k] *= exp(smooth_density.log_density(x[k], law)) / law.width
            log_r[k] = smooth_density.log_ratio(x[k], -v, law)
            score[k], score_0[k] = (
                smooth_density.score(x[k] - v, law),
                smooth_density.score(x[k], law),
            )
        _add_lines((weight, log_r, score, score_0), tilts, spacing, out[:, i], real[:, i])
    return out, real
