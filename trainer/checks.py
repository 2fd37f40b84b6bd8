"""What is refused before training starts.

Nothing here looks at the user's records: inputs are random.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mmaccount.records.plan import Plan
from trainer.gradients.per_record import Fast, Loss, Oracle, best
from trainer.mechanism import SMALLEST_CLIP_NORM

BATCH_LAYERS = (nn.modules.batchnorm._BatchNorm,)
RANDOM_LAYERS = (nn.modules.dropout._DropoutNd,)
GRADIENT_TOLERANCE = 1e-4  # relative to the largest gradient coordinate; float32
PLACE_TOLERANCE = 0.05  # likewise, of bfloat16 too
EXAMPLE_ROWS = 8
AGREEMENT_TRIES = 3
RANDOMNESS = "`module` gives different gradients for the same input twice: remove its randomness."
COUPLED = (
    "one record's gradient depends on the other records of the batch: "
    "clipping cannot bound its influence. "
    "Look for statistics over the batch dimension in the model or the loss."
)
Example = Callable[
    [int], tuple[Tensor, Tensor]
]  # rows -> random inputs and targets as the model gets them


def device(name: str) -> None:
    """Refuse a device that is not there."""
    try:
        torch.zeros(1, device=name)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"`device` {name} cannot be used here: {str(error).splitlines()[0]}"
        ) from error


def module(model: nn.Module) -> None:
    """Refuse parameters that are not float32, and layers that couple the records of a batch or
    write what they saw into buffers, by type."""
    for name, parameter in model.named_parameters():
        if parameter.dtype is not torch.float32:
            raise ValueError(
                f"`module` must have float32 parameters, `{name}` is {parameter.dtype}: "
                "call module.float()."
            )
    for name, layer in model.named_modules():
        if isinstance(layer, BATCH_LAYERS) and not isinstance(
            layer, nn.modules.instancenorm._InstanceNorm
        ):
            raise ValueError(
                f"layer `{name}` ({type(layer).__name__}) mixes the records of a batch: use "
                f"nn.GroupNorm(num_groups, {layer.num_features}) instead."
            )
        if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            raise ValueError(
                f"layer `{name}` keeps running statistics of the records: "
                "set track_running_stats=False."
            )
        if isinstance(layer, RANDOM_LAYERS) and layer.p > 0:
            raise ValueError(
                f"layer `{name}` ({type(layer).__name__}) draws its own randomness, "
                "which is not supported: remove it."
            )


def _gradient_of_first(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    losses = loss(model(x), y)
    if losses.shape != (len(x),):
        raise ValueError(
            f"`criterion` must return one loss per record, shape ({len(x)},), "
            f"got {tuple(losses.shape)}."
        )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(
        losses[0], parameters, allow_unused=True, materialize_grads=True
    )
    return torch.cat([gradient.flatten() for gradient in gradients])


def perturbed(model: nn.Module) -> nn.Module:
    """A copy with random weights near those given."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return moved


