"""A clip norm that follows a quantile of the gradient norms: what it releases, and what that costs."""

from dataclasses import dataclass
from math import hypot, sqrt

from mmaccount.records import validate

BATCH_OVER_NOISE = 20.0  # the usual noise on a count is the batch size over this
ROUNDING_DOWN = 1.0 - 2.0**-50  # a few float64 roundings, on the safe side


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClipping:
    """A clip norm that follows a quantile of the gradient norms.

    Every step also releases how many gradients of its batch are at most c_k long, with noise, and
    clips the next at

        c_{k+1} = c_k exp(-rate (share - quantile)),
        share = 1/2 + (sum over the batch of (1[|g_i| <= c_k] - 1/2) + N(0, noise^2)) / B.

    Divided by the expected batch size B, not by the realised one, share is a function of the noisy
    count alone; on average it is the share of records with gradients of at most c_k. c_{k+1}
    depends on released values only.

    Args:
        noise: sigma_b > 0, standard deviation of the noise on the count, in records.
        quantile: gamma in (0, 1), the share of gradients that are not to be clipped.
        rate: eta_c > 0: but for noise the clip norm changes by at most a factor e^rate in a step.

    Source: Andrew, Thakkar, McMahan, Ramaswamy (2021), arXiv 1905.03871, Algorithm 1 and Theorem 1,
    there with n users sampled where B stands here.
    """

    noise: float
    quantile: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", validate.positive("noise", self.noise))
        object.__setattr__(self, "quantile", validate.probability("quantile", self.quantile))
        object.__setattr__(self, "rate", validate.positive("rate", self.rate))

    @classmethod
    def usual(
        cls, batch_size: float, quantile: float = 0.5, rate: float = 0.2
    ) -> "AdaptiveClipping":
        """The noise of the paper, B / 20, but no less than half the root of B, as much as sampling
        adds by itself."""
        return cls(
            noise=max(batch_size / BATCH_OVER_NOISE, sqrt(batch_size) / 2.0),
            quantile=quantile,
            rate=rate,
        )

    def joint(self, noise_multiplier: float) -> float:
        """The noise multiplier of the one Gaussian mechanism that sum and count together are:
            (z^-2 + (2 noise)^-2)^(-1/2),   z = `noise_multiplier` that of the sum; rounded down.

        Proof. Given what was released before, c = c_k is fixed. In units of their noise the step
        releases
        (sum of clipped gradients / (z c), sum of (b_i - 1/2) / noise) plus a standard normal
        vector, b_i in {0, 1}. A record in the batch adds (g / (z c), +-1 / (2 noise)) to the mean,
        g its clipped gradient, a vector of length at most (z^-2 + (2 noise)^-2)^(1/2), which every
        record with a long gradient attains. Sum and count are of the same batch, so the record is
        in both or in neither: with probability q the mean of one spherical Gaussian is moved by
        that vector, and a spherical Gaussian sees only its length. That is the Poisson-sampled
        Gaussian mechanism, the same pair whatever c_k is, so steps compose. Where one record is
        replaced by another, both move it by such a vector (accounting/neighbours.py); for these to
        be opposite, the worst case, one gradient has to be as long as c_k.
        """
        return ROUNDING_DOWN / hypot(1.0 / noise_multiplier, 0.5 / self.noise)
