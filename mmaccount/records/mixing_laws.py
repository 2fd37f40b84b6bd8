"""The laws that mixing noise may have, by name: symmetric densities on [-W/2, W/2], W the width of
their support.

uniform         1/W; the paper's
raised-cosine   (2/W) cos^2(pi x/W)
beta-B          proportional to (W^2/4 - x^2)^(B-1), B in [1, 10]; beta-1 is the uniform
"""

from math import pi

UNIFORM, RAISED_COSINE, BETA = "uniform", "raised-cosine", "beta-"
# B; there the standard deviation is 11 % of the support, and the law nearly Gaussian
LARGEST_BETA = 10.0


def exponent(law: str) -> float:
    """B of a law beta-B, 1 for the uniform: the density vanishes like the distance to the edge to
    the power B - 1."""
    if law == RAISED_COSINE:
        return 3.0
    return 1.0 if law == UNIFORM else float(law.removeprefix(BETA))


def checked(name: str, value: object) -> str:
    """The one spelling of a law, for example "beta-2" for "beta-2.0"; what is not a law is a
    ValueError."""
    if value in (UNIFORM, RAISED_COSINE):
        return str(value)
    if isinstance(value, str) and value.startswith(BETA):
        try:
            b = exponent(value)
        except ValueError:
            b = 0.0
        if 1.0 <= b <= LARGEST_BETA:
            return UNIFORM if b == 1.0 else BETA + repr(b).removesuffix(".0")
    raise ValueError(
        f"`{name}` must be {UNIFORM}, {RAISED_COSINE} or {BETA}B with B in [1, {LARGEST_BETA:g}], "
        f"got {value!r}."
    )


def variance(law: str) -> float:
    """Variance of the law with W = 1."""
    if law == RAISED_COSINE:
        return 1.0 / 12.0 - 0.5 / pi**2
    return 1.0 / (4.0 * (2.0 * exponent(law) + 1.0))


def energy(noise_multiplier: float, mixing: float, law: str) -> float:
    """z^2 + V rho^2, V the variance of the law: of Gaussian noise and mixing together, in units of
    clip_norm^2."""
    return noise_multiplier**2 + variance(law) * mixing**2
