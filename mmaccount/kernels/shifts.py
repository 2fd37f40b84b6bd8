"""Moments of complex order of one mixed coordinate, for many shifts and for many orders on vertical lines."""

from math import ceil, cos, exp, pi, sin

import numpy as np

from mmaccount.kernels.gaussian import _log_ratio, _score, log_density
from mmaccount.kernels.logspace import jit

REACH = 12.0  # std beyond an edge or a peak; what is cut off is below 1e-30 of the integral


@jit
def lines_of_moments(
    shifts: np.ndarray, width: float, tilts: np.ndarray, spacing: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """F(w) - 1 = Int p(x) (r^w - 1 - w (r - 1)) dx at w = 1 + t + i j spacing, j < count, with r = p(x - v)/p(x); and the
    real Int p(x) r^{1+t} f(x - v) dx for f = 1, g'^2, g'^4 and g'', g = -log p (the last by parts).

    Shapes: (tilts, shifts, count) complex and (tilts, shifts, 4). Trapezoid rule: |arg r(x + i)| <= 3 v (as |d/dx arg p(x
    + iy)| <= y + y / (1 - y^2/2), the posterior of the mixing given x having variance at most 1) and the bounds on |p(x +
    i)| of gaussian.py put the integrand below e^{3 v |Im w|} 2^{t} e^{(1+t)/2} times its size on the real line, so the
    step below leaves e^-60 times that.
    """
    out = np.zeros((tilts.size, shifts.size, count), dtype=np.complex128)
    real = np.zeros((tilts.size, shifts.size, 4))
    farthest = 2.0 + np.max(tilts)
    for i in range(shifts.size):
        v = shifts[i]
        step = pi / (1.5 * v * spacing * count + 30.0)
        first, last = -width - REACH, farthest * v + REACH
        apart = width - 2.0 * REACH - v
        windows = [(first, last)]
        if apart > 0.0:
            windows = [(first, -width + REACH + v), (-REACH, last)]
            real[:, i, 0] += apart / width
        mean = 0.0
        for lo, hi in windows:
            size = ceil((hi - lo) / step)
            fine = (hi - lo) / size
            for k in range(size + 1):
                x = lo + fine * k
                weight = fine * exp(log_density(x, width)) / width * (0.5 if k == 0 or k == size else 1.0)
                log_r = _log_ratio(x, -v, width)
                score, score_0 = _score(x - v, width), _score(x, width)
                mean += weight * (exp(log_r) - 1.0)
                turn = complex(cos(spacing * log_r), sin(spacing * log_r))
                for a in range(tilts.size):
                    t = tilts[a]
                    power = weight * exp((1.0 + t) * log_r)
                    real[a, i, 0] += power
                    real[a, i, 1] += power * score**2
                    real[a, i, 2] += power * score**4
                    real[a, i, 3] += power * score * ((1.0 + t) * score - t * score_0)
                    now = complex(power)
                    row = out[a, i]
                    for j in range(count):
                        row[j] += now - weight
                        now *= turn
        for a in range(tilts.size):
            for j in range(count):
                out[a, i, j] -= complex(1.0 + tilts[a], j * spacing) * mean
    return out, real
