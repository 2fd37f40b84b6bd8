"""Checks a certificate made of Renyi moments: every number in it is computed again, in intervals.

This file works alone: it needs mpmath and nothing else of this package.
`python verify_renyi.py CERTIFICATE.json` prints what is proven. Why the three error terms (E1) to
(E3) below are bounds is proven at the top of certificate.py.

What a certificate claims, with the numbers of its formulas (Xiao, Wan, Devadas 2022, arXiv
2210.03843, unless said): (1) p(x)   density of U[-L/2, L/2] + N(0, 1), one coordinate of a released
iterate; L = mixing / noise multiplier. (2) h_k    log Int p(x - v)^k p(x)^(1 - k) dx, v = 1 /
(noise multiplier sqrt(truncation)).
(3) A_k    exp(truncation h_k), the moment of a step of all records (Corollary 4.1; Theorem 4.1 with
truncation 1). (4) M_a    log sum_k C(a, k) (1 - q)^(a - k) q^k A_k, of a subsampled step, for an
integer order a.
(5) M_a    1 + q^2 a (a - 1) / (b (b - 1)) ((1 - q) / (1 - t))^((1 - t)(a - 2)) (q / t)^(t (a - 2))
           (A_b - 1), exponentiated, t = (2 - b) / (2 - a), for 1 < a < b < 2 (AM-GM:
           divergences.am_gm).
(6) M_a    log E[(1 - q + q e^(vx - v^2/2))^a], x ~ N(0, 1), v = 1 / noise multiplier: mixing not
credited.
(7) eps    (sum over steps of M_a + (a - 1) log(1 - 1/a) - log(delta a)) / (a - 1)
           (Canonne, Kamath, Steinke 2020, arXiv 2004.00010, Proposition 12).
"""

import json
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import cache
from math import ceil, comb, log, log2, pi, sqrt
from typing import Any

import mpmath

iv = (
    mpmath.MPIntervalContext()
)  # every operation rounds outward; its precision is chosen for each phase
exact = mpmath.MPContext()
Interval = Any  # a number of `iv`
Number = Any  # an integer, or the fraction that a decimal in the file stands for
Rule = Any  # "plain", "binomial", or the number b of (5)
DOWN, UP = Context(30, ROUND_FLOOR), Context(30, ROUND_CEILING)
PLUS_MINUS = iv.mpf([-1, 1])
ZERO_TO_ONE = iv.mpf([0, 1])


def _interval(x: Number) -> Interval:
    """The narrowest interval that holds a rational number."""
    return iv.mpf(Fraction(x).numerator) / Fraction(x).denominator


def _fraction(end: Interval) -> Fraction:
    """One end of an interval, exactly. An end that is infinite is a ValueError."""
    number = exact.mpmathify(end)
    if not exact.isfinite(number):
        raise ValueError("a number has no finite bound.")
    mantissa, exponent = number.man_exp
    size = abs(int(mantissa)) * Fraction(2) ** int(exponent)
    return -size if number < 0 else size


def _rounded(x: Interval) -> list[str]:
    """Both ends of an interval as decimals of 30 digits, rounded outward."""
    low, high = _fraction(x.a), _fraction(x.b)
    lower = DOWN.divide(Decimal(low.numerator), Decimal(low.denominator))
    upper = UP.divide(Decimal(high.numerator), Decimal(high.denominator))
    return [str(lower), str(upper)]


