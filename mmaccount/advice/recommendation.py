"""A recommendation, and what it says about every clip norm."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmaccount.advice.descent import Choice, Forecast
from mmaccount.advice.evidence import Evidence
from mmaccount.records import mixing_laws
from mmaccount.records.bound import Bound
from mmaccount.records.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A recommended plan, with the reasons for it and what they rest on.

    Attributes:
        plan: what the trainer carries out.
        bound: its epsilon; `bound.upper` is at most the target.
        reasons: for each knob what it follows from, for people; also "outlook" and cross-checks.
        rejected: what was not done, and why.
        forecast: learning rate, share of the gradient's alignment that remains, decrease of the
            loss in the first step.
        choice: clip norm, and the interval within which it hardly matters.
        evidence: what all of this was derived from, the descent curves among it.
        noise: the noise multiplier that meets the target at each clip norm of the curves (with a
            gap by the quick bounds, interpolated); where the clip norm was given, that of the plan.
    """

    plan: Plan
    bound: Bound
    reasons: dict[str, str]
    rejected: dict[str, str]
    forecast: Forecast
    choice: Choice
    evidence: Evidence
    noise: npt.NDArray[np.float64]

    def energy(self) -> npt.NDArray[np.float64]:
        """z^2 + V rho^2 at each clip norm of the curves, with `noise` and the gap of the plan."""
        phase = self.plan.phases[0]
        rho = phase.gap * self.plan.batch_size / self.evidence.curves[0].clip_norms
        energy: npt.NDArray[np.float64] = np.square(self.noise) + mixing_laws.variance(
            phase.mixing_law
        ) * np.square(rho)
        return energy

    def curve(self) -> list[dict[str, float]]:
        """For each clip norm `noise` and the best decrease of one step times 2, at the start: as
        measured, and R(c) / beta, where curvature is equal in all directions. Ready for JSON."""
        one, batch, energy = self.evidence.curves[0], self.plan.batch_size, self.energy()
        columns = (
            one.clip_norms,
            self.noise,
            one.descent(batch, energy),
            one.isotropic(batch, energy) / one.beta,
        )
        names = ("clip_norm", "noise_multiplier", "descent", "isotropic")
        return [
            dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)
        ]
