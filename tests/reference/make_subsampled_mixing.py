"""Makes subsampled_mixing.json, for p_L the density of U[-L/2, L/2] + N(0, 1), p_L(x) = [Phi(x+L/2)
- Phi(x-L/2)]/L,

    log_moment = log Int f(x) dx,    f(x) = p_L(x) (1 - q + q p_L(x-v)/p_L(x))^alpha,

with the trapezoid rule (see make_mixing.py for its use there and for s).  With w(x) in (0, 1) the
share of the ratio in the bracket, (log f)'(x) = -s(x) + alpha w(x) (s(x) - s(x-v)), and 0 < s(x) -
s(x-v) < v; so f falls at least as fast as a normal density left of -L/2 and right of L/2 + alpha v:
cut W beyond these points.
p_L has no zero for |Im x| < sqrt(2) and the phase of the ratio stays below pi for |Im x| up to
about pi/v > 1.1. Each value is computed with (step 1/32, W = 22) and (step 1/64, W = 27).
Run: python tests/reference/make_subsampled_mixing.py
"""

from flint import arb

from mixture_density import density
from reference_tools import choose, trapezoid, write_table

Q = ["1e-4", "0.02", "0.3", "1"]
V = ["0.05", "0.3", "1", "2.7"]
L = ["0.5", "5", "10.22", "33.58", "200"]
ALPHA = ["1.25", "1.5", "2", "3", "5.5", "8", "20"]


def log_moment(setting, q, v, length, alpha):
    p = density(length)
    edge = length / 2
    width = (22, 27)[setting]

    def f(x):
        p0 = p(x)
        return p0 * (alpha * (1 - q + q * p(x - v) / p0).log()).exp()

    return trapezoid(f, -edge - width, edge + alpha * v + width, arb(1) / (32, 64)[setting]).log()


if __name__ == "__main__":
    write_table(
        __file__,
        "log_moment = log Int p_L(x) (1-q+q p_L(x-v)/p_L(x))^alpha dx,"
        " p_L(x) = [Phi(x+L/2)-Phi(x-L/2)]/L (the density of U[-L/2,L/2] + N(0,1))",
        ["q", "v", "L", "alpha"],
        choose([Q, V, L, ALPHA], 11),
        "log_moment",
        log_moment,
    )
