"""Density and score of Gaussian noise on top of mixing whose density vanishes at its edges
(`mmaccount.records.mixing_laws`).

p is the density of mixing on [-L/2, L/2] plus N(0, 1). Points are addressed by their distance t = x
- L/2 from the right edge, d = L/2 - u is the distance of the mixing u from it, and F(d/L)/L its
density:
    L p = Int_0^L F(d/L) phi(t + d) dd,    -(log p)' = E[t + d | t] = E[F'(d/L)/F(d/L)]/L,
the second form of the score (by parts) being free of cancellation far inside. Both come from one
Gauss rule on the window that holds all but e^-W of the integrand, W = WINDOW_EXPONENT. With B - 1
the power of d in F and d^{B-1} e^{-td-d^2/2} largest at d = m, that is log-concave with curvature
at least 1, and below a Gamma density of rate t + m (the tangent of d^2/2 at m): the window ends at
the nearer of m + sqrt(2 W) and the point where that Gamma law has e^-W left. Where an edge is near,
its power is in the weight of the rule.

That is done once per law and width, at Chebyshev points of pieces of the line; kernels evaluate the
interpolant. For any log-concave mixing law Var(u | x) <= 1 (Brascamp and Lieb 1976: the law given x
has the density e^{-(u-x)^2/2} times a log-concave function), so, as p(x + iy) = e^{y^2/2} p(x)
E[e^{-iy(x-u)} | x],
    e^{y^2/2} p(x) (1 - y^2/2) <= |p(x + iy)| <= e^{y^2/2} p(x),
and p has no zero with |y| < sqrt 2. Unit pieces near the edge fit an ellipse of parameter 5 into
that strip (error 5^-POINTS_PER_PIECE); far inside p(x + iy) is the mixing density there up to a
relative (B/d)^2 for |y| < d/2, and for t > 0 no zero is nearer than the edge, so pieces grow there.
Measured: both within 2e-15 of 50-digit values.
"""

from functools import lru_cache
from math import ceil, exp, lgamma, log, log1p, pi, sin, sqrt, tan
from typing import NamedTuple

import numpy as np

from mmaccount.kernels.logspace import LOG_SQRT_2PI, jit
from mmaccount.records import mixing_laws

WINDOW_EXPONENT = 44.0  # e^-44 of a density may lie outside of the window of its Gauss rule
RULE_POINTS = 64  # error below 1e-15 on windows up to 23 std
EDGE_FACTOR = 1.1  # the window of a rule reaches an edge if it would end within this factor of it
POINTS_PER_PIECE = 24
UNIT_PIECES_UP_TO = 16  # std from the edge, up to which pieces have length 1
INSIDE_GROWTH, OUTSIDE_GROWTH = 1.25, 1.5  # far end of a piece over its near end, beyond that
FARTHEST_PIECE = 1e8  # std outside, up to which there are pieces; orders times shifts are smaller
# below it, and far inside, log r is the integral of the score (5-point Gauss-Legendre, error <
# 1e-15)
SMALL_SHIFT = 0.1
FAR_INSIDE = 12.0, 8.0  # further than 12 std and than 8 shifts from both edges

NODES5, WEIGHTS5 = (
    0.5 * (a + b) for a, b in zip(np.polynomial.legendre.leggauss(5), (1.0, 0.0), strict=True)
)


class _Law(NamedTuple):
    """Power of d next to an edge, the part of it that the weights of the rules hold, log of the
    constant of F (so that it has mass 1), and Gauss rules on [0, 1] of weight (x (1 - x))^held,
    x^held, 1. Rows: points, weights."""

    power: float
    held: float
    log_constant: float
    both: np.ndarray
    left: np.ndarray
    plain: np.ndarray


class Mixing(NamedTuple):
    """Noise and mixing of one law and width. Piece i starts at starts[i] and ends where the next
    one starts; `heights`: log of L p at its start, less the -t^2/2 of its tail (t > 0); `slopes`:
    Chebyshev coefficients of minus the derivative of that; `rises`: of its integral from the start
    of the piece. The first `inner` pieces are the growing ones inside; the unit ones begin at
    `near`."""

    width: float
    power: float
    inner: int
    near: float
    starts: np.ndarray
    heights: np.ndarray
    slopes: np.ndarray
    rises: np.ndarray


