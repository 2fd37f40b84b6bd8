"""The density p_L of U[-L/2, L/2] + N(0, 1) in ball arithmetic, for make_mixing.py and
make_subsampled_mixing.py."""

from flint import arb


def density(length):
    """p_L(x) = [Phi(x+L/2) - Phi(x-L/2)]/L."""
    root = 1 / arb(2).sqrt()
    half = length / 2 * root

    def p(x):
        x = abs(x) * root
        return ((x - half).erfc() - (x + half).erfc()) / (2 * length)

    return p


def log_density(length):
    """log p_L; far out, where the error bounds of erfc get useless, with Tricomi's U:
    Phi(-t) = exp(-t^2/2) U(1/2, 1/2, t^2/2)/sqrt(4 pi)."""
    p, half = density(length), arb(1) / 2

    def scaled(t):
        return (t * t / 2).hypgeom_u(half, half)

    def log_p(x):
        x = abs(x)
        t = x - length / 2
        if not t > 1000:
            return p(x).log()
        difference = scaled(t) - (-x * length).exp() * scaled(x + length / 2)
        return (difference / (length * (4 * arb.pi()).sqrt())).log() - t * t / 2

    return log_p
