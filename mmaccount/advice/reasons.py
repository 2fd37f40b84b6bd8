"""Why an advisor recommends what it does, in sentences with the numbers they rest on."""

from collections.abc import Sequence
from math import expm1, inf, log, sqrt
from typing import NamedTuple

from mmaccount.advice.clipping_theory import Problem, alignment, clip_floor, horizon, step_size
from mmaccount.advice.descent import Choice, Forecast
from mmaccount.advice.evidence import Evidence
from mmaccount.advice.schedule import Schedule
from mmaccount.records import mixing_laws
from mmaccount.records.bound import Bound
from mmaccount.records.plan import Plan

# noise multiplier below which epsilon grows faster than noise falls (Sander et al. 2023, arXiv
# 2210.03403)
OVERCHARGED = 2.0


def tan_epsilon(plan: Plan) -> float:
    """Epsilon by TAN's rule; a check, not a bound.

        mu^2 / 2 + mu sqrt(2 log(1/delta)),    mu = q sqrt(T (exp(1/z^2) - 1)).

    Source: Sander, Stock, Sablayrolles (2023), arXiv 2210.03403.
    """
    phase = plan.phases[0]
    if (inverse := phase.priced_noise_multiplier**-2) > log(1e300):
        return inf
    mu = plan.sample_rate * sqrt(phase.steps * expm1(inverse))
    return mu**2 / 2.0 + mu * sqrt(2.0 * log(1.0 / plan.delta))


