"""Makes laws.json, for p the density of mixing on [-L/2, L/2] plus N(0, 1), the mixing having the
density

    f(u) = (2/L) cos^2(pi u/L) (column b is 0)    or    f(u) = (L^2/4 - u^2)^(b-1) / (B(b, b)
    L^(2b-1)),

    h = log Int p(x-v)^k p(x)^(1-k) dx,    k > 1,    p(x) = Int f(u) phi(x-u) du.

The inner integral: over all d (distance of u from the edge next to x) with t d + d^2/2 < R^2/2 +
(t_-)^2/2, t = |x| - L/2. Far from both edges by the trapezoid rule; else by Gauss-Legendre pieces
in y, d = y^2 (beyond the middle y^2 is the distance from the other edge), as the integrand is
analytic in y for whole 2 b.
The outer one: trapezoid rule on [-L/2 - W, L/2 + k v + W]. What allows it is as in make_mixing.py,
since the posterior of u given x is log-concave with a factor e^{-(u-x)^2/2}, so its variance is
below 1. Each value is computed with two sets of steps, windows and precisions that must agree.
Run: python tests/reference/make_laws.py (some minutes)
"""

from flint import arb

from reference_tools import gauss, gauss_rule, trapezoid, write_table

ROWS = [
    *(
        ["0", k, v, "5"]
        for k, v in (("2", "0.001"), ("1.05", "0.3"), ("7", "0.02"), ("64", "0.1"), ("2", "3"))
    ),
    *(["0", k, v, "33.58"] for k, v in (("2", "0.2985"), ("1.5", "0.01"))),
    *(["2", k, v, "33.58"] for k, v in (("2", "0.2985"), ("1.5", "2"))),
    *(["2", "12", "0.3", length] for length in ("0.01", "5")),
    *(
        ["1.5", k, v, length]
        for k, v, length in (("2", "0.05", "5"), ("7", "0.5", "21"), ("7", "0.05", "25"))
    ),
    *(
        ["10", k, v, length]
        for k, v, length in (("7", "0.3", "1"), ("2", "0.3", "22.5"), ("7", "0.09", "40"))
    ),
    *([b, "2", "0.5", "150"] for b in ("0", "4.5")),
]
SETTINGS = [
    (16, 12, 23, 1),
    (17, 13, 27, arb("0.7")),
]  # R, W, points of a piece, factor of all steps


def density(b, length, reach, points, fine):
    rule, half = gauss_rule(points), length / 2
    constant = 2 / length if b == 0 else (2 * b).gamma() / b.gamma() ** 2 / length
    root = (2 * arb.pi()).sqrt()

    def f(d):
        if b == 0:
            return constant * (arb.pi() * d / length).sin() ** 2
        return constant * (d / length * (1 - d / length)) ** (b - 1)

    def p(x):
        t = abs(x) - half
        ahead = (t * t + reach * reach).sqrt() if t > 0 else arb(reach)
        low, high = max(arb(0), -t - reach), min(length, -t + ahead)

        def near(y):  # without phi(t) if t > 0
            d = y * y
            return 2 * y * f(d) * (-d * t - d * d / 2 if t > 0 else -((t + d) ** 2) / 2).exp()

        def beyond(y):
            d = length - y * y
            return 2 * y * f(y * y) * (-d * t - d * d / 2 if t > 0 else -((t + d) ** 2) / 2).exp()

        if low > 0 and high < length:
            total = trapezoid(lambda d: f(d) * (-((t + d) ** 2) / 2).exp(), low, high, fine)
            return total.log() - root.log()
        total = arb(0)
        if low < half:
            a, c = low.sqrt(), min(high, half).sqrt()
            total += gauss(near, a, c, (c - a) / 20 * arb("1.0001"), rule)
        if high > half:
            a, c = (
                (length - high).sqrt() if high < length else arb(0),
                (length - max(low, half)).sqrt(),
            )
            total += gauss(beyond, a, c, (c - a) / 20 * arb("1.0001"), rule)
        return total.log() - root.log() - (t * t / 2 if t > 0 else 0)

    return p


def laws(setting, b, k, v, length):
    reach, window, points, factor = SETTINGS[setting]
    log_p = density(b, length, reach, points, factor * arb("0.36"))
    step = factor / (9 if k < 5 else 11 if k < 10 else 22)

    def integrand(x):
        return (k * log_p(x - v) + (1 - k) * log_p(x)).exp()

    return trapezoid(integrand, -length / 2 - window, length / 2 + k * v + window, step).log()


if __name__ == "__main__":
    write_table(
        __file__,
        "h = log Int p(x-v)^k p(x)^(1-k) dx, p the density of N(0,1) + mixing on [-L/2,L/2]: "
        "Beta(b,b); b=0: raised cosine",
        ["b", "k", "v", "L"],
        ROWS,
        "h",
        laws,
    )
