"""Shared by the make_*.py scripts of this folder: quadrature in ball arithmetic, and the writing of
tables.

Needs `pip install python-flint`.  An `arb` is a number with a rigorous bound of its rounding error,
so only
the discretisation and the truncation of the integrals need the comparison made in `write_table`.
"""

import itertools
import json
import math
import pathlib
import time

from flint import arb, ctx

PRECISION = (320, 384)  # working bits of the two computations of each value
AGREE = arb("1e-28")  # largest relative difference that the two may have


def pieces(length, longest):
    """Number of equal pieces, none longer than `longest` (but for rounding of doubles)."""
    return max(1, math.ceil(float(length / longest)))


def trapezoid(f, a, b, h):
    """Trapezoid rule on [a, b], step at most h.  At each end f must have died out or be flat."""
    n = pieces(b - a, h)
    h = (b - a) / n
    total = (f(a) + f(b)) / 2
    for i in range(1, n):
        total += f(a + i * h)
    return total * h


def gauss_rule(n):
    return [arb.legendre_p_root(n, i, weight=True) for i in range(n)]


def gauss(f, a, b, length, rule):
    """Composite Gauss-Legendre rule on [a, b], pieces no longer than length."""
    m = pieces(b - a, length)
    half = (b - a) / (2 * m)
    total = arb(0)
    for j in range(m):
        centre = a + (2 * j + 1) * half
        for x, w in rule:
            total += w * f(centre + half * x)
    return total * half


def choose(lists, modulus):
    """Part (1/modulus, evenly spread, and all corners) of the product of the lists."""
    rows = []
    for index in itertools.product(*(range(len(c)) for c in lists)):
        corner = all(i in (0, len(c) - 1) for i, c in zip(index, lists))
        if corner or sum((-1) ** j * i for j, i in enumerate(index)) % modulus == 0:
            rows.append([c[i] for i, c in zip(index, lists)])
    return rows


def write_table(script, description, names, rows, result, compute):
    """Compute each row with setting 0 and setting 1, compare, and write the JSON file beside the
    script."""
    start, worst, values = time.time(), 0.0, []
    for number, row in enumerate(rows, 1):
        both = []
        for setting in (0, 1):
            ctx.prec = PRECISION[setting]
            both.append(compute(setting, *(arb(s) for s in row)))
        difference = abs(both[0] / both[1] - 1)
        if not difference < AGREE:  # also raised when the balls are too wide
            raise ArithmeticError(f"{dict(zip(names, row))}: {both[0]} and {both[1]}")
        worst = max(worst, float(difference.upper()))
        values.append({**dict(zip(names, row)), result: both[1].str(30, radius=False)})
        print(
            f"{number}/{len(rows)} {values[-1]} rel. diff. {float(difference.upper()):.1e} "
            f"{time.time() - start:.0f} s",
            flush=True,
        )
    path = pathlib.Path(script)
    path = path.with_name(path.stem.removeprefix("make_") + ".json")
    lines = ",\n".join("  " + json.dumps(v) for v in values)
    path.write_text(f'{{"description": {json.dumps(description)},\n "values": [\n{lines}\n]}}\n')
    print(
        f"{path.name}: {len(values)} rows, worst relative difference {worst:.1e}, "
        f"{time.time() - start:.0f} s"
    )
