"""Checks a certificate made of contours, all numbers again in intervals; proof: accountants/contour_certificate.py."""

import json
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from functools import cache
from math import ceil, floor, log, log1p, pi, sqrt

from mpmath.ctx_iv import MPIntervalContext, ivmpc, ivmpf
from mpmath.libmp import to_fixed, to_rational

iv, iv.prec, WAYS = MPIntervalContext(), 256, (Context(30, ROUND_FLOOR), Context(30, ROUND_CEILING))


def _exact(x: Fraction | int) -> ivmpf:  # the narrowest interval around a number
    return iv.mpf(Fraction(x).numerator) / Fraction(x).denominator


@cache
def _moments(order: Fraction, spacing: Fraction, q: Fraction, z: Fraction, count: int) -> list[ivmpc]:
    # E[R^(order + i j spacing)], j < count, for R = 1 - q + q e^{vx - v^2/2}, x ~ N(0,1), v = 1/z
    k, v, shift, top = _exact(order), 1 / _exact(z), float(1 / z), float(order)
    y = Fraction(min(sqrt(1.4 * iv.prec), 2.5 / shift, 3 * sqrt(iv.prec / abs(top)) / shift))  # half the width of the strip
    growth = 2 * iv.exp(_exact(y * y / 2) + _exact(y * abs(spacing) * count) * v)
    growth *= 1 if top > 0 else iv.cos(_exact(y / 2) * v) ** k
    h = Fraction(2 * pi * float(y) / (0.7 * iv.prec + float(iv.log(growth).b)))
    error = (growth / (iv.exp(2 * iv.pi * _exact(y / h)) - 1)).b
    most = min(top * (shift**2 - 2 * log(q)), (top * shift) ** 2) if top > 0 else 2 * top * log1p(-q)
    w = ceil(sqrt(1.4 * iv.prec + most) + 1)
    lost = iv.exp(_exact(Fraction(-w * w, 2))) * (1 + iv.exp(k * (k - 1) * v * v / 2) if top > 0 else _exact(1 - q) ** k)
    points = [_exact(n * h) for n in range(floor(-w / h), ceil((w + ceil(max(0, top) * shift) + 1) / h) + 1)]
    logs = [iv.log(_exact(1 - q) + _exact(q) * iv.exp(v * x - v * v / 2)) for x in points]
    sizes = [_exact(h) * iv.exp(k * log_r - x * x / 2) / iv.sqrt(2 * iv.pi) for x, log_r in zip(points, logs, strict=True)]
    moment, sums = sum(sizes, lost * iv.mpf([0, 1])) / (1 + error * iv.mpf([-1, 1])), [[0, 0] for _ in range(count)]
    wide = error + lost / moment
    for size, angle in zip(sizes, (_exact(spacing) * log_r for log_r in logs), strict=True):
        parts = size / moment, iv.cos(angle), iv.sin(angle)
        wide += 3 * count * (sum(part.delta for part in parts) + iv.mpf(2) ** (3 - iv.prec))
        (a, c, s), b = (to_fixed(part._mpi_[0], iv.prec) for part in parts), 0
        for total in sums:  # in integers, 2^prec times the numbers
            total[:] = total[0] + a, total[1] + b
            a, b = (a * c - b * s) >> iv.prec, (a * s + b * c) >> iv.prec
    if not wide < 1:
        raise ValueError("a contour is too coarse.")
    return [moment * iv.mpc(*(_exact(Fraction(x, 2**iv.prec)) + wide.b * iv.mpf([-1, 1]) for x in total)) for total in sums]


def side(c: dict[str, ivmpf], name: str) -> tuple[dict[str, ivmpf], list[tuple[ivmpc, ivmpc]]]:
    """For one direction: log E[R^k] of each phase's step, and (z, F) such that delta(eps) <= Re sum F e^{-z eps}."""
    t, spacing, count, added = (c["contours"][name][part] for part in ("t", "spacing", "count", "added"))
    found, normal, moments = dict[str, ivmpf](), _exact(added), [iv.mpc(1)] * count
    for i, phase in enumerate(c["phases"], 1):
        q, steps, noise = (phase[number] for number in ("sample_rate", "steps", "noise_multiplier"))
        fits = t > 0 < spacing and added >= 0 == count % 1 < count and 0 < q <= 1 and noise > 0 == steps % 1 < steps
        fits = fits and (q == 1 or 10**5 * noise > max(20 * t, spacing * count))  # else too many nodes
        if not (fits and len(phase) == 4 and phase["noise"] == "gaussian"):
            raise ValueError(f"phase {i} or a contour is out of range, or not known here.")
        if q < 1:
            step = _moments(*((1 + t, spacing) if name == "remove" else (-t, -spacing)), q, noise, count)
            moments = [moment * more**steps for moment, more in zip(moments, step, strict=True)]
            found[f"{name}: log moment of a step of phase {i}"] = iv.log(step[0].real)
        normal += steps / _exact(noise) ** 2 if q == 1 else 0
    h, last, z = _exact(spacing), _exact(count * spacing), [iv.mpc(_exact(t), _exact(j * spacing)) for j in range(count)]
    left = moments[0] * iv.exp(normal / 2 * (z[0] * (1 + z[0]) - last**2)) / (iv.pi * (last - h / 2))
    sizes = [h / iv.pi * m * iv.exp(normal / 2 * x * (1 + x)) / (x * (1 + x)) for x, m in zip(z, moments, strict=True)]
    return found, [(z[0], left), (z[0], -sizes[0] / 2), *zip(z, sizes, strict=True)]


def recompute(c: dict[str, ivmpf]) -> dict[str, ivmpf]:
    """Every value that a certificate must hold; those in it do not count, but for epsilon."""
    if not (c["schema"] == 2 and 0 < c["delta"] < 1 and Fraction(c["values"]["epsilon"]) >= 0):
        raise ValueError("schema, delta or epsilon is out of range, or not known here.")
    found, epsilon = {"log delta": iv.log(_exact(c["delta"]))}, c["values"]["epsilon"]
    for name, (moments, curve) in ((name, side(c, name)) for name in ("remove", "add")):
        falls = [f * iv.exp(-z * _exact(Fraction(epsilon))) for z, f in curve]
        found |= moments | {f"{name}: log left out": iv.log(falls[0].real), f"{name}: log delta": iv.log(sum(falls).real)}
    ends = {name: zip(WAYS, map(to_rational, x._mpi_), strict=True) for name, x in found.items()}
    shown = {name: [str(way.divide(*map(Decimal, map(int, end)))) for way, end in pair] for name, pair in ends.items()}
    holds = found["remove: log delta"].b <= found["log delta"].a >= found["add: log delta"].b
    return shown | {"epsilon": epsilon if holds else None}


def check(path: str) -> tuple[int, str]:
    """Status and reason: 0 and what is proven, 1 if the certificate does not hold, 2 if it cannot be checked."""
    try:
        with open(path) as file:
            c = json.load(file, parse_float=Fraction)
        found, values = recompute(c), c["values"]
        wrong = [name for name in found | values if found.get(name) != values.get(name)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        return 2, f"{path} cannot be checked: {error!r}"
    proven = f"proven: epsilon <= {values['epsilon']} at delta {float(c['delta'])}"
    return (1, f"{path} does not hold: wrong are {', '.join(wrong)}") if wrong else (0, proven)


if __name__ == "__main__":
    print((outcome := check(sys.argv[1]))[1])
    sys.exit(outcome[0])