def rowwise(prepare: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse a `prepare` that makes something else of record 0 when the other records change, or
    are not there."""
    reference, changed = prepare(x.clone()), (x / 4).to(x.dtype)
    changed[0] = x[0]
    if len(reference) != len(x):
        raise ValueError(
            f"`prepare` must return one row per record, {len(x)}, got {len(reference)}."
        )
    for other in (changed, x[:1]):
        moved = (prepare(other.clone())[0].double() - reference[0].double()).abs().max()
        if not float(moved) <= GRADIENT_TOLERANCE * float(reference[0].abs().max()):
            raise ValueError(
                "`prepare` makes of a record what depends on others, or on chance: "
                "it may use constants only."
            )


def isolated(model: nn.Module, loss: Loss, example: Example) -> None:
    """Refuse a model or loss in which one record's gradient depends on the other records, and one
    that writes to buffers.

    The gradient of record 0 is compared in four batches: as drawn, the same again, with all other
    records replaced, and alone. The weights are moved at random first, since a layer that starts at
    zero would hide what lies before it.
    """
    model = perturbed(model)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    (x, y), (other_x, other_y) = example(EXAMPLE_ROWS), example(EXAMPLE_ROWS)
    other_x[0], other_y[0] = x[0], y[0]
    reference = _gradient_of_first(model, loss, x, y)
    for reason, (changed_x, changed_y) in (
        (RANDOMNESS, (x, y)),
        (COUPLED, (other_x, other_y)),
        (COUPLED, (x[:1], y[:1])),
    ):
        moved = (_gradient_of_first(model, loss, changed_x, changed_y) - reference).abs().max()
        if not float(moved) <= GRADIENT_TOLERANCE * float(reference.abs().max()):
            raise ValueError(reason)
    for name, buffer in model.named_buffers():
        if not torch.equal(buffer, before[name]):
            raise ValueError(
                f"the forward pass writes to buffer `{name}`: it would be released without noise."
            )


def per_record(
    model: nn.Module, loss: Loss, example: Example, precision: str = "float32"
) -> Fast | Oracle:
    """The fastest per-record gradients that agree with vmap(grad) on random records.

    Several sets of records are tried: where the input of a rectifier rounds to the other side of
    zero, right gradients differ too (Resnet-20: in one set of 20). They are compared in float32 and
    returned in the given precision.
    """
    oracle, fastest = Oracle(model, loss), best(model, loss)
    agree = any(_agree(oracle, fastest, model, example) for _ in range(AGREEMENT_TRIES))
    chosen = fastest if agree else oracle
    return type(chosen)(model, loss, precision)


def _agree(oracle: Oracle, fastest: Fast | Oracle, model: nn.Module, example: Example) -> bool:
    x, y = example(EXAMPLE_ROWS)
    weights = oracle.layout.flat(perturbed(model))
    expected, gradients = oracle(weights, x, y)[0], fastest(weights, x, y)[0]
    return all(_near(one, other) for one, other in zip(expected, gradients, strict=True))


def _near(expected: Tensor, gradient: Tensor) -> bool:
    if expected.shape != gradient.shape:
        return False
    most = GRADIENT_TOLERANCE * max(float(expected.abs().max()), 1e-3)
    return float((expected - gradient).abs().max()) <= most


def _largest(parts: Iterable[Tensor]) -> float:
    return float(torch.stack([part.abs().max() for part in parts]).max())


def same_anywhere(gradients: Fast | Oracle, weights: Tensor, example: Example, rows: int) -> bool:
    """Whether gradients of random records have the same bits in another place of their chunk.

    A chunk of `rows` records is compared with the same in reverse order, and record 0 also beside
    other records; a gradient that moves there by more than rounding is refused.
    """
    (x, y), (other_x, other_y) = example(rows), example(rows)
    other_x[0], other_y[0] = x[0], y[0]
    beside = [one[0].clone() for one in gradients(weights, other_x, other_y)[0]]
    forwards, backwards = gradients(weights, x, y)[0], gradients(weights, x.flip(0), y.flip(0))[0]
    moved = [one[0] - other for one, other in zip(forwards, beside, strict=True)]
    if not _largest(moved) <= PLACE_TOLERANCE * _largest(beside):
        raise ValueError(COUPLED)
    turned = all(
        torch.equal(one, other.flip(0)) for one, other in zip(forwards, backwards, strict=True)
    )
    return turned and _largest(moved) == 0.0


def data(plan: Plan, x: Tensor, y: Tensor, classes: int | None) -> None:
    """Refuse data that are not what the plan was made for, and what would stop a step half-way."""
    if not min(phase.clip_norm for phase in plan.phases) >= SMALLEST_CLIP_NORM:
        raise ValueError(f"`clip_norm` of the plan must be at least {SMALLEST_CLIP_NORM:g}.")
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise ValueError(
            f"`data` must be a pair of tensors, got {type(x).__name__} and {type(y).__name__}."
        )
    if len(x) != plan.dataset_size or len(y) != len(x):
        raise ValueError(
            f"the plan is for {plan.dataset_size} records, "
            f"the data have {len(x)} and {len(y)} labels."
        )
    if classes is not None and len(y) and not (int(y.min()) >= 0 and int(y.max()) < classes):
        raise ValueError(f"labels must be in 0 ... {classes - 1}.")
