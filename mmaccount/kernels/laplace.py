"""Laplace noise on top of the uniform of ModelMix: log-moments by quadrature over the closed-form
density.

p_L is the density of U[-L/2, L/2] + Laplace(1) (L = 0: Laplace). At distance t = x - L/2 from the
right edge
    L p_L = (1 - e^{-L}) e^{-t} / 2                    t >= 0
    L p_L = 1 - (e^t + e^{-L-t}) / 2                   -L <= t <= 0
and symmetric about t = -L/2. It is smooth between the breakpoints +-L/2 and v +- L/2 only, so each
piece is summed by Gauss-Legendre panels that halve towards both its ends; beyond the outermost
breakpoints the ratio is constant.
"""

from math import exp, expm1, inf, log, log1p

import numpy as np

from mmaccount.kernels.logspace import expm1_minus, jit, log_excess, log_total, scaled_add, softplus

NODES, WEIGHTS = (
    0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(20), (1.0, 0.0), strict=True)
)
# first panel next to a breakpoint, in units of 1/order: there the integrand varies on the scale
# 1/order
FIRST_PANEL = 0.25


@jit
def log_density(t: float, width: float) -> float:
    """log(width * p_width) at distance t from the right edge."""
    if t < -0.5 * width:
        t = -width - t
    if t >= 0.0:
        return log(-0.5 * expm1(-width)) - t
    return log(-0.5 * (expm1(t) + expm1(-width - t)))


@jit
def _log_ratio(t: float, w: float, width: float) -> float:
    """log_density(t + w) - log_density(t)."""
    if t < -0.5 * width and t + w < -0.5 * width:
        return _log_ratio(-width - t, -w, width)
    if t >= 0.0 and t + w >= 0.0:
        return -w
    if -width <= t <= 0.0 and -width <= t + w <= 0.0:
        rise = 0.5 * exp(t) * expm1(w) * expm1(-width - 2.0 * t - w)
        return log1p(rise / exp(log_density(t, width)))
    return log_density(t + w, width) - log_density(t, width)


@jit
def _add_half(
    state: tuple[float, float],
    end: float,
    toward: float,
    half: float,
    order: float,
    w: float,
    width: float,
) -> tuple[float, float]:
    """Add the integral over the `half` next to the breakpoint `end`, panels doubling away from it."""
    peak, total = state
    near, far = 0.0, min(half, FIRST_PANEL / order)
    while near < half:
        for i in range(NODES.size):
            t = end + toward * (near + (far - near) * NODES[i])
            term = log_density(t, width) + log_excess(order, _log_ratio(t, w, width))
            peak, total = scaled_add(peak, total, term, (far - near) * WEIGHTS[i])
        near, far = far, min(half, 2.0 * far)
    return peak, total


@jit
def _add_side(
    state: tuple[float, float],
    points: tuple[float, float, float],
    order: float,
    w: float,
    width: float,
) -> tuple[float, float]:
    """Add the pieces between consecutive points, and the tail beyond the last one, where log r =
    -w."""
    for i in range(2):
        half = 0.5 * (points[i + 1] - points[i])
        if half > 0.0:
            state = _add_half(state, points[i], 1.0, half, order, w, width)
            state = _add_half(state, points[i + 1], -1.0, half, order, w, width)
    return scaled_add(
        state[0], state[1], log_density(points[2], width) + log_excess(order, -w), 1.0
    )


@jit
def mixed_log_moment(order: float, shift: float, width: float) -> float:
    """h_k(v; L) = log Int p_L(x - v)^k p_L(x)^(1-k) dx for the Laplace pair, order > 1, shift > 0,
    width > 0.

    The line is cut at the symmetry point x = v/2; each side is addressed from its own edge.
    """
    start = 0.5 * (shift - width)
    state = _add_side((-inf, 0.0), (start, max(0.0, shift - width), shift), order, -shift, width)
    start = -0.5 * (shift + width)
    state = _add_side(state, (start, max(-shift, -width), 0.0), order, shift, width)
    return softplus(log_total(state[0], state[1]) - log(width))


@jit
def plain_log_moment(order: float, shift: float) -> float:
    """log of (k e^{(k-1)v} + (k-1) e^{-kv})/(2k-1), the moment of Laplace noise alone (Mironov
    2017, Table II)."""
    k, rise = order, (order - 1.0) * shift
    if rise > 30.0:
        return rise + log((k + (k - 1.0) * exp(-rise - k * shift)) / (2.0 * k - 1.0))
    return log1p((k * expm1_minus(rise) + (k - 1.0) * expm1_minus(-k * shift)) / (2.0 * k - 1.0))


@jit
def log_moments(orders: np.ndarray, shift: float, width: float) -> np.ndarray:
    """h_k(shift; width) for an array of orders; width may be 0."""
    out = np.empty(orders.size)
    for i in range(orders.size):
        k = orders[i]
        out[i] = mixed_log_moment(k, shift, width) if width > 0.0 else plain_log_moment(k, shift)
    return out