def _rule(left: float, right: float) -> np.ndarray:
    from scipy.special import roots_jacobi  # only now: to load it takes longer than to price a run

    points, weights = roots_jacobi(RULE_POINTS, right, left)
    return np.array([0.5 * (points + 1.0), weights * 0.5 ** (left + right + 1.0)])


def _law(name: str) -> _Law:
    power = mixing_laws.exponent(name) - 1.0
    if name == mixing_laws.RAISED_COSINE:  # F = 2 sin^2(pi d/L) needs no weight
        return _Law(power, 0.0, log(2.0), _rule(0.0, 0.0), _rule(0.0, 0.0), _rule(0.0, 0.0))
    constant = lgamma(2.0 * power + 2.0) - 2.0 * lgamma(power + 1.0)
    return _Law(power, power, constant, _rule(power, power), _rule(power, 0.0), _rule(0.0, 0.0))


@jit
def _window(t: float, width: float, power: float) -> tuple[float, float, float]:
    """Where the window of the rule begins and ends, and t + its beginning (far inside without
    cancellation)."""
    root = sqrt(t * t + 4.0 * power)
    top = 2.0 * power / (root + t) if t > 0.0 else 0.5 * (root - t)
    rate = 0.5 * (root + t) if t > 0.0 else 2.0 * power / (root - t)
    low, high = top - sqrt(2.0 * WINDOW_EXPONENT), top + sqrt(2.0 * WINDOW_EXPONENT)
    if rate > 0.0:
        high = min(high, (power + sqrt(2.0 * power * WINDOW_EXPONENT) + WINDOW_EXPONENT) / rate)
    if EDGE_FACTOR * high > width:
        return 0.0, width, t
    return (
        (low, high, rate - sqrt(2.0 * WINDOW_EXPONENT))
        if low * EDGE_FACTOR > (EDGE_FACTOR - 1.0) * high
        else (0.0, high, t)
    )


@jit
def _at(t: float, width: float, law: _Law) -> tuple[float, float]:
    """(log of L p, less the -t^2/2 of its tail if t > 0; minus the derivative of that) for t >=
    -L/2."""
    low, high, shifted = _window(t, width, law.power)
    span, turn = high - low, pi / width
    cosine, inside, ends = law.held < law.power, low > 0.0, high == width
    rule = law.plain if inside else law.both if ends else law.left
    total, first = 0.0, 0.0
    for i in range(RULE_POINTS):
        d, e = low + span * rule[0, i], shifted + span * rule[0, i]
        log_rest = -0.5 * e * e if t < 0.0 else -d * (t + 0.5 * d)
        if cosine:
            weight = rule[1, i] * exp(log_rest) * (sin(turn * d) / (turn * high)) ** 2
        elif inside:
            weight = rule[1, i] * exp(log_rest + law.held * log((d / high) * (1.0 - d / width)))
        elif ends:
            weight = rule[1, i] * exp(log_rest)
        else:
            weight = rule[1, i] * exp(log_rest + law.held * log1p(-d / width))
        total += weight
        if not inside:
            first += weight * (e if t < 0.0 else d)
        elif cosine:
            first += weight * 2.0 * turn / tan(turn * d)
        else:
            first += weight * law.held * (1.0 / d - 1.0 / (width - d))
    log_scale = log(span) + law.log_constant - LOG_SQRT_2PI
    log_scale += 2.0 * log(turn * high) if cosine else law.held * log(high / width)
    return log(total) + log_scale, first / total


@jit
def _values(points: np.ndarray, width: float, law: _Law) -> tuple[np.ndarray, np.ndarray]:
    """`_at` at many points, on either side of the middle."""
    height, slope = np.empty(points.size), np.empty(points.size)
    for i in range(points.size):
        t = points[i]
        if t < -0.5 * width:  # the mirror image, with the tail of this side where there is one
            mirrored = -width - t
            height[i], slope[i] = _at(mirrored, width, law)
            height[i] -= 0.5 * max(mirrored, 0.0) ** 2
            slope[i] = -slope[i] - max(mirrored, 0.0)
        else:
            height[i], slope[i] = _at(t, width, law)
    return height, slope


