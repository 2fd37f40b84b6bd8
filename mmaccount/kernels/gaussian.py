"""Gaussian noise, alone (Poisson-subsampled) and on top of the uniform of ModelMix: log-moments by
quadrature.

Notation: modelmix spec section 3. p_L is the density of U[-L/2, L/2] + N(0, 1), shift v, order k
    (any real k > 1), h_k(v; L) = log Int p_L(x - v)^k p_L(x)^(1-k) dx = log(1 + Int p_L(x) [r^k - 1
    - k (r - 1)] dx),   r = p_L(x - v)/p_L(x),
whose second form has a nonnegative integrand. Points are addressed by their distance t = x - L/2
from the right edge (the left edge is its mirror image), so nothing is lost when L is huge. All
integrands are analytic in a strip and flat or negligible at the ends of each window, so the
trapezoid rule converges geometrically (Trefethen & Weideman 2014, SIAM Review 56, Thm 5.1).
"""

from math import ceil, erfc, exp, expm1, inf, log, log1p, pi, sqrt

import numpy as np

from mmaccount.kernels.logspace import (
    LOG_SQRT_2PI,
    erfcx,
    jit,
    log_excess,
    log_mixture_ratio,
    log_total,
    scaled_add,
    softplus,
)

WINDOW = 10.0  # std beyond an edge or a peak; what is cut off is below 1e-19 of the integral
LOG_ACCURACY = 46.0  # trapezoid error e^-46 = 1e-20 times the growth of the integrand in its strip
# below it log r is the integral of the score (3-point Gauss-Legendre, error < 1e-18 relative)
SMALL_SHIFT = 0.01
# order times shift up to which orders within a factor 2 share their points; there r^k is below
# 1e270
SHARED_UP_TO = 20.0
# exponent below which Int_0^L e^{-tu-u^2/2} du is summed by Gauss-Legendre instead of by erfcx
QUADRATURE_BELOW = 0.5

NODES, WEIGHTS = (
    0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(12), (1.0, 0.0), strict=True)
)
NODES3, WEIGHTS3 = (
    0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(3), (1.0, 0.0), strict=True)
)


@jit
def _mills(t: float, width: float) -> float:
    """Int_0^width e^{-t u - u^2/2} du for t >= max(-1, -width/2): the density at t over phi(t)."""
    exponent = width * (t + 0.5 * width)
    if exponent < QUADRATURE_BELOW:
        total = 0.0
        for i in range(NODES.size):
            u = width * NODES[i]
            total += WEIGHTS[i] * exp(-u * (t + 0.5 * u))
        return width * total
    far = exp(-exponent) * erfcx((t + width) / sqrt(2.0)) if exponent < 60.0 else 0.0
    return sqrt(0.5 * pi) * (erfcx(t / sqrt(2.0)) - far)


@jit
def log_density(t: float, width: float) -> float:
    """log(width * p_width) at distance t from the right edge."""
    if t < -0.5 * width:
        t = -width - t
    if t > -1.0:
        return -0.5 * t * t - LOG_SQRT_2PI + log(_mills(t, width))
    return log1p(-0.5 * (erfc(-t / sqrt(2.0)) + erfc((t + width) / sqrt(2.0))))


@jit
def _score(t: float, width: float) -> float:
    """-d/dt log_density."""
    if t < -0.5 * width:
        return -_score(-width - t, width)
    exponent = width * (t + 0.5 * width)
    if t > -1.0:
        return -expm1(-exponent) / _mills(t, width)
    return -expm1(-exponent) * exp(-0.5 * t * t - LOG_SQRT_2PI - log_density(t, width))


