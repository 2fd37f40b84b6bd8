"""Checks a certificate, computing every number of it again in intervals; why these are bounds: certificate.py."""

import json
import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from math import ceil, comb, log, log2, pi, sqrt

from mpmath.ctx_iv import MPIntervalContext, ivmpf
from mpmath.libmp import to_rational

iv, POINTS, WAYS = MPIntervalContext(), dict[int, list[ivmpf]](), (Context(30, ROUND_FLOOR), Context(30, ROUND_CEILING))


def _exact(x: Fraction | int) -> ivmpf:  # the narrowest interval around a number
    return iv.mpf(Fraction(x).numerator) / Fraction(x).denominator


def _tail(x: ivmpf) -> ivmpf:  # P(N(0,1) > x)
    if x.a < -1:
        return 1 - _tail(-x)
    u, a = x / iv.sqrt(2), ceil(sqrt(0.7 * iv.prec) + 1)
    if iv.prec not in POINTS:
        POINTS[iv.prec] = [(s, iv.exp(-s)) for s in (((n + 0.5) * iv.pi / a) ** 2 for n in range(a * a // 3 + 1))]
    total = sum((w / (s + u * u) for s, w in POINTS[iv.prec]), iv.mpf(0)) / a + iv.exp(2 - a * a) * iv.mpf([-1, 1])
    return iv.exp(-u * u) * u * total + (1 / (iv.exp(2 * a * u) + 1) if u.a < a else 0)


def _moments(orders: list[ivmpf], q: Fraction, v: ivmpf, length: Fraction) -> list[ivmpf]:
    # E[R^k] for R = 1 - q + q p(x - v)/p(x), p the density of U[-length/2, length/2] + N(0,1), by the trapezoid rule
    shift, top, k, edge, r = float(v.mid), float(max(orders)), _exact(max(orders)), length / 2, _exact(length / 2)
    y = Fraction(sqrt(60 / (30 + top)) if length else min(sqrt(1.4 * iv.prec), 2.5 / shift))
    growth = 2 * iv.exp(_exact(y * y / 2)) * (_exact(1 - y * y / 2) ** (1 - k) if length else 1)
    step = Fraction(2 * pi * float(y) / (0.7 * iv.prec + float(iv.log(growth).mid)))
    w = ceil(sqrt(1.4 * iv.prec + 2 * top * (shift + shift**2 / 2 - log(q))) + 1)
    far, small, h = w + ceil(top * shift), _tail(iv.mpf(w)), _exact(step)
    per = _exact(length) if length else iv.sqrt(2 * iv.pi)
    first, left, right, last = (ceil(x / step) for x in (-edge - w, w + ceil(shift) - edge, edge - w, edge + far))
    middle = max(0, right - left - 2)  # nodes deep within both edges are taken together
    nodes = [(small * iv.mpf([-4, 4]), middle * h / per * (1 - 2 * small * iv.mpf([0, 1])))]
    for n in [*range(first - 1, left + 1), *range(right - 1, last + 1)] if middle else range(first - 1, last + 1):
        here, there = (_tail(abs(x) - r) - _tail(abs(x) + r) if length else iv.exp(-x * x / 2) for x in (n * h, n * h - v))
        nodes.append((iv.log(_exact(1 - q) + _exact(q) * there / here), here * h / per))
    error = growth / (iv.exp(2 * iv.pi * _exact(y / step)) - 1) * iv.mpf([-1, 1])
    lost = (2 * small + iv.exp(k * v + (k * v) ** 2 / 2) * _tail(far - k * v)) / per * iv.mpf([0, 3])
    return [sum((weight * iv.exp(_exact(k) * log_r) for log_r, weight in nodes), lost) / (1 + error) for k in orders]


def recompute(c: dict[str, ivmpf]) -> dict[str, ivmpf]:
    """Every value that a certificate must hold; those in it do not count."""
    found, total, order, delta = dict[str, ivmpf](), iv.mpf(0), c["order"], c["delta"]
    for i, (phase, rule) in enumerate(zip(c["phases"], c["rules"], strict=True), 1):
        q, steps, z, mixing, p = (phase[x] for x in ("sample_rate", "steps", "noise_multiplier", "mixing", "truncation"))
        fits = c["schema"] == 1 and 5000 * z > order > 1
        fits = fits and len(phase) == 6 and phase["noise"] == "gaussian" and 0 < q <= 1 <= min(p, steps) and steps % 1 == 0
        if not (fits and z > 0 <= mixing and 0 < delta < 1 and (rule in ("plain", "binomial") or order < rule < 2)):
            raise ValueError(f"phase {i} or its rule is out of range, or not known here.")
        iv.prec = 180 + ceil(2 * log2(max(1, z)) + log2(p) + abs(log2(Fraction(mixing) / z or 1)) - 2 * log2(q))
        length, v, one, rest = Fraction(mixing) / z, 1 / (_exact(z) * iv.sqrt(_exact(p))), _exact(q), _exact(1 - q)
        if rule == "plain":
            moment = _moments([order], q, 1 / _exact(z), Fraction(0))[0]
        else:
            weights = {order: _exact(1)}
            if rule == "binomial" and q < 1:
                weights = {k: comb(order, k) * one**k * rest ** (order - k) for k in range(2, order + 1)}
            elif q < 1:
                t, size = _exact((2 - rule) / (2 - Fraction(order))), _exact(q * q * order * (order - 1) / rule / (rule - 1))
                weights = {rule: size * ((rest / (1 - t)) ** (1 - t) * (one / t) ** t) ** _exact(order - 2)}
            rise = _moments([*weights], Fraction(1), v, length if length > Fraction(1, 10**8) else Fraction(0))
            found |= {f"{i}: h of order {float(k)}": iv.log(m) for k, m in zip(weights, rise, strict=True)}
            moment = 1 + sum(w * (m ** _exact(p) - 1) for w, m in zip(weights.values(), rise, strict=True))
        found |= {f"{i}: shift": v, f"{i}: width": _exact(length), f"{i}: log moment of a step": iv.log(moment)}
        total += steps * iv.log(moment)
    a = _exact(order)
    result = (total + (a - 1) * iv.log(1 - 1 / a) - iv.log(_exact(delta) * a)) / (a - 1)
    for name, x in (found | {"delta": _exact(delta), "result": result}).items():
        ends = zip(WAYS, map(to_rational, x._mpi_), strict=True)
        found[name] = [str(way.divide(Decimal(int(over)), Decimal(int(under)))) for way, (over, under) in ends]
    return found | {"epsilon": max("0", found["result"][1], key=Fraction)}


def check(path: str) -> tuple[int, str]:
    """Status and reason: 0 and what is proven, 1 if the certificate does not hold, 2 if it cannot be checked."""
    try:
        with open(path) as file:
            c = json.load(file, parse_float=Fraction)
        found, values = recompute(c), c["values"]
        wrong = [name for name in found | values if found.get(name) != values.get(name)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        return 2, f"{path} cannot be checked: {error!r}"
    proven = f"proven: epsilon <= {found['epsilon']} at delta {float(c['delta'])}"
    return (1, f"{path} does not hold: wrong are {', '.join(wrong)}") if wrong else (0, proven)


if __name__ == "__main__":
    print((outcome := check(sys.argv[1]))[1])
    sys.exit(outcome[0])
