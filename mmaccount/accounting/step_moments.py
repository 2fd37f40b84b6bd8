"""Theorem 4.1 and Corollary 4.1: upper bounds on the Renyi moments of one step.

One coordinate of a released iterate, given the two iterates before it and in units of the noise, is

    shift + U[-L/2, L/2] + N(0, 1),        L = mixing / noise_multiplier,

with the density p_L(x) = (Phi(x + L/2) - Phi(x - L/2)) / L, and p_0 that of N(0, 1). A shift by v
has the moment of order k

    h_k(v) = log Int p_L(x - v)^k p_L(x)^(1 - k) dx.

    THEOREM 4.1    no truncation: one coordinate may carry the whole gradient

        log A_k = h_k(1 / z)

    COROLLARY 4.1  every coordinate is cut at c / sqrt(p): at worst p of them are shifted by s

        log A_k = p h_k(s),                s = 1 / (z sqrt(p))

    Poisson sampling at rate q, integer order a >= 2, A_0 = A_1 = 1

        M_a = log sum_{k=0}^{a} C(a, k) (1 - q)^(a - k) q^k A_k

M_a is (a - 1) times the Renyi divergence of order a of one step; steps and phases add up. z is the
noise multiplier, p the truncation, c the clip norm. Source: Xiao, Wan, Devadas (2022), arXiv
2210.03843. `log_moments` is log A_k, `step_log_moment` is M_a.

With P_0, P_1 the laws of one step's output without and with the record, and R = dP_1/dP_0,

    step_log_moment(a) >= log E_{P_0}[(1 - q + q R)^a],

the larger of the two directions, for every gradient that the clipping admits, also for other mixing
laws and for Laplace noise. That rests on four facts, all proven:

(S) Worst shift. A gradient shifts coordinate j by v_j with |v_j| <= s and

        Gaussian noise:  sum v_j^2 <= X,  X = 1/z^2,  s = 1/(z sqrt(p));
        Laplace noise:   sum |v_j| <= X,  X = 1/z,    the same s.

    For real k >= 1 the moment of the step without sampling is

        sum_j h_k(v_j) <= X h_k(s)/s^2,   for Laplace noise X h_k(s)/s,

    because h_k(v)/v^2, for Laplace noise h_k(v)/v, is nondecreasing:

    - Gaussian noise: h_k(sqrt x) is convex. p_L = e^{-g} is even and log-concave with g''' >= 0 on
      (0, inf), and every such density has that property. g'''(x) is minus the third cumulant of the
      mixing given x, which is <= 0 for x > 0 if the mixing has a density e^{-V}, even and
      log-concave, with V''' >= 0 on (0, W/2) (a GHS inequality, Ellis, Monroe, Newman 1976; the
      walls are limits of (2u/W)^{2n}). That holds for

        uniform:         V = 0;
        raised cosine:   V' = (2 pi/W) tan(pi u/W), and tan'' >= 0;
        Beta(b, b):      V' = (b-1) (1/(W/2-u) - 1/(W/2+u)), b >= 1,
                         V''' = 2 (b-1) (1/(W/2-u)^3 - 1/(W/2+u)^3) >= 0.

    - Laplace noise: Int p(x-v)^k p(x)^{1-k} dx = Int p(y) exp((k-1)(g(y+v) - g(y))) dy is a mixture
      of functions that are log-convex in v as g is convex, so it is log-convex; h_k is convex and
      h_k(0) = 0. (Any log-concave p will do.)

(M) Narrowest width. Wider mixing by the same law gives a Blackwell-less-informative pair:
    dQ/dL = E[U | X = Q] is nondecreasing for log-concave noise, so the location family grows in the
    dispersive order, and the best tests are half-lines as p_L is log-concave (it is for every
    log-concave law). Widths >= L may be replaced by L.

(D) Direction. The reflection x -> v - x swaps P_0 and P_1, so the "remove" direction computed here
    is the larger one (Mironov, Talwar, Zhang 2019, arXiv 1908.10530, Theorem 5).

(F) log E R^a is convex in a and 0 at a = 1: chords between orders are upper bounds.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from math import ceil, floor, inf, isnan, log
from sys import float_info
from typing import NamedTuple

import numpy as np

from mmaccount.kernels import gaussian, laplace, smooth_density, smooth_mixing, subsampling
from mmaccount.kernels.logspace import log_expm1, softplus
from mmaccount.records import mixing_laws
from mmaccount.records.bound import BoundError
from mmaccount.records.settings import Settings

Kernel = Callable[[np.ndarray, float, float], np.ndarray]
MOMENT_KERNELS: dict[str, Kernel] = {
    "gaussian": gaussian.log_moments,
    "laplace": laplace.log_moments,
}
# The power of the norm that clipping bounds: sum |v_j|^power <= 1/z^power.
POWER = {"gaussian": 2, "laplace": 1}

# Errors of the numerics, relative, added on the safe side. Measured against 50-digit tables: below
# 1e-13 of every h_k, below 1e-12 of every step moment. Logarithms of binomial coefficients are as
# large as the order.
MOMENT_ERROR = 1e-12
STEP_ERROR = 1e-11
ORDER_ERROR = 5e-14  # per unit of order

# Where the kernels are accurate. Every move is to the safe side, by (S) or (M).
SMALLEST_SHIFT = 1e-8  # smaller s are raised to this, exact to k s
SMALLEST_WIDTH = 1e-8  # narrower L count as 0, exact to L^2
LARGEST_SHIFT = {"gaussian": 1e3, "laplace": 5e2}  # beyond, mixing is not credited,
LARGEST_LAW_SHIFT = 100.0  # and here for laws other than the uniform,
LARGEST_LAW_WIDTH = 1e5  # whose wider L count as this
MOST_LAW_ORDER = 2.0**14 + 1.0  # beyond, mixing by such a law is not credited

# Plain DP-SGD at fractional orders: quadrature, or a bound by a norm where that is nearly exact.
SMALLEST_QUADRATURE_NOISE = 0.05  # noise multiplier; below, by a norm,
LARGEST_QUADRATURE_ORDER = 2000.0  # and beyond this order over the noise multiplier

# Orders of the tables of moments. Between them moments are read off chords (F), which are at most
# a relative 1e-4 (up to SPARSE_ORDERS) and 1e-3 (beyond) too large; for other laws up to 3 %.
SMALLEST_TABLE = 8  # orders of the first table; it doubles as higher orders are asked for
DENSE_ORDERS = 64  # every integer order up to here
SPARSE_ORDERS = 1024  # then growing by DENSE_GROWTH up to here, by SPARSE_GROWTH beyond
DENSE_GROWTH = 1.02
SPARSE_GROWTH = 1.05
LAW_GROWTH = 1.1  # instead of SPARSE_GROWTH for laws other than the uniform, which take longer
AM_GM_ORDERS = 1.0 + 2.0 ** (-np.arange(0, 161) / 16.0)  # beta of the AM-GM bound: 2 down to 1.001


class StepShape(NamedTuple):
    """What the unsubsampled moments depend on: largest shift s of one coordinate, width L of the
    mixing, how many such shifts the clip norm allows (X / s^2 for Gaussian noise, X / s for Laplace
    noise)."""

    noise: str
    shift: float
    width: float
    copies: float
    law: str = mixing_laws.UNIFORM

    def moments(self, orders: np.ndarray, shift: float) -> np.ndarray:
        """h_k(shift) at real orders k > 1, not rounded to a side."""
        if self.law == mixing_laws.UNIFORM or self.width == 0.0:
            return MOMENT_KERNELS[self.noise](orders, shift, self.width)
        return smooth_mixing.log_moments(orders, shift, smooth_density.named(self.law, self.width))


def step_shape(settings: Settings) -> StepShape:
    """The StepShape of a step, moved to where the kernels are accurate, always to the safe side."""
    z, power = settings.noise_multiplier, POWER[settings.noise]
    shift = 1.0 / z / settings.truncation**0.5
    copies = settings.truncation ** (power / 2)
    if shift < SMALLEST_SHIFT:
        shift = SMALLEST_SHIFT
        copies = max(float_info.min, (1.0 / z / SMALLEST_SHIFT) ** power)
    width = settings.mixing / z
    is_uniform = settings.mixing_law == mixing_laws.UNIFORM
    largest_shift = LARGEST_SHIFT[settings.noise] if is_uniform else LARGEST_LAW_SHIFT
    if width < SMALLEST_WIDTH or shift > largest_shift:
        width = 0.0
    if not is_uniform:
        width = min(width, LARGEST_LAW_WIDTH)
    law = settings.mixing_law if width > 0.0 else mixing_laws.UNIFORM
    return StepShape(settings.noise, shift, width, copies, law)


def log_moments(step: StepShape, orders: np.ndarray) -> np.ndarray:
    """Upper bounds on log A_k, the moments of a step without sampling, at real orders k > 1.

    Returns an array of the shape of `orders`; its relative error, MOMENT_ERROR, is added.

    Source: arXiv 2210.03843, Theorem 4.1 and Corollary 4.1, with (S) and (M) above.
    """
    orders = np.asarray(orders, dtype=float)
    # p h_k(s), with s = step.shift; for Laplace noise sqrt(p) h_k(s).
    with np.errstate(over="ignore"):  # to inf, an upper bound
        return step.copies * step.moments(orders, step.shift) * (1.0 + MOMENT_ERROR)


def _growing(start: int, stop: int, factor: float) -> np.ndarray:
    count = max(0, ceil(log(stop / start) / log(factor)))
    return np.floor(start * factor ** np.arange(count, dtype=float))


def _orders(step: StepShape, size: int) -> np.ndarray:
    """The orders from 2 up to `size` at which moments are computed."""
    if size <= DENSE_ORDERS or step.width == 0.0:
        return np.arange(2, size + 1, dtype=float)
    dense = np.arange(2, DENSE_ORDERS + 1, dtype=float)
    growth = SPARSE_GROWTH if step.law == mixing_laws.UNIFORM else LAW_GROWTH
    near = _growing(DENSE_ORDERS, min(size, SPARSE_ORDERS), DENSE_GROWTH)
    far = _growing(SPARSE_ORDERS, size, growth)
    return np.unique(np.concatenate([dense, near, far, [size]]))


@lru_cache(maxsize=256)
def _moments_up_to(step: StepShape, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Orders up to `size`, and upper bounds on log A_k there.

    Those of laws other than the uniform take long: what is known of half the size is kept.
    """
    orders = _orders(step, size)
    if step.law == mixing_laws.UNIFORM or size <= DENSE_ORDERS:
        return orders, log_moments(step, orders)
    known_orders, known_values = _moments_up_to(step, size // 2)
    is_known = np.isin(orders, known_orders)
    values = np.empty(orders.size)
    values[is_known] = known_values[np.isin(known_orders, orders)]
    values[~is_known] = log_moments(step, orders[~is_known])
    return orders, values


@lru_cache(maxsize=256)
def _table(step: StepShape, size: int) -> np.ndarray:
    """Upper bounds on log A_k for k = 0 .. size."""
    orders, values = _moments_up_to(step, size)
    points = np.concatenate([[0.0, 1.0], orders])
    values = np.concatenate([[0.0, 0.0], values])
    return np.asarray(np.interp(np.arange(size + 1, dtype=float), points, values))


@lru_cache(maxsize=256)
def _between_one_and_two(step: StepShape) -> np.ndarray:
    return log_moments(step, AM_GM_ORDERS)


def _integer_order(settings: Settings, order: int) -> float:
    size = max(SMALLEST_TABLE, 1 << (order - 1).bit_length())
    table = _table(step_shape(settings), size)
    return float(subsampling.subsampled_log_moment(order, settings.sample_rate, table))


def am_gm(settings: Settings, order: float) -> tuple[float, float]:
    """(bound on the log-moment of a step, its beta) at an order 1 < a < 2.

    For any theta in [0, 1], with beta = 2 - theta (2 - a),

        E[(1-q+qR)^a] <= 1 + C q^2 a (a-1) / (beta (beta-1)) (A_beta - 1),
        C = [((1-q)/(1-theta))^(1-theta) (q/theta)^theta]^-(2-a).

    Proof: the second derivative of r -> (1-q+qr)^a is at most C q^2 a (a-1) r^(beta-2), since
    1-q+qr >= ((1-q)/(1-theta))^(1-theta) (qr/theta)^theta (weighted AM-GM) and a < 2; compare
    Bregman gaps at 1.
    """
    moments = _between_one_and_two(step_shape(settings))
    log_excess, beta = subsampling.am_gm(order, settings.sample_rate, AM_GM_ORDERS, moments)
    return softplus(log_excess), beta


def _chord(settings: Settings, order: float) -> float:
    below = floor(order)
    left = _integer_order(settings, below) if below > 1 else 0.0
    return (below + 1 - order) * left + (order - below) * _integer_order(settings, below + 1)


def _plain_gaussian(settings: Settings, order: float) -> float:
    z, q = settings.noise_multiplier, settings.sample_rate
    if z >= SMALLEST_QUADRATURE_NOISE and order <= LARGEST_QUADRATURE_ORDER * z:
        return gaussian.subsampled_log_moment(order, z, q)
    # Minkowski: the norm of order a of 1-q+qr is at most 1-q+q times that of r.
    return order * softplus(log(q) + log_expm1(0.5 * (order - 1.0) / z / z))


def _fractional_order(settings: Settings, order: float) -> float:
    bounds = []
    if settings.noise == "gaussian":
        bounds.append(_plain_gaussian(settings, order))  # mixing is post-processing: (M) with L = 0
    if settings.noise != "gaussian" or settings.mixing > 0.0:
        bounds.append(_chord(settings, order))
        if order < 2.0:
            bounds.append(am_gm(settings, order)[0])
    return min(inf if isnan(bound) else bound for bound in bounds)


def _credited(settings: Settings, order: float) -> Settings:
    """The step without mixing, which is post-processing, where its moments would take too long."""
    if settings.mixing_law == mixing_laws.UNIFORM or order <= MOST_LAW_ORDER:
        return settings
    return replace(settings, mixing=0.0, truncation=1.0)


def step_log_moment(settings: Settings, order: float) -> float:
    """An upper bound on (a - 1) D_a of one step at a real order a > 1; +inf where it overflows.

    - Plain Gaussian noise, and every run with q = 1: exact at every order.
    - Mixing or Laplace noise: exact for the worst shift at integer orders. Between them the smallest
      of the chord (F), for 1 < a < 2 the AM-GM bound, and for Gaussian noise the moment without
      mixing.

    The relative error, STEP_ERROR + ORDER_ERROR * a, is added.

    Source: arXiv 1908.10530, section 3 (subsampled Gaussian); arXiv 2210.03843, Theorem 4.1 and
    Corollary 4.1.
    """
    settings = _credited(settings, order)
    if settings.sample_rate == 1.0:
        value = float(log_moments(step_shape(settings), np.array([order]))[0])
    elif order == floor(order):
        value = _integer_order(settings, int(order))
    else:
        value = _fractional_order(settings, order)
    if not value >= 0.0:
        return inf
    return value * (1.0 + STEP_ERROR + ORDER_ERROR * order)


def check_worst_shift(settings: Settings, order: float) -> None:
    """Check (S) on a few shifts below s. BoundError if spreading the gradient out is ever worse."""
    step = step_shape(_credited(settings, order))
    if step.width == 0.0 and (step.noise == "gaussian" or step.shift == inf):
        return

    def per_unit(shift: float) -> float:
        moment = step.moments(np.array([float(order)]), shift)[0]
        return float(moment / shift ** POWER[step.noise])

    largest = per_unit(step.shift)
    for part in (0.75, 0.5, 0.25, 0.0625):
        if not per_unit(part * step.shift) <= largest * (1.0 + 10.0 * MOMENT_ERROR):
            raise BoundError(
                f"at order {order:g} a shift of {part} s costs more per unit than s = {step.shift:g} "
                f"(L = {step.width:g}); the bound would not be valid."
            )


def fisher_information(settings: Settings) -> float:
    """I(L), the Fisher information of the density of mixing plus Gaussian noise of unit variance.

    From h_2(v)/v^2 at small v (error 1e-7). 1 without mixing; for large L 1.8064/L (uniform),
    4 pi^2/L^2 (raised cosine). A description, not a bound: z / sqrt(I) is the noise multiplier that
    a gradient feels which is spread thinly over very many coordinates, over many steps.
    """
    width = settings.mixing / settings.noise_multiplier
    if width < SMALLEST_WIDTH:
        return 1.0
    if settings.mixing_law != mixing_laws.UNIFORM and width > LARGEST_LAW_WIDTH:
        variance = min(width, 1e140) ** 2 * mixing_laws.variance(settings.mixing_law)
        return 1.0 / (1.0 + variance)  # Cramer-Rao: I is larger
    step = StepShape("gaussian", 1e-4, width, 1.0, settings.mixing_law)
    return float(step.moments(np.array([2.0]), step.shift)[0] / step.shift**2)