@lru_cache(maxsize=64)
def named(law: str, width: float) -> Mixing:
    """The law of `mmaccount.records.mixing_laws` with that name, not the uniform, and with the
    given width > 0 in std of the noise."""
    count = max(0, ceil(log(0.5 * width / UNIT_PIECES_UP_TO) / log(INSIDE_GROWTH)))
    inside = [-UNIT_PIECES_UP_TO * INSIDE_GROWTH**i for i in range(count, 0, -1)]
    near = list(range(-min(UNIT_PIECES_UP_TO, ceil(0.5 * width)), UNIT_PIECES_UP_TO))
    outside = [
        UNIT_PIECES_UP_TO * OUTSIDE_GROWTH**i
        for i in range(1 + ceil(log(FARTHEST_PIECE / UNIT_PIECES_UP_TO) / log(OUTSIDE_GROWTH)))
    ]
    starts = np.array([*inside, *near, *outside])
    half = 0.5 * np.diff(starts)[:, None]
    angles = pi * (np.arange(POINTS_PER_PIECE) + 0.5) / POINTS_PER_PIECE
    points, given = starts[:-1, None] + half * (1.0 + np.cos(angles)), _law(law)
    slopes = _values(points.ravel(), width, given)[1].reshape(points.shape) @ np.cos(
        np.outer(angles, np.arange(POINTS_PER_PIECE))
    )
    slopes *= np.where(np.arange(POINTS_PER_PIECE) > 0, 2.0, 1.0) / POINTS_PER_PIECE
    rises = np.polynomial.chebyshev.chebint(slopes, lbnd=-1, axis=1) * half
    return Mixing(
        width,
        given.power,
        len(inside),
        float(near[0]),
        starts,
        _values(starts, width, given)[0],
        slopes,
        rises,
    )


@jit
def _chebyshev(coefficients: np.ndarray, u: float) -> float:
    """Clenshaw's sum of c_i T_i(u)."""
    one = two = 0.0
    for i in range(coefficients.size - 1, 0, -1):
        one, two = coefficients[i] + 2.0 * u * one - two, one
    return float(coefficients[0] + u * one - two)


@jit
def _piece(t: float, mixing: Mixing) -> tuple[int, float]:
    """Number of the piece that t >= -L/2 is in, and where in it, from -1 to 1."""
    if t < -UNIT_PIECES_UP_TO:
        i = max(0, mixing.inner - 1 - int(log(-t / UNIT_PIECES_UP_TO) / log(INSIDE_GROWTH)))
    elif t < UNIT_PIECES_UP_TO:
        i = mixing.inner + int(t - mixing.near)
    else:
        i = (
            mixing.inner
            + int(UNIT_PIECES_UP_TO - mixing.near)
            + int(log(t / UNIT_PIECES_UP_TO) / log(OUTSIDE_GROWTH))
        )
    start, end = mixing.starts[i], mixing.starts[i + 1]
    return i, 2.0 * ((t - start) / (end - start)) - 1.0


@jit
def _height(t: float, mixing: Mixing) -> float:
    """log of L p at t >= -L/2, less the -t^2/2 of its tail if t > 0."""
    i, u = _piece(t, mixing)
    return float(mixing.heights[i]) - _chebyshev(mixing.rises[i], u)


@jit
def log_density(t: float, mixing: Mixing) -> float:
    """log(width * p) at distance t from the right edge."""
    if t < -0.5 * mixing.width:
        t = -mixing.width - t
    return _height(t, mixing) - 0.5 * max(t, 0.0) ** 2


@jit
def score(t: float, mixing: Mixing) -> float:
    """-d/dt log_density."""
    if t < -0.5 * mixing.width:
        return -score(-mixing.width - t, mixing)
    i, u = _piece(t, mixing)
    return _chebyshev(mixing.slopes[i], u) + max(t, 0.0)


@jit
def log_ratio(t: float, w: float, mixing: Mixing) -> float:
    """log_density(t + w) - log_density(t)."""
    inside = min(-t, -t - w, mixing.width + min(t, t + w))
    if abs(w) < SMALL_SHIFT or inside > max(FAR_INSIDE[0], FAR_INSIDE[1] * abs(w)):
        total = 0.0
        for i in range(NODES5.size):
            total += WEIGHTS5[i] * score(t + w * NODES5[i], mixing)
        return -w * total
    if t > 0.0 and t + w > 0.0:
        return _height(t + w, mixing) - _height(t, mixing) - w * (t + 0.5 * w)
    return log_density(t + w, mixing) - log_density(t, mixing)
