"""The privacy loss of one step, as nodes and weights, and its moment generating function at complex
arguments.

The loss is log R at x ~ P_0; a law of it is a pair of arrays (log_ratio, log_weight), the nodes of
a trapezoid rule in x.
"""

from math import atan2, ceil, cos, erfc, exp, expm1, inf, log, log1p, pi, sin, sqrt

import numpy as np

from mmaccount.kernels.logspace import (
    LOG_SQRT_2PI,
    erfcx,
    expm1_minus,
    jit,
    log_add,
    log_excess,
    log_mixture_ratio,
    log_total,
    scaled_add,
    softplus,
)

WINDOW = 12.0  # std beyond the outermost peak; what is cut off is below 1e-31 of the integral
LOG_ACCURACY = 44.0  # trapezoid error e^-44 = 1e-19, growth of the integrand in its strip included
HIGH_LOG_ACCURACY = 64.0  # the same, 1e-28, for runs so long that errors of a step add up
NEGLIGIBLE_EXPONENT = -85.0  # terms below e^-85 are skipped
SHARPNESS = 4.0  # of the edge beyond which outcomes are left out, in 1/std
SERIES_BELOW = 0.25  # squared |k log r| below which e^w - 1 - w is summed as a series
SERIES_END = 17


@jit
def _log_kept(x: float, cut: float) -> float:
    """log Phi(SHARPNESS (cut - x)), the probability that outcome x is kept."""
    u = SHARPNESS * (x - cut) / sqrt(2.0)
    return log(0.5 * erfc(u)) if u < 4.0 else log(0.5 * erfcx(u)) - u * u


@jit
def _log_growth(
    strip: float,
    shift: float,
    q: float,
    order: float,
    frequency: float,
    cut: float,
    lo: float,
    hi: float,
) -> float:
    """log of Int |w(z) r(z)^k| on Im z = strip over Int w r^order on the real line, |Im k| <=
    frequency.

    |r^k| = |r|^order e^{-Im k arg r}; on lines in between both |r|^order and |arg r| are between
    these and the real ones (order < 0) or smaller (order > 0).
    |Phi(y + i b)| <= Phi(y) + |b| phi(y) e^{b^2/2}.
    """
    angle = strip * shift
    step = 0.25 / max(1.0, shift)
    peak, total, real_peak, real_total = -inf, 0.0, -inf, 0.0
    for i in range(ceil((hi - lo) / step) + 1):
        x = lo + step * i
        log_in = log(q) + shift * (x - 0.5 * shift)
        along, across = exp(min(log_in, 600.0)) * cos(angle), exp(min(log_in, 600.0)) * sin(angle)
        log_r = log_mixture_ratio(shift * (x - 0.5 * shift), q)
        log_modulus = 0.5 * log((1.0 - q + along) ** 2 + across * across) if order < 0.0 else log_r
        kept = _log_kept(x, cut)
        u, b = SHARPNESS * (x - cut), SHARPNESS * strip
        kept_there = log_add(kept, log(b) + 0.5 * b * b - 0.5 * u * u - LOG_SQRT_2PI)
        term = order * log_modulus - 0.5 * x * x + kept_there
        real_peak, real_total = scaled_add(
            real_peak, real_total, order * log_r - 0.5 * x * x + kept, 1.0
        )
        peak, total = scaled_add(
            peak, total, term + frequency * atan2(across, 1.0 - q + along), 1.0
        )
    return 0.5 * strip * strip + log_total(peak, total) - log_total(real_peak, real_total)


@jit
def _leftmost_peak(order: float, shift: float, q: float) -> float:
    """Nothing peaks left of this. phi(x) r(x)^order peaks between 0 and order * shift; for order <
    0 it is log-concave and r is bounded below, so the peak moves left only until -x = |order|
    r'(x)/r(x)."""
    lo = 0.0
    while order < 0.0 and -lo < -order * shift * exp(
        min(0.0, log(q / (1.0 - q)) + shift * (lo - 0.5 * shift))
    ):
        lo -= 1.0
    return lo


@jit
def _rightmost_peak(order: float, shift: float, cut: float) -> float:
    """Nothing peaks right of this: not w r^order, not w r (which peaks at shift)."""
    far, held = max(order, 1.0) * shift, SHARPNESS * SHARPNESS
    return min(far, max(cut, (far + held * cut) / (1.0 + held)))


@jit
def subsampled_grid(
    noise_multiplier: float,
    q: float,
    order: float,
    frequency: float,
    cut: float,
    log_accuracy: float = LOG_ACCURACY,
) -> tuple[float, float, float]:
    """(first point, step, number of steps) of the trapezoid rule in x, good for E[r^k] at Re k =
    order, |Im k| <= frequency, to e^-log_accuracy.

    1 - q + q e^{v x} has no zero for |Im x| < pi / (2 v).
    """
    shift = 1.0 / noise_multiplier
    lo, hi = _leftmost_peak(order, shift, q) - WINDOW, _rightmost_peak(order, shift, cut) + WINDOW
    best, strip = 0.0, min(1.5, 0.5 * pi * noise_multiplier)
    for _ in range(12 if frequency > 0.0 or order < 0.0 else 1):
        growth = _log_growth(strip, shift, q, order, frequency, cut, lo, hi)
        for k in (0.0, 1.0):  # w and w r
            growth = max(growth, _log_growth(strip, shift, q, k, 0.0, cut, lo, hi))
        step = 2.0 * pi * strip / (log_accuracy + growth)
        if step < best:  # any strip will do, and narrower ones are now worse
            break
        best = step
        strip *= 0.6
    count = float(ceil((hi - lo) / best))
    return lo, (hi - lo) / count, count


