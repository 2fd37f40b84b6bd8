"""The privacy loss of the steps of one plain Gaussian phase, as Fourier inversion needs it.

`steps_of` is the one place where it is made: GaussianSteps without subsampling; with it OneRecord,
or SeveralRecords where neighbours differ in more. Kernels give a step's loss as nodes and weights
of a trapezoid rule in the outcome x (kernels/loss.py, kernels/mixture.py).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import erfc, exp, sqrt

import numpy as np

from mmaccount.accounting import neighbours
from mmaccount.kernels import loss, mixture
from mmaccount.records.settings import Settings

MANY_STEPS = 10**8  # steps of a phase, from which on each is integrated more accurately
ARITHMETIC_ERROR = 1e-15  # relative, of a sum of exponents or of an angle
# The search for the outcome that others are left out beyond, in std.
FIRST_CUT = 2.0
CUT_STEP = 0.25
FARTHEST_CUT = 60.0  # std beyond the last mean
STD_WITH_EDGE = (1.0 + loss.SHARPNESS**-2) ** 0.5  # std of an outcome and of the edge together


class OnLine:
    """A moment generating function at frequencies on a line, steps multiplied up.

    log of its size, log of size plus error, and phase.
    """

    def __init__(self, count: int) -> None:
        self.log_size, self.log_high, self.phase = np.zeros(count), np.zeros(count), np.zeros(count)


@dataclass(frozen=True, slots=True)
class GaussianSteps:
    """Steps without subsampling: together N(mu, 1) against N(0, 1)."""

    mu_squared: float
    weight_lost = 0.0

    def log_moment(self, t: float, order: float) -> float:
        """log of E_P[e^{t loss}] of all steps; both directions are alike."""
        del order
        return 0.5 * self.mu_squared * t * (1.0 + t)

    def add_on_line(self, t: float, order: float, frequencies: np.ndarray, totals: OnLine) -> None:
        """Add E_P[e^{z loss}] of all steps at z = t + i frequency to the totals."""
        del order
        real, squares = t * (1.0 + t), frequencies**2
        exponent = 0.5 * self.mu_squared * (real - squares)
        totals.log_size += exponent
        totals.log_high += exponent
        totals.log_high += ARITHMETIC_ERROR * 0.5 * self.mu_squared * (real + squares)
        totals.phase += 0.5 * self.mu_squared * np.abs(frequencies) * (1.0 + 2.0 * t)


class SubsampledSteps(ABC):
    """Subsampled steps of one phase, less outcomes beyond a soft edge at `cut`.

    `lost` is the probability that a step's outcome, with the record, is left out. In delta that costs
    at most steps * lost: the outcome is then granted to the adversary.
    """

    def __init__(self, phase: Settings, farthest_mean: float, negligible: float) -> None:
        """Outcomes left out have probability `negligible` at most, in all steps."""
        self.steps = phase.steps
        self.log_accuracy = (
            loss.LOG_ACCURACY if phase.steps < MANY_STEPS else loss.HIGH_LOG_ACCURACY
        )
        self.cut = FIRST_CUT
        most = FARTHEST_CUT + farthest_mean
        while self.beyond(self.cut) > negligible / phase.steps and self.cut < most:
            self.cut += CUT_STEP
        self.lost = self.beyond(self.cut)

    @property
    def weight_lost(self) -> float:
        """What leaving outcomes out may add to delta."""
        return self.steps * self.lost

    @abstractmethod
    def beyond(self, cut: float) -> float:
        """P(x + spread of the edge > cut), x an outcome with the record."""

    @abstractmethod
    def nodes(self, order: float, frequency: float) -> tuple[np.ndarray, np.ndarray]:
        """(log r, log of the weight) at the nodes of a rule good for E[r^k], Re k = order,
        |Im k| <= frequency."""

    @abstractmethod
    def grid(self, order: float, frequency: float) -> tuple[float, float, float]:
        """(first point, step, number of steps) of that rule."""

    @abstractmethod
    def turn(self, order: float) -> float:
        """The step between nodes times the largest slope of log r, as `_uniform_parts` takes it."""

    def size(self, order: float, frequency: float) -> float:
        """The number of nodes."""
        return self.grid(order, frequency)[2]

    def log_moment(self, t: float, order: float) -> float:
        """log of E_P[e^{t loss}] = E[r^order] of all steps, not rounded to a side."""
        del t
        real, _, _ = loss.log_mgf(order, np.zeros(1), *self.nodes(order, 0.0), self.log_accuracy)
        return self.steps * float(real[0])

    def add_on_line(self, t: float, order: float, frequencies: np.ndarray, totals: OnLine) -> None:
        """Add E[r^k] of all steps at k = order + i frequency to the totals."""
        del t
        sizes = np.abs(frequencies)
        nodes = self.nodes(order, float(sizes[-1]))
        real, imag, error = loss.log_mgf(order, frequencies, *nodes, self.log_accuracy)
        error += 2.0 * self.lost * (1.0 + abs(order) + sizes)
        rounding = ARITHMETIC_ERROR * (np.abs(real) + np.abs(imag))
        totals.log_size += self.steps * real
        totals.log_high += self.steps * (np.logaddexp(real, np.log(error)) + rounding)
        totals.phase += self.steps * imag


class OneRecord(SubsampledSteps):
    """Neighbours that differ in one record: (1 - q) N(0, 1) + q N(1/z, 1) against N(0, 1)."""

    def __init__(self, phase: Settings, negligible: float) -> None:
        self.z, self.q = phase.noise_multiplier, phase.sample_rate
        super().__init__(phase, 1.0 / self.z, negligible)

    def beyond(self, cut: float) -> float:
        """P(x + spread of the edge > cut), x an outcome with the record."""
        without = erfc(cut / STD_WITH_EDGE / sqrt(2.0))
        with_record = erfc((cut - 1.0 / self.z) / STD_WITH_EDGE / sqrt(2.0))
        return 0.5 * ((1.0 - self.q) * without + self.q * with_record)

    def nodes(self, order: float, frequency: float) -> tuple[np.ndarray, np.ndarray]:
        """(log r, log of the weight) at the nodes."""
        return loss.subsampled_nodes(self.z, self.q, order, frequency, self.cut, self.log_accuracy)

    def grid(self, order: float, frequency: float) -> tuple[float, float, float]:
        """(first point, step, number of steps) of the rule."""
        return loss.subsampled_grid(self.z, self.q, order, frequency, self.cut, self.log_accuracy)

    def turn(self, order: float) -> float:
        """The step between nodes times the largest slope of log r."""
        return self.grid(order, 0.0)[1] / self.z

    def rough_log_moment(self, order: float) -> float:
        """About log E[r^order] of all steps, in a fraction of the time: to choose t by."""
        return self.steps * loss.rough_log_moment(order, self.z, self.q, self.cut)


class SeveralRecords(SubsampledSteps):
    """Neighbours that differ in several records, or in a replaced one: the pair of neighbours.py."""

    def __init__(self, phase: Settings, negligible: float) -> None:
        self.shift = 1.0 / phase.noise_multiplier
        self.log_a = neighbours.log_weights(phase.group_size, phase.sample_rate)
        self.log_b = self.log_a if phase.neighbours == "replace-one" else np.zeros(1)
        self.means = self.shift * np.arange(self.log_a.size)
        super().__init__(phase, self.means[-1], negligible)

    def beyond(self, cut: float) -> float:
        """P(x + spread of the edge > cut), x an outcome with the records."""
        return 0.5 * sum(
            exp(log_weight) * erfc((cut - mean) / STD_WITH_EDGE / sqrt(2.0))
            for log_weight, mean in zip(self.log_a, self.means, strict=True)
        )

    def nodes(self, order: float, frequency: float) -> tuple[np.ndarray, np.ndarray]:
        """(log r, log of the weight) at the nodes."""
        return mixture.nodes(
            self.shift, self.log_a, self.log_b, order, frequency, self.cut, self.log_accuracy
        )

    def grid(self, order: float, frequency: float) -> tuple[float, float, float]:
        """(first point, step, number of steps) of the rule."""
        return mixture.grid(
            self.shift, self.log_a, self.log_b, order, frequency, self.cut, self.log_accuracy
        )

    def turn(self, order: float) -> float:
        """The step between nodes times the largest slope of log r."""
        return (self.log_a.size - 1) * self.shift * self.grid(order, 0.0)[1]


Steps = GaussianSteps | OneRecord | SeveralRecords


def steps_of(phase: Settings, negligible: float) -> Steps:
    """The steps of a plain Gaussian phase.

    Without outcomes that together have probability `negligible` at most.
    """
    records = neighbours.changes(phase)
    if phase.sample_rate == 1.0:
        mu = records / phase.noise_multiplier
        return GaussianSteps(phase.steps * mu * mu)
    if records > 1:
        return SeveralRecords(phase, negligible)
    return OneRecord(phase, negligible)