@jit
def _log_ratio(t: float, w: float, width: float) -> float:
    """log_density(t + w) - log_density(t)."""
    if t < -0.5 * width and t + w < -0.5 * width:
        return _log_ratio(-width - t, -w, width)
    if abs(w) < SMALL_SHIFT:
        total = 0.0
        for i in range(NODES3.size):
            total += WEIGHTS3[i] * _score(t + w * NODES3[i], width)
        return -w * total
    edge = max(-1.0, -0.5 * width)
    if t > edge and t + w > edge:
        return -w * (t + 0.5 * w) + log(_mills(t + w, width) / _mills(t, width))
    return log_density(t + w, width) - log_density(t, width)


@jit
def _step(order: float, q: float) -> float:
    """Trapezoid step. For |y| < sqrt 2, |p_L(x + iy)| lies between e^{y^2/2} p_L(x) (1 - y^2/2) and
    e^{y^2/2} p_L(x) (spec proofs, section 1), so the integrand grows by at most e^{y^2/2} (1 -
    y^2/2)^{1-k}; y is near the best."""
    squared = 60.0 / (30.0 + order)
    step = (
        2.0
        * pi
        * sqrt(squared)
        / (LOG_ACCURACY + 0.5 * squared - (order - 1.0) * log1p(-0.5 * squared))
    )
    return step if q == 1.0 else 0.5 * step


@jit
def _add_window(
    state: tuple[float, float], lo: float, hi: float, order: float, w: float, width: float, q: float
) -> tuple[float, float]:
    """Add the trapezoid sum of width * p [r^k - 1 - k (r - 1)] over t in [lo, hi], r = p(t +
    w)/p(t)."""
    peak, total = state
    count = ceil((hi - lo) / _step(order, q))
    step = (hi - lo) / count
    for i in range(count + 1):
        t = lo + step * i
        log_r = _log_ratio(t, w, width)
        if q != 1.0:
            log_r = log_mixture_ratio(log_r, q)
        weight = step if 0 < i < count else 0.5 * step
        peak, total = scaled_add(
            peak, total, log_density(t, width) + log_excess(order, log_r), weight
        )
    return peak, total


@jit
def mixed_log_moment(order: float, shift: float, width: float, q: float) -> float:
    """log E_{p_L}[(1 - q + q r)^order] for one coordinate; q = 1 gives h_k(v; L). order > 1, shift
    > 0, width > 0.

    The right window reaches past k v. Where the far peak stands alone (q = 1), the stretch before
    it is not summed: with s = t - v the log-integrand of p r^k has slope at least (k-1) v - s - k/s
    there (Mills ratio), which is positive on [W, (k-1) v - W] as soon as (k-1) v >= W + k/W. So p
    r^k is largest at its right end, p at its left end, and length times those two is added as an
    upper bound.
    """
    state = (-inf, 0.0)
    start = -WINDOW
    if width > shift + 2.0 * WINDOW:
        state = _add_window(state, -shift - WINDOW, WINDOW, order, shift, width, q)
    else:
        start = -width - WINDOW
    stop = order * shift + WINDOW
    gap = (order - 1.0) * shift - 2.0 * WINDOW
    if q == 1.0 and gap > max(0.0, order / WINDOW - WINDOW):
        resume = stop - 2.0 * WINDOW
        state = _add_window(state, start, shift + WINDOW, order, -shift, width, q)
        far = log_density(resume, width) + order * _log_ratio(resume, -shift, width)
        near = log_density(shift + WINDOW, width) + log(order - 1.0)
        state = scaled_add(state[0], state[1], far, gap)
        state = scaled_add(state[0], state[1], near, gap)
        start = resume
    state = _add_window(state, start, stop, order, -shift, width, q)
    return softplus(log_total(state[0], state[1]) - log(width))


@jit
def share(orders: np.ndarray, first: int, shift: float, together: float) -> int:
    """Where the group of orders ends that may share points with orders[first]: within a factor 2,
    order * shift small."""
    last = first + 1
    if orders[first] * shift < together:
        low = high = orders[first]
        while last < orders.size:
            low, high = min(low, orders[last]), max(high, orders[last])
            if high > 2.0 * low or high * shift >= together:
                break
            last += 1
    return last


