"""The privacy loss of a step in which several records may take part, as nodes and weights (see
loss.py).

P = sum_i a_i N(i v, 1) against Q = sum_j b_j N(-j v, 1), loss log r, r = P/Q, increasing in x; both
are given over phi, as A(x) = sum_i a_i e^{i v x - (i v)^2/2} and B(x) = sum_j b_j e^{-j v x - (j
v)^2/2}.
"""

from math import atan2, ceil, cos, exp, expm1, inf, log, log1p, pi, sin

import numpy as np

from mmaccount.kernels.logspace import LOG_SQRT_2PI, jit, log_add, log_total, scaled_add
from mmaccount.kernels.loss import LOG_ACCURACY, SHARPNESS, WINDOW, _log_kept

WIDEST_ANGLE = 0.499  # angle over pi at the edge of the widest strip of analyticity that is tried
NARROWER, STRIPS = 0.6, 16  # factor from one strip to the next, and how many are tried at most


@jit
def _arm(
    x: float, shift: float, log_weights: np.ndarray, angle: float
) -> tuple[float, float, float]:
    """For C(x) = sum_i w_i e^{i shift x - (i shift)^2/2}: log C(x); and on all lines |Im x| <=
    angle/|shift|, a lower bound on log|C| and an upper one on |arg C|, while angle times the
    largest i is at most pi/2.

    Re e^{i (a + i b)} = e^{i a} cos(i b) falls and |Im| rises with |b|, for every i, and |C| >= Re
    C.
    """
    top = -inf
    for i in range(log_weights.size):
        top = max(top, log_weights[i] + i * shift * (x - 0.5 * i * shift))
    total = along = across = excess = 0.0
    for i in range(log_weights.size):
        l = i * shift * (x - 0.5 * i * shift)
        part = exp(log_weights[i] + l - top)
        total += part
        along += part * cos(i * angle)
        across += part * sin(i * angle)
        weight = exp(log_weights[i])
        excess += weight * expm1(l) if l < 1.0 else exp(min(log_weights[i] + l, 600.0)) - weight
    value = log1p(excess) if abs(excess) < 0.5 else top + log(total)
    return value, top + log(along), atan2(across, along)


@jit
def _log_growth(
    strip: float,
    shift: float,
    log_a: np.ndarray,
    log_b: np.ndarray,
    order: float,
    frequency: float,
    cut: float,
    lo: float,
    hi: float,
) -> float:
    """log of a bound on Int |phi A^k B^{1-k}| on every line |Im x| <= strip, Re k = order, |Im k|
    <= frequency, over the same on the real line at k = order (see loss.py for the probability that
    an outcome is kept)."""
    step = 0.25 / max(1.0, shift * max(log_a.size, log_b.size))
    edge = SHARPNESS * strip
    peak, total, real_peak, real_total = -inf, 0.0, -inf, 0.0
    for i in range(ceil((hi - lo) / step) + 1):
        x = lo + step * i
        log_in, low_in, arg_in = _arm(x, shift, log_a, strip * shift)
        log_out, low_out, arg_out = _arm(x, -shift, log_b, strip * shift)
        kept, u = _log_kept(x, cut), SHARPNESS * (x - cut)
        kept_there = log_add(kept, log(edge) + 0.5 * edge * edge - 0.5 * u * u - LOG_SQRT_2PI)
        modulus = order * (log_in if order > 0.0 else low_in) + (1.0 - order) * (
            log_out if order < 1.0 else low_out
        )
        term = modulus - 0.5 * x * x + kept_there + frequency * (arg_in + arg_out)
        real = order * log_in + (1.0 - order) * log_out - 0.5 * x * x + kept
        peak, total = scaled_add(peak, total, term, 1.0)
        real_peak, real_total = scaled_add(real_peak, real_total, real, 1.0)
    return 0.5 * strip * strip + log_total(peak, total) - log_total(real_peak, real_total)


@jit
def _peaks(
    shift: float, log_a: np.ndarray, log_b: np.ndarray, order: float, cut: float
) -> tuple[float, float]:
    """The integrand at this order, P and Q peak between these two; an order below 0 needs Q = N(0,
    1).

    (log A)' lies between 0 and shift times the largest i, and increases; (log B)' likewise with the
    other sign.
    """
    far_in, far_out, held = (
        shift * (log_a.size - 1),
        shift * (log_b.size - 1),
        SHARPNESS * SHARPNESS,
    )
    far = max(order * far_in + (order - 1.0) * far_out, far_in)
    lo = -far_out
    while order < 0.0:
        near, _, _ = _arm(lo, shift, log_a, 0.0)
        slope = 0.0
        for i in range(log_a.size):
            slope += i * shift * exp(log_a[i] + i * shift * (lo - 0.5 * i * shift) - near)
        if -lo >= -order * slope:
            break
        lo -= 1.0
    return lo, min(far, max(cut, (far + held * cut) / (1.0 + held)))


@jit
def grid(
    shift: float,
    log_a: np.ndarray,
    log_b: np.ndarray,
    order: float,
    frequency: float,
    cut: float,
    log_accuracy: float = LOG_ACCURACY,
) -> tuple[float, float, float]:
    """(first point, step, number of steps) of the trapezoid rule in x, good for E_Q[r^k], Re k =
    order, |Im k| <= frequency, to e^-log_accuracy.

    No zero of A or B is in the strips tried.
    """
    lo, hi = _peaks(shift, log_a, log_b, order, cut)
    lo, hi = lo - WINDOW, hi + WINDOW
    best, strip = 0.0, min(1.5, WIDEST_ANGLE * pi / shift / (max(log_a.size, log_b.size) - 1))
    for _ in range(STRIPS):
        growth = _log_growth(strip, shift, log_a, log_b, order, frequency, cut, lo, hi)
        for k in (0.0, 1.0):  # Q and P
            growth = max(growth, _log_growth(strip, shift, log_a, log_b, k, 0.0, cut, lo, hi))
        step = 2.0 * pi * strip / (log_accuracy + growth)
        if step < best:  # any strip will do, and narrower ones are now worse
            break
        best = step
        strip *= NARROWER
    count = float(ceil((hi - lo) / best))
    return lo, (hi - lo) / count, count


@jit
def nodes(
    shift: float,
    log_a: np.ndarray,
    log_b: np.ndarray,
    order: float,
    frequency: float,
    cut: float,
    log_accuracy: float = LOG_ACCURACY,
) -> tuple[np.ndarray, np.ndarray]:
    """(log_ratio, log_weight) on the grid; the weight is the density of Q times the probability
    that x is kept."""
    lo, step, steps = grid(shift, log_a, log_b, order, frequency, cut, log_accuracy)
    count = int(steps)
    log_ratio, log_weight = np.empty(count + 1), np.empty(count + 1)
    for i in range(count + 1):
        x = lo + step * i
        log_in, _, _ = _arm(x, shift, log_a, 0.0)
        log_out, _, _ = _arm(x, -shift, log_b, 0.0)
        log_ratio[i] = log_in - log_out
        log_weight[i] = log(step) + log_out - 0.5 * x * x - LOG_SQRT_2PI + _log_kept(x, cut)
    return log_ratio, log_weight
