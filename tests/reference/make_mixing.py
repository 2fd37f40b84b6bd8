"""Makes mixing.json, for p_L the density of U[-L/2, L/2] + N(0, 1), p_L(x) = [Phi(x+L/2) -
Phi(x-L/2)]/L,

    h = log Int f(x) dx,    f(x) = p_L(x-v)^k p_L(x)^(1-k),    k > 1,

with the trapezoid rule.  What allows it (write p for p_L, u = x - L/2, r = p(x-v)/p(x), s = -(log
p)'):
  * s = x - m, m the mean of N(x, 1) cut to [-L/2, L/2], so 0 < s' < 1, s > u and, for u > 0, s < u
    + 1/u.
  * Step: with V < 1 the variance of that cut distribution, |p(x+iy)| is between e^(y^2/2) p(x) (1 -
    y^2/2) and e^(y^2/2) p(x); so |f(x+iy)| <= f(x) e^(y^2/2) (1-y^2/2)^(1-k), and the error is near
    e^(-2 pi y/step) of that.
  * Tails: r increases and r < 1 for x < v/2, so f < p on the left: cut at -L/2-W.  On the right
    (log f)' = k (s(x) - s(x-v)) - s(x) < k v - u, so f falls like a normal density from u = k v:
    cut at k v + W.
  * Flat part: a distance d inside all edges, p(x) = p(x-v) = 1/L to exp(-d^2/2): that part of Int f
    is its length/L (and the trapezoid rule may end there, all derivatives being as small).
  * Far peak: (log f)' > k v - u - k/(u-v) - 1/u for u > v, a concave function of u; where it is
    positive at u1 and u2, f rises between them.  With x1, x2 those points, Int_{x<x2} f is then
    below
    1 + x1 p(0)^k p(x1)^(1-k) + (x2-x1) f(x2); it is skipped where that is < 1e-60 of the rest
    (checked below).
Each value is computed with (step, W, d) and (step/2, W+5, d+5).  Run: python
tests/reference/make_mixing.py
"""

from flint import arb

from mixture_density import log_density
from reference_tools import choose, trapezoid, write_table

K = ["1.05", "1.5", "1.9", "2", "7", "64", "300", "1000"]
V = ["1e-8", "1e-5", "1e-3", "0.02", "0.3", "2", "30", "1000"]
L = ["1e-6", "1e-3", "0.2", "1", "5", "33.58", "1000", "1e9"]
NEGLIGIBLE = arb("1e-60")


def mixing(setting, k, v, length):
    log_p = log_density(length)
    edge = length / 2
    step = arb(1) / (32 if k < 100 else 64 if k < 500 else 128)
    width, inside = 22, 20
    if setting == 1:
        step, width, inside = step / 2, 27, 25

    def f(x):
        return (k * log_p(x - v) + (1 - k) * log_p(x)).exp()

    end = edge + k * v + width
    u1, u2 = v + k.sqrt(), k * v - width
    if u1 < u2 and all(k * v - u - k / (u - v) - 1 / u > 0 for u in (u1, u2)):
        x1, x2 = edge + u1, edge + u2
        far = trapezoid(f, x2, end, step)
        skipped = 1 + x1 * (k * log_p(arb(0)) + (1 - k) * log_p(x1)).exp() + (x2 - x1) * f(x2)
        if skipped < NEGLIGIBLE * far:
            return far.log()
    if length > 2 * inside + v + 1:
        left = trapezoid(f, -edge - width, -edge + v + inside, step)
        right = trapezoid(f, edge - inside, end, step)
        return (left + (length - v - 2 * inside) / length + right).log()
    return trapezoid(f, -edge - width, end, step).log()


if __name__ == "__main__":
    write_table(
        __file__,
        "h = log Int p_L(x-v)^k p_L(x)^(1-k) dx, p_L(x) = [Phi(x+L/2)-Phi(x-L/2)]/L (the density of "
        "U[-L/2,L/2] + N(0,1))",
        ["k", "v", "L"],
        choose([K, V, L], 4),
        "h",
        mixing,
    )
