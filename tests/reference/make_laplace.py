"""Makes laplace.json, for p_L the density of U[-L/2, L/2] + Laplace(scale 1),

    p_L(x) = (1 - e^(-L/2) cosh x)/L for |x| <= L/2,   e^(-|x|) sinh(L/2)/(L/2)/2 for |x| > L/2,
    (L = 0: e^(-|x|)/2),       h = log Int f(x) dx,     f(x) = p_L(x-v)^k p_L(x)^(1-k),    k > 1,

with composite Gauss-Legendre rules between the points -L/2, L/2, v-L/2, v+L/2 (f is analytic
between them).
  * Tails: for x >= v+L/2 and for x <= -L/2 f is a multiple of e^-|x|, so its integral there is f at
    that point.
  * Flat part: a distance d inside all edges, p_L(x) = p_L(x-v) = 1/L to e^-d: that part of Int f is
    its length/L.
Each value is computed with (pieces of length g, 80 nodes, d) and (g/2, 64 nodes, d+20).
Run: python tests/reference/make_laplace.py
"""

from flint import arb

from reference_tools import choose, gauss, gauss_rule, write_table

K = ["1.05", "1.5", "2", "5", "20", "100", "1000"]
V = ["1e-8", "1e-4", "0.01", "0.3", "2", "10", "100"]
L = ["0", "1e-6", "1e-2", "1", "10", "1000", "1e9"]
RULES = {}


def density(length):
    edge = length / 2
    factor = edge.sinh() / length if length > 0 else arb(1) / 2

    def p(
        x, inner
    ):  # inner: whether |x| <= L/2, told by the caller, who knows the piece that x lies in
        if inner:  # e^(-L/2) cosh x without the huge cosh
            return (1 - ((x - edge).exp() + (-x - edge).exp()) / 2) / length
        return (-abs(x)).exp() * factor

    return p


def laplace(setting, k, v, length):
    p = density(length)
    edge = length / 2
    if setting not in RULES:
        RULES[setting] = gauss_rule((80, 64)[setting])
    piece = min(arb("0.5"), 50 / k) / (1 + setting)
    inside = 200 + 20 * setting

    def integral(a, b):
        """Int_a^b f for a piece that has none of the four points inside."""
        middle = (a + b) / 2
        inner, inner_v = bool(abs(middle) < edge), bool(abs(middle - v) < edge)
        return gauss(
            lambda x: (k * p(x - v, inner_v).log() + (1 - k) * p(x, inner).log()).exp(),
            a,
            b,
            piece,
            RULES[setting],
        )

    def tail(x):
        return (k * p(x - v, False).log() + (1 - k) * p(x, False).log()).exp()

    total = tail(-edge) + tail(v + edge)
    points = [-edge, edge, v - edge, v + edge]
    if length > 2 * inside + v + 1:
        points += [v - edge + inside, edge - inside]
    points.sort(key=float)  # stable, so points closer than a double can tell stay in order
    for a, b in zip(points, points[1:]):
        if length > 2 * inside + v + 1 and a is points[2]:
            total += (b - a) / length
        elif b - a > 0:
            total += integral(a, b)
    return total.log()


if __name__ == "__main__":
    write_table(
        __file__,
        "h = log Int p_L(x-v)^k p_L(x)^(1-k) dx, p_L the density of U[-L/2,L/2] + Laplace(scale 1):"
        " p_L(x) = (1-exp(-L/2) cosh x)/L for |x|<=L/2, exp(-|x|) sinh(L/2)/L for |x|>L/2"
        " (L=0: exp(-|x|)/2)",
        ["k", "v", "L"],
        choose([K, V, L], 4),
        "h",
        laplace,
    )
