"""Upper bounds on the moments of one step, whatever the noise, the mixing and the order.

With P_0, P_1 the laws of one step's output without and with the record (spec section 3) and R =
    dP_1/dP_0, step_log_moment(alpha) >= log E_{P_0}[(1 - q + q R)^alpha] = (alpha - 1) * (Renyi
    divergence of order alpha),
the larger of the two directions, for every gradient that the clipping admits. It rests on these
facts, all proven:

(S) Worst shift. A gradient shifts coordinate j by v_j, |v_j| <= s, with sum v_j^2 <= X (Gaussian: s
    = 1/(z sqrt p), X = 1/z^2) or sum |v_j| <= X (Laplace: same s, X = 1/z). For real k >= 1 the
    unsubsampled log-moment is
    sum_j h_k(v_j) <= X h_k(s)/s^2, resp. X h_k(s)/s, because h_k(v)/v^2 (Gaussian), resp. h_k(v)/v
    is nondecreasing. Gaussian: h_k(sqrt x) is convex. p_L = e^{-g} is even and log-concave with
    g''' >= 0 on (0, inf), and every such density has that property. g'''(x) is minus the third
    cumulant of the mixing given x, which is <= 0 for x > 0 if the mixing has a density e^{-V}, even
    and log-concave, with V''' >= 0 on (0, W/2) (a GHS inequality, Ellis-Monroe-Newman 1976; the
    walls are limits of (2u/W)^{2n}). Uniform: V = 0. Raised cosine: V' = (2 pi/W) tan(pi u/W), and
    tan'' >= 0. Beta(b, b), b >= 1: V' = (b-1) (1/(W/2-u) - 1/(W/2+u)), V''' = 2 (b-1) (1/(W/2-u)^3
    - 1/(W/2+u)^3) >= 0. Laplace: Int p(x-v)^k p(x)^{1-k} dx = Int p(y) exp((k-1)(g(y+v) - g(y))) dy
    is a mixture of functions that are log-convex in v as g is convex, so it is log-convex; h_k is
    convex, h_k(0) = 0. (Any log-concave p will do.)
(M) Narrowest width. Wider mixing by the same law gives a Blackwell-less-informative pair: dQ/dL =
    E[U | X = Q] is nondecreasing for log-concave noise, so the location family grows in the
    dispersive order, and the best tests are half-lines as p_L is log-concave (it is for every
    log-concave law). Widths >= L may be replaced by L.
(D) Direction. The reflection x -> v - x swaps P_0 and P_1, so the "remove" direction computed here
    is the larger one (Mironov-Talwar-Zhang 2019, arXiv 1908.10530, Theorem 5).
(F) log E R^alpha is convex in alpha and 0 at alpha = 1: chords between orders are upper bounds.
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
KERNELS: dict[str, Kernel] = {"gaussian": gaussian.log_moments, "laplace": laplace.log_moments}
POWER = {
    "gaussian": 2,
    "laplace": 1,
}  # of the norm that clipping bounds: sum |v_j|^power <= 1/z^power

MOMENT_ERROR = 1e-12  # relative, added to every h_k; measured below 1e-13 against 50-digit tables
# relative, added to every step moment; measured below 1e-12 against 50-digit tables
STEP_ERROR = 1e-11
# the same per unit of order: logarithms of binomial coefficients are as large as the order
ORDER_ERROR = 5e-14

SMALLEST_SHIFT = 1e-8  # smaller s are raised to this: by (S) an upper bound, and exact to k s
LARGEST_SHIFT = {
    "gaussian": 1e3,
    "laplace": 5e2,
}  # beyond, mixing is not credited: by (M) an upper bound
LARGEST_LAW = (
    100.0,
    1e5,
)  # the same for laws other than the uniform; L that counts at most, by (M) an upper bound
SMALLEST_WIDTH = 1e-8  # narrower L count as 0: by (M) an upper bound, and exact to L^2
# below, fractional orders of plain DP-SGD are bounded by a norm instead of quadrature;
SMALLEST_NOISE = 0.05
# likewise beyond this order over the noise multiplier, where that norm is nearly exact
FARTHEST = 2000.0
# orders of the first table of moments; it doubles as higher orders are asked for
SMALLEST_TABLE = 8
DENSE_ORDERS = 64  # every integer order up to here; above, orders grow
# by 2 % up to here, by 5 % beyond, and with mixing the moments between are read off chords (F),
SPARSE_ORDERS = 1024
ORDER_GROWTH = 1.02, 1.05  # which are at most a relative 1e-4 and 1e-3 too large;
MOST_LAW_ORDER = 2.0**14 + 1.0  # beyond, mixing by such a law is not credited
# beyond with laws other than the uniform, whose moments take longer (measured: up to 3 %)
LAW_GROWTH = 1.1
EXPONENTS = 1.0 + 2.0 ** (-np.arange(0, 161) / 16.0)  # beta of the AM-GM bound: 2 down to 1.001


class Geometry(NamedTuple):
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
            return KERNELS[self.noise](orders, shift, self.width)
        return smooth_mixing.log_moments(orders, shift, smooth_density.named(self.law, self.width))


def geometry(settings: Settings) -> Geometry:
    """The Geometry of a step, moved to where the kernels are accurate, always to the safe side."""
    shift = 1.0 / settings.noise_multiplier / settings.truncation**0.5
    width = settings.mixing / settings.noise_multiplier
    power = POWER[settings.noise]
    copies = settings.truncation ** (power / 2)
    if shift < SMALLEST_SHIFT:
        shift, copies = (
            SMALLEST_SHIFT,
            max(float_info.min, (1.0 / settings.noise_multiplier / SMALLEST_SHIFT) ** power),
        )
    uniform = settings.mixing_law == mixing_laws.UNIFORM
    if width < SMALLEST_WIDTH or shift > (
        LARGEST_SHIFT[settings.noise] if uniform else LARGEST_LAW[0]
    ):
        width = 0.0
    width = width if uniform else min(width, LARGEST_LAW[1])
    return Geometry(
        settings.noise,
        shift,
        width,
        copies,
        settings.mixing_law if width > 0.0 else mixing_laws.UNIFORM,
    )


def log_moments(step: Geometry, orders: np.ndarray) -> np.ndarray:
    """Upper bounds on log A_k, the unsubsampled log-moments of one step, at real orders k > 1;
    shape of `orders`.

    Source: arXiv 2210.03843, Theorem 4.1 and Corollary 4.1, with (S) and (M) above; relative error
    MOMENT_ERROR.
    """
    with np.errstate(over="ignore"):  # to inf, an upper bound
        return (
            step.copies
            * step.moments(np.asarray(orders, dtype=float), step.shift)
            * (1.0 + MOMENT_ERROR)
        )


def _growing(start: int, stop: int, factor: float) -> np.ndarray:
    count = max(0, ceil(log(stop / start) / log(factor)))
    return np.floor(start * factor ** np.arange(count, dtype=float))


@lru_cache(maxsize=256)
def _table(step: Geometry, size: int) -> np.ndarray:
    """Upper bounds on log A_k for k = 0 .. size."""
    every = np.arange(size + 1, dtype=float)
    orders = every[2:]
    if size > DENSE_ORDERS and step.width > 0.0:
        near = _growing(DENSE_ORDERS, min(size, SPARSE_ORDERS), ORDER_GROWTH[0])
        far = _growing(
            SPARSE_ORDERS, size, ORDER_GROWTH[1] if step.law == mixing_laws.UNIFORM else LAW_GROWTH
        )
        orders = np.unique(np.concatenate([every[2:DENSE_ORDERS], near, far, [size]]))
    known = log_moments(step, orders)
    return np.asarray(
        np.interp(every, np.concatenate([[0.0, 1.0], orders]), np.concatenate([[0.0, 0.0], known]))
    )


@lru_cache(maxsize=256)
def _between_one_and_two(step: Geometry) -> np.ndarray:
    return log_moments(step, EXPONENTS)


def _integer_order(settings: Settings, order: int) -> float:
    size = max(SMALLEST_TABLE, 1 << (order - 1).bit_length())
    return float(
        subsampling.subsampled_log_moment(
            order, settings.sample_rate, _table(geometry(settings), size)
        )
    )


def am_gm(settings: Settings, order: float) -> tuple[float, float]:
    """(bound on the log-moment of a step, beta of it). For 1 < alpha < 2, any theta in [0, 1], beta
        = 2 - theta (2 - alpha): E[(1-q+qR)^alpha] <= 1 + C q^2 alpha (alpha-1) / (beta (beta-1))
        (A_beta - 1),
        C = [((1-q)/(1-theta))^(1-theta) (q/theta)^theta]^-(2-alpha).
    Proof: the second derivative of r -> (1-q+qr)^alpha is at most C q^2 alpha (alpha-1) r^(beta-2),
    since
    1-q+qr >= ((1-q)/(1-theta))^(1-theta) (qr/theta)^theta (weighted AM-GM) and alpha < 2; compare
    Bregman gaps at 1."""
    known = _between_one_and_two(geometry(settings))
    log_excess, beta = subsampling.am_gm(order, settings.sample_rate, EXPONENTS, known)
    return softplus(log_excess), beta


def _chord(settings: Settings, order: float) -> float:
    below = floor(order)
    left = _integer_order(settings, below) if below > 1 else 0.0
    return (below + 1 - order) * left + (order - below) * _integer_order(settings, below + 1)


def _plain_gaussian(settings: Settings, order: float) -> float:
    z, q = settings.noise_multiplier, settings.sample_rate
    if z >= SMALLEST_NOISE and order <= FARTHEST * z:
        return gaussian.subsampled_log_moment(order, z, q)
    return order * softplus(
        log(q) + log_expm1(0.5 * (order - 1.0) / z / z)
    )  # Minkowski: |1-q+qr|_a <= 1-q + q |r|_a


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
    """Upper bound on (alpha - 1) D_alpha of one step at the real order alpha > 1; +inf when it
    overflows.

    Plain Gaussian noise: exact at every order (relative error STEP_ERROR + ORDER_ERROR * alpha,
    added). Mixing or Laplace noise: exact for the worst shift at integer orders; between them the
    smallest of the chord (F), for 1 < alpha < 2 the AM-GM bound, and for Gaussian noise the moment
    without mixing. With q = 1 exact at every order.

    Source: arXiv 1908.10530 section 3 (subsampled Gaussian); arXiv 2210.03843 Theorem 4.1 and
    Corollary 4.1.
    """
    settings = _credited(settings, order)
    if settings.sample_rate == 1.0:
        value = float(log_moments(geometry(settings), np.array([order]))[0])
    elif order == floor(order):
        value = _integer_order(settings, int(order))
    else:
        value = _fractional_order(settings, order)
    if not value >= 0.0:
        return inf
    return value * (1.0 + STEP_ERROR + ORDER_ERROR * order)


def check_worst_shift(settings: Settings, order: float) -> None:
    """Check (S) numerically on a few shifts below s. Raises BoundError if spreading the gradient
    out is ever worse."""
    step = geometry(_credited(settings, order))
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
    """I(L) of the density of mixing plus Gaussian noise of unit variance, from h_2(v)/v^2 at small
    v (error 1e-7).

    1 without mixing; for large L 1.8064/L (uniform), 4 pi^2/L^2 (raised cosine). A description, not
    a bound: z / sqrt(I) is the noise multiplier that a gradient spread thinly over very many
    coordinates feels over many steps.
    """
    width = settings.mixing / settings.noise_multiplier
    if width < SMALLEST_WIDTH:
        return 1.0
    if settings.mixing_law != mixing_laws.UNIFORM and width > LARGEST_LAW[1]:
        return 1.0 / (
            1.0 + min(width, 1e140) ** 2 * mixing_laws.variance(settings.mixing_law)
        )  # Cramer-Rao: I is larger
    step = Geometry("gaussian", 1e-4, width, 1.0, settings.mixing_law)
    return float(step.moments(np.array([2.0]), step.shift)[0] / step.shift**2)