@jit
def subsampled_nodes(
    noise_multiplier: float,
    q: float,
    order: float,
    frequency: float,
    cut: float,
    log_accuracy: float = LOG_ACCURACY,
) -> tuple[np.ndarray, np.ndarray]:
    """(log_ratio, log_weight) of the subsampled Gaussian pair on its grid.

    The weight is w(x) = phi(x) Phi(SHARPNESS (cut - x)): the last factor is the probability that
    outcome x is kept.
    """
    lo, step, steps = subsampled_grid(noise_multiplier, q, order, frequency, cut, log_accuracy)
    shift, count = 1.0 / noise_multiplier, int(steps)
    log_ratio, log_weight = np.empty(count + 1), np.empty(count + 1)
    for i in range(count + 1):
        x = lo + step * i
        log_ratio[i] = log_mixture_ratio(shift * (x - 0.5 * shift), q)
        log_weight[i] = log(step) - 0.5 * x * x - LOG_SQRT_2PI + _log_kept(x, cut)
    return log_ratio, log_weight


@jit
def rough_log_moment(order: float, noise_multiplier: float, q: float, cut: float) -> float:
    """About log E[r^order] at a real order above 1 or below 0, of the outcomes kept: to choose a
    line of inversion by."""
    shift = 1.0 / noise_multiplier
    step = 0.25 * min(1.0, 2.0 * noise_multiplier)
    lo, hi = _leftmost_peak(order, shift, q) - 9.0, _rightmost_peak(order, shift, cut) + 9.0
    peak, total = -inf, 0.0
    for i in range(ceil((hi - lo) / step) + 1):
        x = lo + step * i
        log_r = log_mixture_ratio(shift * (x - 0.5 * shift), q)
        log_weight = _log_kept(x, cut) - 0.5 * x * x - LOG_SQRT_2PI
        peak, total = scaled_add(peak, total, log_weight + log_excess(order, log_r), step)
    return softplus(log_total(peak, total))


@jit
def log_mgf(
    order: float,
    frequencies: np.ndarray,
    log_ratio: np.ndarray,
    log_weight: np.ndarray,
    log_accuracy: float = LOG_ACCURACY,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(real, imaginary part, error) of log E[r^k] at k = order + i frequency, one entry a
    frequency.

    E[r^k] = 1 + E[r^k - 1 - k (r - 1)] keeps the relative accuracy of small moments. The error is
    that of E[r^k], absolute: the sum of absolute values times 4e-15 + 2.5e-16 |k log r| for
    rounding, 2e-19 (1 + |k|) for quadrature on a grid good to e^-LOG_ACCURACY, and as many times
    less on a finer one.
    """
    quadrature = 2e-19 * exp(LOG_ACCURACY - log_accuracy)
    real, imag, error = (
        np.empty(frequencies.size),
        np.empty(frequencies.size),
        np.empty(frequencies.size),
    )
    for j in range(frequencies.size):
        y = frequencies[j]
        sum_re = sum_im = sum_abs = 0.0
        for i in range(log_ratio.size):
            l = log_ratio[i]
            a, b = order * l, y * l
            if log_weight[i] + max(0.0, a, l) < NEGLIGIBLE_EXPONENT:
                continue
            weight = exp(log_weight[i])
            if a * a + b * b < SERIES_BELOW:
                t_re, t_im, s_re, s_im = 1.0, 0.0, 1.0, 0.0
                for n in range(3, SERIES_END):
                    t_re, t_im = (t_re * a - t_im * b) / n, (t_re * b + t_im * a) / n
                    s_re += t_re
                    s_im += t_im
                square_re, square_im = 0.5 * (a * a - b * b), a * b
                rest = expm1_minus(l)
                re = weight * (square_re * s_re - square_im * s_im - order * rest)
                im = weight * (square_re * s_im + square_im * s_re - y * rest)
                size = weight * (0.5 * (a * a + b * b) + (abs(order) + abs(y)) * rest)
            else:
                big = exp(log_weight[i] + a)
                first = exp(log_weight[i] + l) - weight if l > 1.0 else weight * expm1(l)
                re = big * cos(b) - weight - order * first
                im = big * sin(b) - y * first
                size = big + weight + (abs(order) + abs(y)) * abs(first)
            sum_re += re
            sum_im += im
            sum_abs += size * (1.0 + (abs(a) + abs(b)) / 16.0)
        squared = 2.0 * sum_re + sum_re * sum_re + sum_im * sum_im
        if squared < -0.5:  # |E[r^k]|^2 - 1 has lost what is left of a small modulus
            modulus = sqrt((1.0 + sum_re) ** 2 + sum_im * sum_im)
            real[j] = log(modulus) if modulus > 0.0 else -inf
        else:
            real[j] = 0.5 * log1p(squared)
        imag[j] = atan2(sum_im, 1.0 + sum_re)
        error[j] = 4e-15 * sum_abs + quadrature * (1.0 + abs(order) + abs(y))
    return real, imag, error