@cache
def _midpoints(bits: int, a: int) -> list[tuple[Interval, Interval]]:
    """(t^2, e^(-t^2)) at the midpoints t of cells of width pi/a, as far as they count."""
    squares = [((n + 0.5) * iv.pi / a) ** 2 for n in range(a * a // 3 + 1)]
    return [(square, iv.exp(-square)) for square in squares]


def _tail(x: Interval) -> Interval:
    """P(N(0, 1) > x). With u = x / sqrt 2 >= -1/sqrt 2 that is

    e^(-u^2) u / (2 pi) Int e^(-t^2) / (t^2 + u^2) dt, by the midpoint rule with step pi/a.
    """
    if x.a < -1:
        return 1 - _tail(-x)
    u = x / iv.sqrt(2)
    a = ceil(sqrt(0.7 * iv.prec) + 1)
    total = iv.mpf(0)
    for square, weight in _midpoints(iv.prec, a):
        total += weight / (square + u * u)
    error = iv.exp(2 - a * a) * PLUS_MINUS  # (E1)
    pole = 1 / (iv.exp(2 * a * u) + 1) if u.a < a else 0  # (E1)
    return iv.exp(-u * u) * u * (total / a + error) + pole


def _density(x: Interval, half: Interval) -> Interval:
    """p(x) of (1) times L; with L = 0 times sqrt(2 pi). `half` is L/2."""
    if half == 0:
        return iv.exp(-x * x / 2)
    return _tail(abs(x) - half) - _tail(abs(x) + half)


def _moments(orders: list[Number], q: Number, v: Interval, length: Fraction) -> list[Interval]:
    """E[R^k] for every order k, with R = 1 - q + q p(x - v) / p(x) and x of density p, by the
    trapezoid rule.

    With q = 1 that is e^(h_k) of (2); with length 0, e^(M_k) of (6).
    """
    half = _interval(length / 2)
    largest = _interval(max(orders))
    k, shift = float(max(orders)), float(v.mid)
    unit = _interval(length) if length else iv.sqrt(2 * iv.pi)  # _density / unit is p

    # (E2) p R^k is analytic up to y above and below the real line, where its size is at most half
    # `growth` times as large.
    if length:
        y = Fraction(sqrt(60 / (30 + k)))
        growth = 2 * iv.exp(_interval(y * y / 2)) * _interval(1 - y * y / 2) ** (1 - largest)
    else:
        y = Fraction(min(sqrt(1.4 * iv.prec), 2.5 / shift))
        growth = 2 * iv.exp(_interval(y * y / 2))
    step = Fraction(2 * pi * float(y) / (0.7 * iv.prec + float(iv.log(growth).mid)))
    error = growth / (iv.exp(2 * iv.pi * _interval(y / step)) - 1) * PLUS_MINUS

    # (E3) Nodes are left out from `reach` below the left edge on, and from `far` above the right
    # edge on.
    reach = ceil(sqrt(1.4 * iv.prec + 2 * k * (shift + shift**2 / 2 - log(q))) + 1)
    far = reach + ceil(k * shift)
    outside = _tail(iv.mpf(reach))
    beyond = iv.exp(largest * v + (largest * v) ** 2 / 2) * _tail(far - largest * v)
    left_out = (2 * outside + beyond) / unit * iv.mpf([0, 3])

    # Nodes more than `reach` inside both edges, where |log R| <= 4 `outside`, are taken together.
    edge, h = length / 2, _interval(step)
    first, last = ceil((-edge - reach) / step) - 1, ceil((edge + far) / step) + 1
    left, right = ceil((reach + ceil(shift) - edge) / step) + 1, ceil((edge - reach) / step) - 1
    inside = max(0, right - left)
    numbers = [*range(first, left), *range(right, last)] if inside else range(first, last)
    log_ratios = [4 * outside * PLUS_MINUS]
    weights = [inside * h / unit * (1 - 2 * outside * ZERO_TO_ONE)]
    for n in numbers:
        here, there = _density(n * h, half), _density(n * h - v, half)
        log_ratios.append(iv.log(_interval(1 - q) + _interval(q) * there / here))
        weights.append(here * h / unit)

    moments = []
    for order in orders:
        total = left_out
        for weight, log_ratio in zip(weights, log_ratios, strict=True):
            total += weight * iv.exp(_interval(order) * log_ratio)
        moments.append(total / (1 + error))
    return moments


def _binomial(order: Number, q: Number) -> dict[Number, Interval]:
    """The weights of A_k in (4), k from 2 on."""
    share, rest = _interval(q), _interval(1 - q)
    return {k: comb(order, k) * share**k * rest ** (order - k) for k in range(2, order + 1)}


def _am_gm(order: Number, b: Number, q: Number) -> dict[Number, Interval]:
    """The weight of A_b - 1 in (5)."""
    t = _interval((2 - b) / (2 - Fraction(order)))
    factor = _interval(q * q * order * (order - 1) / b / (b - 1))
    balance = (_interval(1 - q) / (1 - t)) ** (1 - t) * (_interval(q) / t) ** t
    return {b: factor * balance ** _interval(order - 2)}


def _check_range(number: int, c: dict[str, Any], phase: dict[str, Any], rule: Rule) -> None:
    """A phase, its rule, the order or delta that formulas (1) to (7) do not cover is a ValueError."""
    q, steps, z = phase["sample_rate"], phase["steps"], phase["noise_multiplier"]
    mixing, truncation, order = phase["mixing"], phase["truncation"], c["order"]
    known = c["schema"] == 1 and len(phase) == 6 and phase["noise"] == "gaussian"
    ranges = (
        0 < q <= 1 and steps >= 1 and steps % 1 == 0 and z > 0 and mixing >= 0 and truncation >= 1
    )
    affordable = 1 < order < 5000 * z
    allowed = rule in ("plain", "binomial") or order < rule < 2
    if not (known and ranges and affordable and allowed and 0 < c["delta"] < 1):
        raise ValueError(f"phase {number} or its rule is out of range, or not known here.")


def _step(order: Number, phase: dict[str, Any], rule: Rule) -> tuple[Interval, dict[str, Interval]]:
    """M_a of one step, and the numbers on the way to it, by name."""
    q, z = phase["sample_rate"], phase["noise_multiplier"]
    mixing, truncation = Fraction(phase["mixing"]), phase["truncation"]
    length = mixing / z
    iv.prec = 180 + ceil(
        2 * log2(max(1, z)) + log2(truncation) + abs(log2(length or 1)) - 2 * log2(q)
    )
    v = 1 / (_interval(z) * iv.sqrt(_interval(truncation)))
    values = {"shift": v, "width": _interval(length)}
    if rule == "plain":
        moment = _moments([order], q, 1 / _interval(z), Fraction(0))[0]
    else:
        if q == 1:
            weights = {order: _interval(1)}  # (3), which holds for every order
        elif rule == "binomial":
            weights = _binomial(order, q)
        else:
            weights = _am_gm(order, rule, q)
        narrow = length <= Fraction(1, 10**8)  # then without mixing, which is never smaller
        rises = _moments([*weights], Fraction(1), v, Fraction(0) if narrow else length)
        moment = iv.mpf(1)
        for (k, weight), rise in zip(weights.items(), rises, strict=True):
            values[f"h of order {float(k)}"] = iv.log(rise)
            moment += weight * (rise ** _interval(truncation) - 1)
    values["log moment of a step"] = iv.log(moment)
    return values["log moment of a step"], values


def recompute(c: dict[str, Any]) -> dict[str, Any]:
    """Every value that a certificate must hold; those in it do not count."""
    values: dict[str, Any] = {}
    total = iv.mpf(0)
    for number, (phase, rule) in enumerate(zip(c["phases"], c["rules"], strict=True), 1):
        _check_range(number, c, phase, rule)
        log_moment, numbers = _step(c["order"], phase, rule)
        total += phase["steps"] * log_moment
        values |= {f"{number}: {name}": _rounded(value) for name, value in numbers.items()}
    a, delta = _interval(c["order"]), _interval(c["delta"])
    result = (total + (a - 1) * iv.log(1 - 1 / a) - iv.log(delta * a)) / (a - 1)  # (7)
    values |= {"delta": _rounded(delta), "result": _rounded(result)}
    return values | {"epsilon": max("0", values["result"][1], key=Fraction)}


def check(path: str) -> tuple[int, str]:
    """Status and reason: 0 and what is proven, 1 if the certificate does not hold, 2 if it cannot
    be checked."""
    try:
        with open(path) as file:
            c = json.load(file, parse_float=Fraction)
        recomputed, values = recompute(c), c["values"]
        wrong = [name for name in recomputed | values if recomputed.get(name) != values.get(name)]
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        return 2, f"{path} cannot be checked: {error!r}"
    if wrong:
        return 1, f"{path} does not hold: wrong are {', '.join(wrong)}"
    return 0, f"proven: epsilon <= {recomputed['epsilon']} at delta {float(c['delta'])}"


if __name__ == "__main__":
    status, reason = check(sys.argv[1])
    print(reason)
    sys.exit(status)
