"""Scalars that every kernel needs, stable in the log domain."""

from collections.abc import Callable
from math import erfc, exp, expm1, inf, log, log1p, pi, sqrt
from typing import TypeVar, cast

import numba
from numba.core import event

from mmaccount.kernels import compiling

F = TypeVar("F", bound=Callable[..., object])


def jit(function: F) -> F:
    """The one compile policy: machine code cached on disk, IEEE arithmetic (no fastmath), no Python
    objects, no lock.

    What is written to a slice is written in a loop: the first assignment to a slice costs 3 s of
    compiling.
    """
    return cast(F, numba.njit(cache=True, error_model="numpy", nogil=True)(function))


class _Compiling(event.Listener):
    """Tells what waits for it (`kernels.before_compiling`) that numba starts to compile."""

    def on_start(self, event: object) -> None:
        compiling()

    def on_end(self, event: object) -> None:
        pass


event.register("numba:compile", _Compiling())  # type: ignore[no-untyped-call]

LOG_SQRT_2PI = 0.5 * log(2 * pi)
SERIES_RADIUS = 0.5  # |y| below which e^y - 1 - y is summed as its Taylor series
SERIES_TERMS = 16  # 0.5^16 / 18! < 1e-20
ERFCX_SWITCH = 4.0  # exp(x^2) erfc(x) below (error 2e-15), continued fraction above (error 1e-16)


@jit
def erfcx(x: float) -> float:
    """exp(x^2) erfc(x), relative error below 1e-14 for x >= -5."""
    if x < ERFCX_SWITCH:
        return exp(x * x) * erfc(x)
    tail = x
    for j in range(10 + int(180.0 / (x * x)), 0, -1):
        tail = x + 0.5 * j / tail
    return 1.0 / (tail * sqrt(pi))


@jit
def softplus(x: float) -> float:
    """log(1 + e^x)."""
    return x + log1p(exp(-x)) if x > 0.0 else log1p(exp(x))


@jit
def log_expm1(x: float) -> float:
    """log(e^x - 1) for x >= 0; NaN for x < 0."""
    if x == 0.0:
        return -inf
    return x + log1p(-exp(-x)) if x > 1.0 else log(expm1(x))


@jit
def log_mixture_ratio(log_r: float, q: float) -> float:
    """log(1 - q + q r), from log r, without cancellation for small q or small log r."""
    if log_r > 30.0:
        return log_r + log(q + (1.0 - q) * exp(-log_r))
    return log1p(q * expm1(log_r))


@jit
def expm1_minus(y: float) -> float:
    """e^y - 1 - y."""
    if abs(y) >= SERIES_RADIUS:
        return expm1(y) - y
    term = total = 1.0
    for n in range(3, SERIES_TERMS + 3):
        term *= y / n
        total += term
    return 0.5 * y * y * total


@jit
def log_excess(order: float, log_r: float) -> float:
    """log(r^order - 1 - order (r - 1)), the Bregman gap of r -> r^order at 1; -inf at r = 1.

    It is nonnegative for order >= 1, and because E_P0[r] = 1 its mean under P0 is E[r^order] - 1: a
    sum of nonnegative terms, which therefore keeps *relative* accuracy however small the
    divergence. Loses a factor 1/(order - 1).
    """
    y = order * log_r
    if abs(y) < SERIES_RADIUS:
        gap = expm1_minus(y) - order * expm1_minus(log_r)
        return log(gap) if gap != 0.0 else -inf
    if y > 0.0:
        return y + log(-expm1(log_r - y) + (order - 1.0) * exp(log_r - y) * expm1(-log_r))
    return log(expm1(y) - order * expm1(log_r))


@jit
def log_add(a: float, b: float) -> float:
    """log(e^a + e^b)."""
    return max(a, b) + log1p(exp(-abs(a - b)))


@jit
def scaled_add(peak: float, total: float, log_term: float, weight: float) -> tuple[float, float]:
    """Add weight * e^log_term to the running sum total * e^peak."""
    if log_term == -inf or weight == 0.0:
        return peak, total
    if log_term > peak:
        return log_term, total * exp(peak - log_term) + weight
    return peak, total + weight * exp(log_term - peak)


@jit
def log_total(peak: float, total: float) -> float:
    """log(total * e^peak); NaN if any term was NaN or infinite."""
    return peak + log(total) if total != 0.0 else -inf
