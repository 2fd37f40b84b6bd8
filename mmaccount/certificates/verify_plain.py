"""Checks a certificate of plain Gaussian DP-SGD: the bound on delta is computed again, in
intervals.

This file works alone: it needs mpmath and nothing else of this package.
`python verify_plain.py CERTIFICATE.json` prints what is proven. Why (2) is a bound, and its error
terms (E1) to (E4), is proven at the top of certificates/plain_certificate.py.

What a certificate claims, with x ~ N(0, 1) and v = 1 / noise multiplier:
(1) R         1 - q + q e^(vx - v^2/2), the likelihood ratio of one step with and without the record
              (Zhu, Dong, Wang 2022, arXiv 2106.08567, Theorem 11).
    M(s)      product over all steps of E[R^(1 + s)] where the record is removed, of E[R^(-s)] where
              it is added; times e^(m s (1 + s) / 2) for full batches and an added Gaussian step of
              squared mean m in all.
(2) delta     at epsilon is at most
              Re sum_j w_j M(s_j) e^(-s_j eps) / (s_j (1 + s_j)), s_j = t + i j D, j = 0 .. count - 1,
              w_0 = D / (2 pi), other w_j = D / pi, plus (E4) for all j that are left out: Fourier
              inversion (Alghamdi et al. 2023, arXiv 2208.09595) along the contour Re s = t by the
              trapezoid rule, whose aliases are not negative.

In `_moments`, y, step and reach are chosen in floats. Any choice is sound as long as y v < pi, which
2.5 / shift ensures: what a choice costs is computed afterwards, in intervals, by (E1) and (E2).
"""

import json
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import cache
from math import ceil, floor, log, log1p, pi, sqrt
from typing import Any

import mpmath

BITS = 256
MOST_FREQUENCIES = 10**5  # more would take too long
iv = mpmath.MPIntervalContext()  # every operation rounds outward
iv.prec = BITS
exact = mpmath.MPContext()
Interval = Any  # a real or complex number of `iv`
DOWN, UP = Context(30, ROUND_FLOOR), Context(30, ROUND_CEILING)
PLUS_MINUS = iv.mpf([-1, 1])
ZERO_TO_ONE = iv.mpf([0, 1])
DIRECTIONS = ("remove", "add")


def _interval(x: Fraction | int) -> Interval:
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


def _fixed(x: Interval) -> int:
    """About 2^BITS times the lower end of an interval."""
    return int(_fraction(x.a) * 2**BITS)


@cache
def _moments(
    order: Fraction, spacing: Fraction, q: Fraction, z: Fraction, count: int
) -> list[Interval]:
    """E[R^(order + i j spacing)] for j = 0 .. count - 1, R as in (1), by the trapezoid rule."""
    k, v = _interval(order), 1 / _interval(z)
    shift, top = float(1 / z), float(order)

    # (E1) On lines up to y above and below the real one the integrand is at most half `growth`
    # times as large.
    y = Fraction(min(sqrt(1.4 * BITS), 2.5 / shift, 3 * sqrt(BITS / abs(top)) / shift))
    growth = 2 * iv.exp(_interval(y * y / 2) + _interval(y * abs(spacing) * count) * v)
    if top <= 0:
        growth *= iv.cos(_interval(y / 2) * v) ** k
    step = Fraction(2 * pi * float(y) / (0.7 * BITS + float(iv.log(growth).b)))
    error = (growth / (iv.exp(2 * iv.pi * _interval(y / step)) - 1)).b

    # (E2) Nodes are left out beyond `reach` standard deviations, to the right of the shifted law.
    if top > 0:
        most = min(top * (shift**2 - 2 * log(q)), (top * shift) ** 2)
        largest = 1 + iv.exp(k * (k - 1) * v * v / 2)
    else:
        most = 2 * top * log1p(-q)
        largest = _interval(1 - q) ** k
    reach = ceil(sqrt(1.4 * BITS + most) + 1)
    left_out = iv.exp(_interval(Fraction(-reach * reach, 2))) * largest

    first = floor(-reach / step)
    last = ceil((reach + ceil(max(0, top) * shift) + 1) / step)
    points = [_interval(n * step) for n in range(first, last + 1)]
    log_ratios = [
        iv.log(_interval(1 - q) + _interval(q) * iv.exp(v * x - v * v / 2)) for x in points
    ]
    density = _interval(step) / iv.sqrt(2 * iv.pi)
    sizes = [
        density * iv.exp(k * log_r - x * x / 2) for x, log_r in zip(points, log_ratios, strict=True)
    ]
    moment = sum(sizes, left_out * ZERO_TO_ONE) / (1 + error * PLUS_MINUS)

    # (E3) A node's terms for all j are powers of one number of modulus 1, in integers, 2^BITS times
    # the numbers.
    wide = error + left_out / moment
    totals = [[0, 0] for _ in range(count)]
    for size, log_r in zip(sizes, log_ratios, strict=True):
        angle = _interval(spacing) * log_r
        share, cosine, sine = size / moment, iv.cos(angle), iv.sin(angle)
        wide += 3 * count * (share.delta + cosine.delta + sine.delta + iv.mpf(2) ** (3 - BITS))
        real, imag = _fixed(share), 0
        c, s = _fixed(cosine), _fixed(sine)
        for total in totals:
            total[0] += real
            total[1] += imag
            real, imag = (real * c - imag * s) >> BITS, (real * s + imag * c) >> BITS
    if not wide < 1:
        raise ValueError("a contour is too coarse.")

    def widened(total: int) -> Interval:
        return _interval(Fraction(total, 2**BITS)) + wide.b * PLUS_MINUS

    return [moment * iv.mpc(widened(real), widened(imag)) for real, imag in totals]