class Explanation(NamedTuple):
    """All that reasons are made of."""

    plan: Plan
    bound: Bound
    evidence: Evidence
    choice: Choice
    forecast: Forecast
    problem: Problem

    def reasons(
        self, rivals: Sequence[tuple[Schedule, float]], epochs: float, plain_noise: float
    ) -> dict[str, str]:
        """For each knob what it follows from."""
        phase, plan, evidence = self.plan.phases[0], self.plan, self.evidence
        return {
            "clip_norm": self._clip_norm(),
            "noise_multiplier": f"{phase.noise_multiplier:.6g}: the least that meets epsilon "
            f"{plan.target_epsilon:g} at delta {plan.delta:g} ({self.bound.method})" + self._paid(),
            "batch_size": f"{plan.batch_size:g} of {plan.dataset_size}, with "
            + self._shape(rivals, epochs),
            "steps": f"{phase.steps}: {phase.steps * plan.sample_rate:.4g} passes over the data",
            "learning_rate": self._learning_rate(),
            "truncation": f"{phase.truncation:g}: "
            + (
                "leaves 99.9 % of the mean clipped gradient and helps mixing"
                if phase.gap
                else (
                    f"without mixing it saves nothing (up to {evidence.truncation:.3g} it would cost "
                    "0.1 % of the gradient)"
                )
            ),
            "gap": self._gap(plain_noise),
            **self._adaptive(),
            "outlook": self._outlook(),
            "cross-checks": self._checks(),
        }

    def rejected(
        self,
        rivals: Sequence[tuple[Schedule, float]],
        energies: dict[float, float],
        plain_noise: float,
        auto: bool,
    ) -> dict[str, str]:
        """What was not done, and why."""
        phase, plan, plain = self.plan.phases[0], self.plan, energies[0.0]
        alternatives = {"theory's clip norm": self._floor(), "equal curvature": self._isotropic()}
        others = [
            (shape, cost)
            for shape, cost in rivals
            if (shape.batch_size, shape.steps) != (plan.batch_size, phase.steps)
        ]
        if others:
            alternatives["other schedules"] = "; ".join(
                f"batch {shape.batch_size:g} x {shape.steps} steps, noise "
                f"{shape.noise_multiplier:.3g}: {cost:.3g}"
                for shape, cost in others
            )
        if auto:
            dearest = max(energies)
            alternatives["mixing"] = (
                f"gap 0 costs least: mixing of width {dearest / plain_noise:g} noise multipliers "
                "would take at least "
                f"{energies[dearest] / plain:.3g} times the noise energy at the same epsilon, and "
                "no width takes less than "
                f"{min(e for rho, e in energies.items() if rho) / plain:.6f} times (Cramer-Rao)"
            )
        steps, rate = horizon(self.problem), step_size(self.problem, phase.clip_norm)
        alternatives["Theorem B.1"] = (
            f"its T = {steps:.4g}, eta = {rate:.4g}: they take curvature beta = "
            f"{self.problem.beta:.3g} in all "
            f"{self.problem.dimension} directions, where it adds up to "
            f"{self.evidence.curves[0].trace:.3g}"
        )
        return alternatives

    def _paid(self) -> str:
        return "".join(f", after paying for: {release.what}" for release in self.plan.releases)

    def _clip_norm(self) -> str:
        c, evidence = self.plan.phases[0].clip_norm, self.evidence
        points = (
            "at the start and where the loss has halved"
            if len(evidence.curves) > 1
            else "at the start"
        )
        if self.choice.low == self.choice.high == self.choice.clip_norm:
            flat = "as given"
        else:
            ends = f"from {self.choice.low:.3g} to {self.choice.high:.3g}"
            flat = f"the decrease of a step, {points}, is within 5 % of its best {ends}"
        turned = (
            ""
            if evidence.cosine is None
            else f"; clipped, their mean has cosine {evidence.cosine(c):.4f} with the mean"
        )
        longer = f"{evidence.clipped(c):.0%} of gradients are longer (median {evidence.median:.3g})"
        return f"{c:.4g}: {flat}; {longer}{turned}"

    def _floor(self) -> str:
        c, kappa, upper = (
            self.plan.phases[0].clip_norm,
            self.evidence.kappa,
            self.evidence.kappa_upper,
        )
        floor = clip_floor(self.problem, kappa)
        safe = clip_floor(self.problem, upper) if upper < inf else inf
        return (
            f"{floor:.4g} (up to {safe:.4g} with 95 % confidence; kappa {kappa:.3g} to "
            f"{upper:.3g}): from there up the "
            f"proof bounds the bias of clipping, by {alignment(floor, kappa).offset:.3g}, below the "
            "noise floor, whatever "
            f"the gradient; the measured decrease, bias included, is larger at {c:.4g} (noise / "
            f"{floor / c:.3g})"
        )

    def _isotropic(self) -> str:
        curve, batch = self.evidence.curves[0], self.plan.batch_size
        ratio = curve.isotropic(batch, self._energy())
        i = int(ratio.argmax())
        rate = float(ratio[i] / (curve.signal[i] * curve.beta))
        return (
            f"if curvature were {curve.beta:.3g} in all directions, as in the proof, one step would "
            "gain most at clip norm "
            f"{curve.clip_norms[i]:.3g} and learning rate {rate:.3g}"
        )

    def _shape(self, rivals: Sequence[tuple[Schedule, float]], epochs: float) -> str:
        if len(rivals) == 1:
            return "the steps that were given or that the limit allows"
        best = min(cost for _, cost in rivals)
        good = [shape for shape, cost in rivals if cost <= best / 0.95]
        what = (
            "noise of the mean gradient"
            if self.plan.releases
            else "share of the gradient that remains"
        )
        return (
            f"{self.plan.phases[0].steps} steps: of {len(rivals)} schedules within {epochs:g} "
            f"passes the {what} is within "
            f"5 % of the smallest, {best:.3g}, from {good[0].steps} to {good[-1].steps} steps; this "
            "is the middle"
        )

    def _learning_rate(self) -> str:
        phase, evidence = self.plan.phases[0], self.evidence
        longest = float(evidence.at(phase.clip_norm).longest()[0])
        source = (
            "measured"
            if evidence.measured
            else "estimated from gradients alone, for a loss in nats (see --loss)"
        )
        return (
            f"{phase.learning_rate:.4g}: the smaller of the longest step that does not overshoot, "
            f"{longest:.3g}, and "
            f"sqrt(2 R_F / (T noise)), times 3/2 with mixing, unless given; R_F = {evidence.loss:.3g}, "
            "curvature "
            f"{evidence.curves[0].trace:.3g}, {source}"
        )

    def _energy(self) -> float:
        phase = self.plan.phases[0]
        return mixing_laws.energy(
            phase.noise_multiplier, self.plan.settings()[-1].mixing, phase.mixing_law
        )

    def _gap(self, plain_noise: float) -> str:
        gap = self.plan.phases[0].gap
        if not gap:
            return "0: plain DP-SGD needs less noise energy for the same epsilon"
        equal = sqrt(self._energy())
        law = self.plan.phases[0].mixing_law
        return (
            f"{gap:g}, as given ({law} law): noise and mixing are as strong as plain noise "
            f"{equal:.4g}, where plain DP-SGD "
            f"needs {plain_noise:.4g} for the same epsilon: {equal**2 / plain_noise**2:.3g} times "
            "the energy"
        )

    def _adaptive(self) -> dict[str, str]:
        phase = self.plan.phases[0]
        if phase.adaptive is None:
            return {}
        kept, noise, joint = (
            phase.adaptive.quantile,
            phase.adaptive.noise,
            phase.priced_noise_multiplier,
        )
        return {
            "adaptive": f"the clip norm starts there and follows the {kept:.3g} quantile of "
            f"gradient norms; with the count, noise {phase.noise_multiplier:.4g} costs what "
            f"{joint:.4g} would (noise on the count {noise:.4g} records)"
        }

    def _outlook(self) -> str:
        if not self.evidence.measured and self.plan.releases:
            return "norms alone do not tell how far training will get"
        share, phase = self.forecast.remaining, self.plan.phases[0]
        curve = self.evidence.at(phase.clip_norm)
        noise = sqrt(curve.dimension * self._energy()) * phase.clip_norm / self.plan.batch_size
        mean = sqrt(max(float(curve.square[0]), 1e-300))
        text = (
            f"first step changes the loss of {self.evidence.loss:.3g} by about "
            f"{-self.forecast.first:.3g}; on average over the "
            f"run at most {min(share, 1.0):.0%} of the gradient's alignment remains; noise is "
            f"{noise / mean:.3g} times the "
            f"mean gradient in a step, {noise / mean / sqrt(phase.steps):.3g} times over the run"
        )
        return text + (
            "; the budget is too small for progress that can be foreseen" if share >= 1.0 else ""
        )

    def _checks(self) -> str:
        phase, plan = self.plan.phases[0], self.plan
        z = phase.noise_multiplier
        tan = f"TAN's rule gives epsilon {tan_epsilon(plan):.3g}" + (
            " for the noise alone" if phase.gap else ""
        )
        regime = "below 2, where privacy is overcharged" if z < OVERCHARGED else "at least 2"
        return (
            f"{tan} (certified {self.bound.upper:.4g}); noise multiplier {regime} (Sander et al. "
            "2023); total step eta c T "
            f"= {phase.learning_rate * phase.clip_norm * phase.steps:.4g}, to grow about like "
            "epsilon (Panda et al. 2022)"
        )
