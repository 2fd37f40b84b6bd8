"""How much one step is expected to lower the loss, at every clip norm, from the Gram matrix of a
probe.

One step with learning rate eta from w, averaged clipped gradients plus noise, changes the loss by
about
    -eta <grad F, m> + eta^2 / 2 (m' H m + tr(H Cov) / B + tr(H) (c / B)^2 e),
m and Cov mean and covariance of a clipped gradient, H the curvature, e = z^2 + V rho^2 the energy
of noise and mixing, V the variance of the mixing law at width 1 (1/12 for the uniform).
With H = beta I this is the smoothness inequality of the proofs, and R(c) = <grad F, m>^2 / (|m|^2 +
tr Cov / B + d (c / B)^2 e) the best decrease times 2 beta. Real curvature is far from equal in all
directions: H is taken as the mean of g g' (Gauss-Newton), scaled to the measured trace. This is a
model to choose by, not a bound. Sums leave out terms of a record with itself, which would count
noise as signal.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mmaccount.advice.probe import Probe

Array = npt.NDArray[np.float64]
CURVE_POINTS = 41  # clip norms on a curve
# the smallest is the median norm over this: by then nearly every record is clipped and nothing
# changes
MEDIAN_OVER_LOWEST = 32.0
GOOD_SHARE = 0.95  # share of the best that counts as equally good
TINY_DIVISOR = 1e-300  # stands in for 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DescentCurve:
    """What clipping at each of `clip_norms` leaves, at one point.

    Attributes:
        signal: <grad F, m>.
        square, spread: |m|^2 and tr Cov of a clipped gradient.
        bend_square, bend_spread: m' H m and tr(H Cov).
        trace: tr H.
        beta: smoothness. dimension: d.
        steepest: beta times the mean factor by which clipping shortens a gradient; 0 where it is
            not known.
    """

    clip_norms: Array
    signal: Array
    square: Array
    spread: Array
    bend_square: Array
    bend_spread: Array
    trace: float
    beta: float
    dimension: int
    steepest: Array

    def noise(self, batch_size: float, energy: float | Array) -> Array:
        """Curvature-weighted variance of a step's averaged gradient: tr(H Cov) / B + tr(H) (c /
        B)^2 e."""
        variance: Array = (
            self.bend_spread / batch_size
            + self.trace * (self.clip_norms / batch_size) ** 2 * energy
        )
        return variance

    def descent(self, batch_size: float, energy: float | Array) -> Array:
        """The best decrease of the loss in one step, times 2, over all learning rates."""
        decrease: Array = np.maximum(self.signal, 0.0) ** 2 / (
            self.bend_square + self.noise(batch_size, energy)
        )
        return decrease

    def longest(self) -> Array:
        """The largest learning rate: at <grad F, m> / m'Hm one step without noise gains most, and
        from 2 / steepest on the steepest direction diverges."""
        rate: Array = np.minimum(
            self.signal / np.maximum(self.bend_square, TINY_DIVISOR),
            2.0 / np.maximum(self.steepest, TINY_DIVISOR),
        )
        return rate

    def isotropic(self, batch_size: float, energy: float | Array) -> Array:
        """R(c) of the paper's proof, where curvature is the same in all directions."""
        noise = (
            self.spread / batch_size + self.dimension * (self.clip_norms / batch_size) ** 2 * energy
        )
        decrease: Array = np.maximum(self.signal, 0.0) ** 2 / (self.square + noise)
        return decrease


def clip_norms(probe: Probe) -> Array:
    """Where curves are computed: from a fraction of the median norm up to the largest norm, where
    nothing is clipped."""
    norms = probe.norms[probe.norms > 0.0]
    return np.geomspace(
        float(np.median(norms)) / MEDIAN_OVER_LOWEST, float(norms.max()), CURVE_POINTS
    )