def _check_range(number: int, phase: dict[str, Any], contour: dict[str, Any]) -> None:
    """A phase or a contour that the proof does not cover, or that takes too many nodes, is a
    ValueError."""
    q, steps, noise = phase["sample_rate"], phase["steps"], phase["noise_multiplier"]
    t, spacing, count, added = (contour[name] for name in ("t", "spacing", "count", "added"))
    known = len(phase) == 4 and phase["noise"] == "gaussian"
    settings = 0 < q <= 1 and noise > 0 and steps > 0 and steps % 1 == 0
    line = t > 0 and spacing > 0 and added >= 0 and 0 < count <= MOST_FREQUENCIES and count % 1 == 0
    affordable = q == 1 or 10**5 * noise > max(20 * t, spacing * count)
    if not (known and settings and line and affordable):
        raise ValueError(f"phase {number} or a contour is out of range, or not known here.")


def one_direction(
    c: dict[str, Any], name: str
) -> tuple[dict[str, Interval], list[tuple[Interval, Interval]]]:
    """For one direction: log E[R^k] of each phase's step, and (s, F) such that delta(eps) <= Re sum
    F e^(-s eps)."""
    contour = c["contours"][name]
    t, spacing, count = contour["t"], contour["spacing"], contour["count"]
    normal = _interval(contour["added"])  # the squared mean of all Gaussian steps
    moments_of_steps: dict[str, Interval] = {}
    for number, phase in enumerate(c["phases"], 1):
        _check_range(number, phase, contour)
    moments = [iv.mpc(1)] * count
    for number, phase in enumerate(c["phases"], 1):
        q, steps, noise = phase["sample_rate"], phase["steps"], phase["noise_multiplier"]
        if q == 1:
            normal += steps / _interval(noise) ** 2
            continue
        order, turn = (1 + t, spacing) if name == "remove" else (-t, -spacing)
        step = _moments(order, turn, q, noise, count)
        moments = [moment * more**steps for moment, more in zip(moments, step, strict=True)]
        moments_of_steps[f"{name}: log moment of a step of phase {number}"] = iv.log(step[0].real)

    places = [iv.mpc(_interval(t), _interval(j * spacing)) for j in range(count)]
    weight, end = _interval(spacing) / iv.pi, _interval(count * spacing)
    terms = []
    for s, moment in zip(places, moments, strict=True):
        terms.append(weight * moment * iv.exp(normal / 2 * s * (1 + s)) / (s * (1 + s)))
    terms[0] = terms[0] / 2
    start = places[0]
    falls = iv.exp(normal / 2 * (start * (1 + start) - end**2))
    left_out = moments[0] * falls / (iv.pi * (end - _interval(spacing) / 2))  # (E4)
    return moments_of_steps, [(start, left_out), *zip(places, terms, strict=True)]


def recompute(c: dict[str, Any]) -> dict[str, Any]:
    """Every value that a certificate must hold; those in it do not count, but for epsilon."""
    epsilon = c["values"]["epsilon"]
    if not (c["schema"] == 2 and 0 < c["delta"] < 1 and Fraction(epsilon) >= 0):
        raise ValueError("schema, delta or epsilon is out of range, or not known here.")
    log_delta = iv.log(_interval(c["delta"]))
    values = {"log delta": log_delta}
    holds = True
    for name in DIRECTIONS:
        moments, curve = one_direction(c, name)
        parts = [factor * iv.exp(-s * _interval(Fraction(epsilon))) for s, factor in curve]
        bound = iv.log(sum(parts).real)  # (2)
        holds = holds and bound.b <= log_delta.a
        values |= moments
        values |= {f"{name}: log left out": iv.log(parts[0].real), f"{name}: log delta": bound}
    rounded = {name: _rounded(x) for name, x in values.items()}
    return rounded | {"epsilon": epsilon if holds else None}


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
    return 0, f"proven: epsilon <= {values['epsilon']} at delta {float(c['delta'])}"


if __name__ == "__main__":
    status, reason = check(sys.argv[1])
    print(reason)
    sys.exit(status)
