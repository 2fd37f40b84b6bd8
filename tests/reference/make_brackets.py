"""Makes brackets.json: 2,000 random runs with an epsilon and the delta there, for bounds to
enclose.

Nothing of the package is used. All is done in balls (python-flint) of about 60 digits, or by mpmath
    at 40 digits: gaussian     q = 1: Phi(mu/2 - e/mu) - e^e Phi(-mu/2 - e/mu), mu^2 = T/z^2;
    one step     the likelihood ratio test at the outcome x where (1 - q + q r(x))^{+-1} = e^e,
    larger direction; two steps    the mean over the first step of the delta of the second at what
    is left of epsilon, by tanh-sinh; many steps   (D / pi) Re sum_j M(w_j - 1)^T e^{-(w_j - 1) e} /
    (w_j (w_j - 1)), w_j = 1 + t + i j D, larger direction,
                 M by the trapezoid rule; t is the saddle point, D makes the aliases, and the last j
                 the rest, < 1e-20 of it;
    mixed step   one coordinate of U[-L/2, L/2] + N(0, 1), shifted by 1/z with probability q: its
    likelihood ratio test; mixed steps  the sum of "many steps" for p coordinates shifted by 1/(z
    sqrt p) each (q = 1), or for one (q < 1); moment       log sum_k C(a, k) (1-q)^(a-k) q^k e^{p
    h_k}: "epsilon" is the order a, "delta" that log-moment.
The mixed ones are of an attack that exists, in the direction of removal: lower bounds of what a
guarantee must cover. Run: python tests/reference/make_brackets.py
"""

import json
import math
import pathlib
import random

import mpmath
from flint import acb, arb, ctx

from mixture_density import density

ctx.prec = 220
COUNTS = {
    "gaussian": 700,
    "one step": 760,
    "two steps": 100,
    "many steps": 150,
    "mixed step": 150,
    "mixed steps": 60,
    "moment": 80,
}
FAR = 60.0  # e^-60 of the integrand is left out
MOST = 1500  # frequencies; runs that need more are drawn again


def tail(x):
    """P(N > x)."""
    return (x / arb(2).sqrt()).erfc() / 2


def gaussian(mu, epsilon):
    return tail(epsilon / mu - mu / 2) - epsilon.exp() * tail(epsilon / mu + mu / 2)


def one_step(q, z, epsilon):
    """(remove, add)."""
    v, ratio = 1 / z, epsilon.exp()
    x = ((ratio - 1 + q) / q).log() / v + v / 2
    remove = (1 - q - ratio) * tail(x) + q * tail(x - v)
    inside = (1 / ratio - 1 + q) / q
    if not inside > 0:
        return remove, arb(0)
    x = inside.log() / v + v / 2
    return remove, (1 - ratio * (1 - q)) * tail(-x) - ratio * q * tail(v - x)


def two_steps(q, z, epsilon):
    with mpmath.workdps(40):
        q, v, epsilon = mpmath.mpf(q), 1 / mpmath.mpf(z), mpmath.mpf(epsilon)

        def log_r(x):
            return mpmath.log(1 - q + q * mpmath.exp(v * (x - v / 2)))

        def removal(e):
            inside = (mpmath.exp(e) - 1 + q) / q
            if inside <= 0:
                return -mpmath.expm1(e)
            x = mpmath.log(inside) / v + v / 2
            return (1 - q - mpmath.exp(e)) * mpmath.ncdf(-x) + q * mpmath.ncdf(v - x)

        def addition(e):
            inside = (mpmath.exp(-e) - 1 + q) / q
            if inside <= 0:
                return mpmath.mpf(0)
            x = mpmath.log(inside) / v + v / 2
            return (1 - mpmath.exp(e) * (1 - q)) * mpmath.ncdf(x) - mpmath.exp(e) * q * mpmath.ncdf(
                x - v
            )

        def total(f, kink):
            ends = sorted(
                {
                    mpmath.mpf(-14),
                    mpmath.mpf(0),
                    v,
                    14 + v,
                    *([kink] if -14 < kink < 14 + v else []),
                }
            )
            return mpmath.quad(f, ends, maxdegree=8)

        def kink(value):  # the x where log r is `value`
            inside = (mpmath.exp(value) - 1 + q) / q
            return mpmath.log(inside) / v + v / 2 if inside > 0 else mpmath.mpf(-99)

        edge = mpmath.log(1 - q)
        remove = total(
            lambda x: mpmath.npdf(x) * mpmath.exp(log_r(x)) * removal(epsilon - log_r(x)),
            kink(epsilon - edge),
        )
        add = total(lambda x: mpmath.npdf(x) * addition(epsilon + log_r(x)), kink(-edge - epsilon))
        return arb(mpmath.nstr(max(remove, add), 30))