def curve(probe: Probe, gram: Array | None = None, at: Array | None = None) -> DescentCurve:
    """The curve of a probe at its first point, or of another Gram matrix; at the given clip norms
    or `clip_norms(probe)`.

    Raises:
        ValueError: the mean clipped gradient points along the mean gradient at no clip norm.
    """
    gram = probe.gram if gram is None else gram
    at = clip_norms(probe) if at is None else at
    m, norms = len(gram), np.sqrt(np.maximum(np.diagonal(gram), TINY_DIVISOR))
    pairs = gram - np.diag(np.diagonal(gram))
    factors = np.minimum(1.0, at[:, None] / norms)  # [clip norms, m]
    along = factors @ pairs  # (m - 1) <g_k, m>, by the other records
    same = np.square(factors) @ np.square(pairs)  # (m - 1) E <g_k, clipped>^2
    scale = (probe.curvature or probe.fisher) / probe.fisher
    square = (along * factors).mean(1) / (m - 1.0)
    bend_square = scale * (np.square(along) - same).mean(1) / ((m - 1.0) * (m - 2.0))
    result = DescentCurve(
        clip_norms=at,
        signal=along.mean(1) / (m - 1.0),
        square=np.maximum(square, 0.0),
        spread=np.square(factors * norms).mean(1) - square,
        bend_square=np.maximum(bend_square, 0.0),
        bend_spread=np.maximum(scale * same.mean(1) / (m - 1.0) - bend_square, 0.0),
        trace=scale * float(np.diagonal(gram).mean()),
        beta=probe.beta,
        dimension=probe.dimension,
        steepest=probe.beta * factors.mean(1),
    )
    if not float(result.signal.max()) > 0.0:
        raise ValueError(
            "the gradients of the probe have no common direction: probe more records, or another point."
        )
    return result


def curves(probe: Probe) -> list[DescentCurve]:
    """The curves at the points of a probe, at the same clip norms; a second point without a common
    direction is left out."""
    first = curve(probe)
    try:
        return (
            [first] if probe.later is None else [first, curve(probe, probe.later, first.clip_norms)]
        )
    except ValueError:
        return [first]


class Choice(NamedTuple):
    """A clip norm, and the interval within which the descent is at least 95 % of the best."""

    clip_norm: float
    low: float
    high: float


def choose(curves: list[DescentCurve], batch_size: float, energy: float | Array) -> Choice:
    """The clip norm whose descent, as a share of the best at the same point, is largest at the
    worst point: the middle (in logarithms) of the interval around it where that share is at least
    95 % of its maximum."""
    decreases = (curve.descent(batch_size, energy) for curve in curves)
    shares = [decrease / decrease.max() for decrease in decreases]
    worst = np.min(shares, axis=0)
    best, good = int(worst.argmax()), worst >= GOOD_SHARE * worst.max()
    low = best - int(np.argmin(np.append(good[best::-1], False))) + 1
    high = best + int(np.argmin(np.append(good[best:], False))) - 1
    at = curves[0].clip_norms
    return Choice(sqrt(at[low] * at[high]), float(at[low]), float(at[high]))


class Forecast(NamedTuple):
    """What a run with constant settings should do: `learning_rate`, and `remaining`, a bound on the
    mean of <grad F, m> over its steps as a share of the first one. `first` is the decrease of the
    loss in the first step."""

    learning_rate: float
    remaining: float
    first: float


def forecast(
    curve: DescentCurve,
    *,
    batch_size: float,
    energy: float,
    steps: int,
    loss: float,
    learning_rate: float | None = None,
    index: int = 0,
) -> Forecast:
    """The forecast at clip norm number `index` of the curve; `loss` is R_F.

    Where noise is Q = tr(H Cov)/B + tr(H)(c/B)^2 e and the step is short enough for the gradient
    itself not to overshoot (eta <= <grad F, m> / m'Hm), summing the one-step changes gives mean
    <grad F, m> <= 2 R_F / (eta T) + eta Q, smallest at eta = sqrt(2 R_F / (T Q)). The learning rate
    is that, or `DescentCurve.longest` if that is smaller.

    Raises:
        ValueError: no learning rate is given, and the mean clipped gradient does not point along
            the mean gradient.

    Source: Ghadimi and Lan (2013), arXiv 1309.5549, Theorem 2.1, with curvature-weighted noise
    instead of beta.
    """
    noise = float(curve.noise(batch_size, energy)[index])
    signal, bend = float(curve.signal[index]), float(curve.bend_square[index])
    if learning_rate is None and not signal > 0.0:
        at = float(curve.clip_norms[index])
        raise ValueError(
            f"at `clip_norm` {at:.6g} the clipped gradients of the probe have no common direction."
        )
    eta = learning_rate or min(float(curve.longest()[index]), sqrt(2.0 * loss / (steps * noise)))
    first = eta * signal - eta**2 * (bend + noise) / 2.0
    left = (2.0 * loss / (eta * steps) + eta * noise) / signal if signal > 0.0 else inf
    return Forecast(eta, left, first)
