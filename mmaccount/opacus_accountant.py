"""Our two-sided bounds for users of Opacus: after `import mmaccount.opacus_accountant`,
`PrivacyEngine(accountant="mmaccount")`.

What holds and what does not is as for plain DP-SGD here; in particular the data loader has to
sample by Poisson (`poisson_sampling=True`, the default of `make_private`). Needs the package
opacus.
"""

from opacus.accountants import IAccountant, register_accountant

from mmaccount.accounting import accountant
from mmaccount.records.bound import Bound
from mmaccount.records.settings import Settings

NAME = "mmaccount"


class TwoSidedAccountant(IAccountant):  # type: ignore[misc]
    """An accountant of Opacus whose epsilon is certified, with the epsilon that an attack reaches
    beside it (`bound`)."""

    def __init__(self) -> None:
        self.history: list[
            tuple[float, float, int]
        ] = []  # (noise multiplier, sample rate, steps), as Opacus keeps it

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Count one step."""
        same = bool(self.history) and self.history[-1][:2] == (noise_multiplier, sample_rate)
        self.history.append(
            (noise_multiplier, sample_rate, 1 + (self.history.pop()[2] if same else 0))
        )

    def bound(self, delta: float) -> Bound:
        """Both bounds on what was run so far; without a step epsilon is 0. No noise: +inf."""
        if not self.history:
            return Bound(upper=0.0, lower=0.0, method="nothing released")
        if any(noise <= 0.0 for noise, _, _ in self.history):
            return Bound(upper=float("inf"), method="no noise", reason="a step had no noise")
        phases = [
            Settings(noise_multiplier=z, sample_rate=q, steps=steps) for z, q, steps in self.history
        ]
        return accountant.epsilon(phases, delta=delta)

    def get_epsilon(self, delta: float, *_: object, **__: object) -> float:
        """The upper end of `bound`."""
        return self.bound(delta).upper

    def __len__(self) -> int:
        return sum(steps for _, _, steps in self.history)

    @classmethod
    def mechanism(cls) -> str:
        """The name under which Opacus knows it."""
        return NAME


register_accountant(NAME, TwoSidedAccountant, force=True)