@jit
def _points(
    lo: float, hi: float, step: float, w: float, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """(weight times width * p, log r) at the points of the trapezoid rule on [lo, hi], r = p(t +
    w)/p(t)."""
    count = ceil((hi - lo) / step)
    step = (hi - lo) / count
    weight, log_r = np.empty(count + 1), np.empty(count + 1)
    for i in range(count + 1):
        t = lo + step * i
        weight[i] = step * exp(log_density(t, width))
        log_r[i] = _log_ratio(t, w, width)
    weight[0] *= 0.5
    weight[count] *= 0.5
    return weight, log_r


@jit
def _add_orders(
    total: np.ndarray, orders: np.ndarray, weight: np.ndarray, log_r: np.ndarray
) -> None:
    """Add the sums of weight * g_k, g_k = r^k - 1 - k (r - 1), for all orders: g_{k+1} = r g_k + k
    (r - 1)^2 where the next order is one more, a sum of nonnegative terms."""
    gap, more = np.empty(log_r.size), np.expm1(log_r)
    for j in range(orders.size):
        k = orders[j]
        if j > 0 and k == orders[j - 1] + 1.0:
            for i in range(log_r.size):
                gap[i] += more[i] * gap[i] + (k - 1.0) * more[i] * more[i]
        else:
            for i in range(log_r.size):
                gap[i] = exp(log_excess(k, log_r[i]))
        total[j] += np.dot(weight, gap)


@jit
def _shared_log_moments(orders: np.ndarray, shift: float, width: float) -> np.ndarray:
    """h_k of orders with k * shift < SHARED_UP_TO.

    In their windows p and r^k are far from the ends of float64.

    `_step` falls with the order and the window grows with it, so what suffices for the highest
    suffices for all.
    """
    top, total = np.max(orders), np.zeros(orders.size)
    step, start = _step(top, 1.0), -width - WINDOW
    if width > shift + 2.0 * WINDOW:
        weight, log_r = _points(-shift - WINDOW, WINDOW, step, shift, width)
        _add_orders(total, orders, weight, log_r)
        start = -WINDOW
    weight, log_r = _points(start, top * shift + WINDOW, step, -shift, width)
    _add_orders(total, orders, weight, log_r)
    return np.log1p(total / width)


@jit
def log_moments(orders: np.ndarray, shift: float, width: float) -> np.ndarray:
    """h_k(shift; width) for an array of orders; width may be 0."""
    if width == 0.0:
        return 0.5 * orders * (orders - 1.0) * shift * shift
    out, first = np.empty(orders.size), 0
    while first < orders.size:
        last = share(orders, first, shift, SHARED_UP_TO)
        if last == first + 1:
            out[first] = mixed_log_moment(orders[first], shift, width, 1.0)
        else:
            together = _shared_log_moments(orders[first:last], shift, width)
            for i in range(first, last):
                out[i] = together[i - first]
        first = last
    return out


@jit
def subsampled_log_moment(order: float, noise_multiplier: float, q: float) -> float:
    """log E_{N(0,1)}[(1 - q + q e^{v x - v^2/2})^order], v = 1/noise_multiplier, any real order >
    1.

    |1 - q + q e^y| <= 1 - q + q e^{Re y}, and there is no zero for |Im y| <= pi/2, i.e. |Im x| <= pi z/2.
    """
    shift = 1.0 / noise_multiplier
    strip = min(1.5, 0.5 * pi * noise_multiplier)
    lo, hi = -WINDOW, order * shift + WINDOW
    count = ceil((hi - lo) * LOG_ACCURACY / (2.0 * pi * strip))
    step = (hi - lo) / count
    peak, total = -inf, 0.0
    for i in range(count + 1):
        x = lo + step * i
        log_r = log_mixture_ratio(shift * (x - 0.5 * shift), q)
        peak, total = scaled_add(
            peak, total, log_excess(order, log_r) - 0.5 * x * x - LOG_SQRT_2PI, step
        )
    return softplus(log_total(peak, total))
