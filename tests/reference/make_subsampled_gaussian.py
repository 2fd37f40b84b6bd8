"""Makes subsampled_gaussian.json, the log moment of the Poisson-subsampled Gaussian mechanism

    log_moment = log Int phi(x) (1 - q + q exp(x/z - 1/(2 z^2)))^alpha dx      (phi standard normal)

with the trapezoid rule.  With f the integrand and w(x) in (0, 1) the share of the exponential in
the bracket,

    (log f)'(x) = -x + alpha w(x)/z,

so left of 0 and right of alpha/z f falls at least as fast as a normal density, which bounds what is
cut off
at -W and alpha/z + W.  For |y| < pi z the bracket has no zero and |f(x+iy)| <= exp(y^2/2) f(x), so
the step h leaves a relative error near 2 exp(y^2/2 - 2 pi y/h), below 1e-80 for y = min(3 z, 3) and
the steps below.
Each value is computed with (h, W) and (h/2, W+5).  Run: python
tests/reference/make_subsampled_gaussian.py
"""

from flint import arb

from reference_tools import choose, trapezoid, write_table

Q = ["1e-6", "1e-4", "0.01", "0.1", "0.5", "0.9", "1"]
Z = ["0.2", "0.5", "1", "3", "10", "100"]
ALPHA = ["1.01", "1.1", "1.5", "2", "2.5", "3.7", "10", "32.5", "100", "317.3", "1000"]


def log_moment(setting, q, z, alpha):
    h = min(z / 10, arb("0.125"))
    width = 22
    if setting == 1:
        h, width = h / 2, 27

    def integrand(x):
        return (alpha * (1 - q + q * ((x - 1 / (2 * z)) / z).exp()).log() - x * x / 2).exp()

    total = trapezoid(integrand, arb(-width), alpha / z + width, h)
    return (total / (2 * arb.pi()).sqrt()).log()


if __name__ == "__main__":
    write_table(
        __file__,
        "log_moment = log Int phi(x) (1-q+q exp(x/z-1/(2 z^2)))^alpha dx, phi the standard normal density",
        ["q", "z", "alpha"],
        choose([Q, Z, ALPHA], 3),
        "log_moment",
        log_moment,
    )