class Law:
    """One step: nodes with weights phi(x) dx (or p(x) dx) and log-ratios of the losses; `power`
    equal independent ones."""

    def __init__(self, weights, losses, power, add):
        self.losses = [-x if add else x for x in losses]
        self.base = [w * x.exp() for w, x in zip(weights, losses)] if not add else weights
        self.power = power
        self.rough = [
            (float(x), math.log(float(w)) if float(w) > 0 else -800.0)
            for x, w in zip(self.losses, self.base)
        ]

    def cumulant(self, t):
        """(K, K', K'') of the whole at t, roughly."""
        logs = [w + t * x for x, w in self.rough]
        top = max(logs)
        shares = [math.exp(log - top) for log in logs]
        total = sum(shares)
        mean = sum(s * x for s, (x, _) in zip(shares, self.rough)) / total
        square = sum(s * (x - mean) ** 2 for s, (x, _) in zip(shares, self.rough)) / total
        return self.power * (top + math.log(total)), self.power * mean, self.power * square

    def delta(self, epsilon, t, highest):
        """None if it takes more than MOST frequencies, or one above `highest`, which the nodes are
        made for."""
        here, _, variance = self.cumulant(t)
        wanted = here - t * epsilon - math.log(t * (1 + t) * math.sqrt(variance) + 1) - FAR
        reach = [
            (self.cumulant(u)[0] - u * epsilon - wanted) / (u - t)
            for u in (1.2 * t, 1.6 * t, 2.5 * t, 5 * t)
        ]
        period = max(-wanted / t, min(reach))
        step = arb(2) * arb.pi() / period
        turns = [acb(0, step * x).exp() for x in self.losses]
        now = [acb(w * (t * x).exp()) for w, x in zip(self.base, self.losses)]
        total = arb(0)
        for j in range(min(MOST, int(highest / float(step)))):
            point = acb(t, j * step)
            moment = acb(0)
            for value in now:
                moment += value
            term = moment**self.power * (-point * epsilon).exp() / (point * (1 + point))
            total += term.real / (1 if j else 2)
            size = float(abs(term).log()) if abs(term) > 0 else -9e9
            if size < wanted - 3 and j > 8:
                return 2 * total / period
            now = [a * b for a, b in zip(now, turns)]
        return None


def plain_nodes(q, z, frequency, order):
    v = 1 / z
    strip = min(1.5, 1.2 / float(v))
    h = arb(2 * math.pi * strip / (110 + strip**2 / 2 + 1.2 * frequency + 1.1 * order))
    count = int((32 + (order + 1) * float(v)) / float(h))
    points = [-16 + h * i for i in range(count + 1)]
    weights = [h * (-x * x / 2).exp() / (2 * arb.pi()).sqrt() for x in points]
    return weights, [(1 - q + q * (v * (x - v / 2)).exp()).log() for x in points]


def mixed_nodes(q, shift, length, frequency, order):
    h = arb(2 * math.pi / (110 + 3 * float(shift) * frequency + 1.2 * order))
    first = -float(length) / 2 - 16
    count = int((float(length) + 32 + (order + 1) * float(shift)) / float(h))
    points, p = [first + h * i for i in range(count + 1)], density(length)
    here = [p(x) for x in points]
    there = [p(x - shift) for x in points]
    return [h * x for x in here], [(1 - q + q * b / a).log() for a, b in zip(here, there)]


def saddle(nodes, power, t):
    """The epsilon that t is best for, the highest frequency to go to, delta of removal."""
    law = Law(*nodes(8.0, 2 * t + 2), power, False)
    _, mean, variance = law.cumulant(t)
    highest = 30 / math.sqrt(variance + 1e-3)
    law = Law(*nodes(highest, 5 * t + 2), power, False)
    epsilon = float(f"{mean:.4g}")
    return epsilon, highest, law.delta(arb(epsilon), arb(t), highest) if epsilon > 0 else None


def mixed_step(q, z, length, epsilon):
    p, v = density(length), 1 / z
    wanted = (epsilon.exp() - 1 + q) / q
    low, high = -length / 2 - 40, length / 2 + 40 + v
    for _ in range(60):  # the test is best there: a small error of x costs its square
        middle = ((low + high) / 2).mid()
        if p(middle - v) > wanted * p(middle):
            high = middle
        else:
            low = middle

    def above(x):
        def g(u):
            return (-u * u / 2).exp() / (2 * arb.pi()).sqrt() - u * tail(u)

        return (g(x - length / 2) - g(x + length / 2)) / length

    x = middle
    return (1 - q - epsilon.exp()) * above(x) + q * above(x - v)


