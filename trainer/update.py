"""Around the mechanism: momentum, weight decay and averaging, from published iterates only; Adam
without mixing."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmaccount.records import validate
from mmaccount.records.plan import Phase, Plan
from trainer.mechanism import Released

ADAM = (0.9, 0.999, 1e-8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """How a released step becomes the next iterate.

    Momentum is fed with (midpoint_k - w_k) / learning_rate, a function of published iterates
    (without mixing the midpoint is w_{k-1}, and this is heavy-ball momentum). Momentum or Adam on
    the private gradient itself would carry its noise into later steps and undo the mixing, so Adam
    is refused where a phase mixes.

    Args:
        optimizer: "sgd" or "adam".
        momentum: in [0, 1).
        weight_decay: 0 or more, added to the average as weight_decay * w_{k-1}.
        ema: decay of the exponential average of published iterates, in [0, 1); 0 is none.
    """

    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        validate.choice("optimizer", self.optimizer, ("sgd", "adam"))
        validate.real("momentum", self.momentum, "[0, 1)", 0.0, 1.0)
        validate.nonnegative("weight_decay", self.weight_decay)
        validate.real("ema", self.ema, "[0, 1)", 0.0, 1.0)
        if self.optimizer == "adam" and self.momentum:
            raise ValueError("`momentum` belongs to sgd: adam has its own.")

    def allowed(self, plan: Plan) -> None:
        """Refuse Adam where the plan mixes."""
        if self.optimizer == "adam" and any(phase.gap > 0.0 for phase in plan.phases):
            raise ValueError(
                "`optimizer` adam keeps the private noisy gradient and undoes the mixing: "
                "use sgd (its momentum sees published iterates only), or a plan with gap 0."
            )

    def start(self, weights: Tensor) -> dict[str, Tensor]:
        """State at step 0; all of it may be published."""
        names = ["weights", "last", *["velocity"] * (self.momentum > 0), *["ema"] * (self.ema > 0)]
        state = {name: weights.clone() for name in names}
        if self.momentum:
            state["velocity"] = torch.zeros_like(weights, dtype=torch.float64)
        if self.optimizer == "adam":
            state |= {
                name: torch.zeros_like(weights, dtype=torch.float64) for name in ("first", "second")
            }
        return state

    def drift(self, state: dict[str, Tensor]) -> Tensor | float:
        """What is added to the noisy average: a function of published iterates."""
        drift: Tensor | float = (
            self.weight_decay * state["weights"].double() if self.weight_decay else 0.0
        )
        return drift + self.momentum * state["velocity"] if self.momentum else drift

    def after(
        self, state: dict[str, Tensor], phase: Phase, step: int, released: Released
    ) -> dict[str, Tensor]:
        """The state after step number `step`."""
        after = dict(state)
        weights = released.weights
        if self.optimizer == "adam":
            weights = self._adam(after, phase, step, released)
        after["last"] = state["weights"]
        after["weights"] = weights.to(state["weights"].dtype)
        if self.momentum:
            centre = state["weights"].double()
            if phase.gap > 0.0:
                centre = (centre + state["last"].double()) / 2.0
            after["velocity"] = (centre - after["weights"].double()) / phase.learning_rate
        if self.ema:
            decay = min(self.ema, step / (step + 9.0))  # forget the start sooner
            after["ema"] = decay * state["ema"] + (1.0 - decay) * after["weights"]
        return after

    def _adam(
        self, state: dict[str, Tensor], phase: Phase, step: int, released: Released
    ) -> Tensor:
        if released.noisy is None:
            raise ValueError(
                "adam needs the noisy gradient, which mixing keeps inside the mechanism."
            )
        one, two, epsilon = ADAM
        gradient = released.noisy + self.drift(state)
        state["first"] = one * state["first"] + (1.0 - one) * gradient
        state["second"] = two * state["second"] + (1.0 - two) * gradient**2
        mean, square = state["first"] / (1.0 - one**step), state["second"] / (1.0 - two**step)
        return state["weights"].double() - phase.learning_rate * mean / (square.sqrt() + epsilon)