def moment(q, z, length, p, order):
    shift = 1 / (z * arb(p).sqrt())
    weights, losses = mixed_nodes(arb(1), shift, length, 0, order)
    total = arb(0)
    for k in range(order + 1):
        inside = (
            sum((w * (k * x).exp() for w, x in zip(weights, losses)), arb(0)) ** p
            if k > 1
            else arb(1)
        )
        total += math.comb(order, k) * (1 - q) ** (order - k) * q**k * inside
    return total.log()


def draw(low, high):
    return float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.4g}")


def row(kind):
    """One random run, or None where it is outside of what can be computed."""
    q, z, steps, mixing, p = draw(1e-6, 1), draw(0.1, 50), 1, 0.0, 1
    if kind == "gaussian":
        q, steps = 1.0, int(draw(1, 1e7))
        mu = draw(1e-3, 30)
        z = float(f"{math.sqrt(steps) / mu:.4g}")
        mu = arb(steps).sqrt() / arb(z)
        epsilon = float(f"{max(1e-6, float(mu * mu / 2 + mu * random.uniform(-1, 12))):.4g}")
        delta = gaussian(mu, arb(epsilon))
    elif kind in ("one step", "two steps"):
        z = draw(0.15, 20)
        top = math.log1p(q * math.expm1(min(600.0, (random.uniform(0, 5) + 0.5 / z) / z)))
        epsilon = float(f"{max(1e-9, top):.4g}")
        if kind == "one step":
            removal, addition = one_step(arb(q), arb(z), arb(epsilon))
            delta = removal if removal > addition else addition
        else:
            steps, q, z = 2, draw(1e-3, 1), draw(0.3, 10)
            top = math.log1p(q * math.expm1((random.uniform(0, 4) + 0.5 / z) / z))
            epsilon = float(f"{max(1e-6, top):.4g}")
            delta = two_steps(q, z, epsilon) if q < 1 else None
    elif kind == "many steps":
        z, steps, t = draw(0.3, 20), int(draw(5, 1e7)), draw(0.2, 20)
        q = float(f"{min(1.0, draw(0.1, 30) * z / math.sqrt(steps)):.4g}")

        def nodes(frequency, order):
            return plain_nodes(arb(q), arb(z), frequency, order)

        epsilon, highest, delta = saddle(nodes, steps, t)
        if delta is not None:
            other = Law(*nodes(highest, 5 * t + 2), steps, True).delta(
                arb(epsilon), arb(t), highest
            )
            delta = None if other is None else delta if delta > other else other
    elif kind == "mixed step":
        z, mixing = draw(0.3, 5), draw(0.3, 60)
        epsilon = float(f"{math.log1p(q * math.expm1(random.uniform(0.1, 4) / z)):.4g}")
        delta = mixed_step(arb(q), arb(z), arb(mixing) / arb(z), arb(epsilon))
    elif kind == "mixed steps":
        z, mixing, t, steps = draw(0.3, 5), draw(0.3, 60), draw(0.5, 6), int(draw(1, 3000))
        p = int(draw(1, 300)) if random.random() < 0.5 else 1
        if p > 1:
            q, z = 1.0, float(f"{z * math.sqrt(steps):.4g}")
        else:
            q = float(f"{min(1.0, draw(0.1, 10) * z / math.sqrt(steps)):.4g}")
        shift, length = 1 / (arb(z) * arb(p).sqrt()), arb(mixing) / arb(z)
        epsilon, _, delta = saddle(
            lambda f, o: mixed_nodes(arb(q), shift, length, f, o), steps * p, t
        )
    else:
        q, z, mixing, p, epsilon = (
            draw(1e-4, 0.9),
            draw(0.3, 20),
            draw(0.3, 60),
            int(draw(1, 1000)),
            random.randint(2, 24),
        )
        delta = moment(arb(q), arb(z), arb(mixing) / arb(z), p, epsilon)
    if (
        delta is None
        or not (delta > 1e-30 and delta.rel_accuracy_bits() > 70)
        or (kind != "moment" and delta > 0.9)
    ):
        return None
    values = {"kind": kind, "q": q, "z": z, "T": steps, "rho": mixing, "p": p, "epsilon": epsilon}
    return values | {"delta": delta.str(20, radius=False)}


if __name__ == "__main__":
    made = []
    for kind, count in COUNTS.items():
        random.seed(kind)
        while sum(values["kind"] == kind for values in made) < count:
            found = row(kind)
            made += [found] if found else []
        print(kind, count, flush=True)
    lines = ",\n".join("  " + json.dumps(values) for values in made)
    description = __doc__.split("\n")[0]
    path = pathlib.Path(__file__).with_name("brackets.json")
    path.write_text(f'{{"description": {json.dumps(description)},\n "values": [\n{lines}\n]}}\n')
