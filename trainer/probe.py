"""Gradients before training, for `mmaccount advise`: of public records in full, of private ones as
a noisy histogram.

By default the held-out records are probed: they are nobody's training records, and the plan notes
that they are public. Their accuracy in a report is then not that of records never looked at:
gradients of the first two points have been.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmaccount.advice.histogram import EDGES, NormHistogram, true_counts
from mmaccount.advice.probe import Probe, gram_matrix, kept_by_truncation
from mmaccount.records import validate
from trainer import checks, models
from trainer.data import Dataset
from trainer.gradients.per_record import Loss, Oracle, best
from trainer.mechanism import Randomness, noisy_counts

COORDINATES_AT_ONCE = 2**26  # gradient coordinates held at a time
TRACE_DIRECTIONS = 8  # random directions for the trace of the Hessian
POWER_ITERATIONS = 10  # of power iteration for its largest eigenvalue
DIFFERENCE_STEP = 1e-2  # that gradient differences are taken over, relative to the weights
# The second point is where the loss has fallen to this share, or so many steps of gradient descent
# on.
LOSS_SHARE, MOST_DESCENT_STEPS = 0.5, 50


class Landscape:
    """Mean loss and gradient of some records as functions of flat weights, float64."""

    def __init__(self, model: nn.Module, loss: Loss, x: Tensor, y: Tensor, chunk: int) -> None:
        self.per_record = best(model, loss)
        self.model, self.loss, self.x, self.y, self.chunk = model, loss, x, y, chunk
        self.layout = self.per_record.layout

    def __call__(self, weights: Tensor) -> tuple[float, Tensor]:
        """(loss, gradient), means over the records."""
        self.layout.load(self.model, weights)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        total, gradient = 0.0, torch.zeros_like(weights, dtype=torch.float64)
        for x, y in zip(self.x.split(self.chunk), self.y.split(self.chunk), strict=True):
            value = self.loss(self.model(x), y).sum()
            gradients = torch.autograd.grad(value, parameters)
            gradient += torch.cat([one.flatten() for one in gradients]).double()
            total += float(value.detach())
        return total / len(self.x), gradient / len(self.x)

    def curved(self, weights: Tensor, direction: Tensor) -> Tensor:
        """Hessian times a unit direction, by a central difference of gradients."""
        far = DIFFERENCE_STEP * max(1.0, float(weights.norm()))
        ahead, behind = (
            self(weights + sign * far * direction.to(weights.dtype))[1] for sign in (1.0, -1.0)
        )
        return (ahead - behind) / (2.0 * far)

    def chunks(self, weights: Tensor) -> list[Callable[[], np.ndarray]]:
        """Per-record gradients, [rows, d] each, made when called."""

        def rows(x: Tensor, y: Tensor) -> np.ndarray:
            return (
                torch.cat([one.flatten(1) for one in self.per_record(weights, x, y)[0]], dim=1)
                .detach()
                .cpu()
                .numpy()
            )

        parts = zip(self.x.split(self.chunk), self.y.split(self.chunk), strict=True)
        return [lambda x=x, y=y: rows(x, y) for x, y in parts]


def _curvature(landscape: Landscape, weights: Tensor) -> tuple[float, float]:
    """(largest eigenvalue, trace) of the Hessian, estimated: power iteration from the gradient, and
    Hutchinson's method."""
    generator = torch.Generator().manual_seed(0)
    size = weights.numel()
    signs = [
        (torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1.0).to(weights.device)
        for _ in range(TRACE_DIRECTIONS)
    ]
    traces = [
        float(sign.double() @ landscape.curved(weights, sign / size**0.5)) * size**0.5
        for sign in signs
    ]
    direction, largest = landscape(weights)[1], 0.0
    for _ in range(POWER_ITERATIONS):
        direction = direction / direction.norm().clamp_min(1e-300)
        direction = landscape.curved(weights, direction)
        largest = max(largest, float(direction.norm()))
    return largest, sum(traces) / TRACE_DIRECTIONS


def _later(landscape: Landscape, weights: Tensor, smoothness: float) -> Tensor:
    """A point further on: gradient descent until the loss has halved."""
    first, gradient = landscape(weights)
    loss = first
    for _ in range(MOST_DESCENT_STEPS):
        weights = weights - (gradient / smoothness).to(weights.dtype)
        loss, gradient = landscape(weights)
        if not loss > LOSS_SHARE * first:
            break
    return weights


def _chunk(model: nn.Module) -> int:
    return max(1, COORDINATES_AT_ONCE // sum(parameter.numel() for parameter in model.parameters()))


def public(
    data: Dataset,
    loss: Loss,
    *,
    model: str,
    rows: int,
    device: str = "cpu",
    seed: int | None = None,
) -> Probe:
    """Probe the first `rows` held-out records, at the initial weights and where their loss has
    halved."""
    checks.device(device)
    module = models.build(model, tuple(data.x.shape[1:]), data.classes, seed).to(device)
    checks.module(module)
    if rows < 1:
        raise ValueError(f"`rows` must be at least 1, got {rows}.")
    x, y = data.prepare(data.held_out_x[:rows].to(device)), data.held_out_y[:rows].to(device)
    if not len(x):
        raise ValueError(
            "the data have no held-out records to probe; a probe of private ones needs --private."
        )
    landscape = Landscape(module, loss, x, y, _chunk(module))
    start = landscape.layout.flat(module)
    value, _ = landscape(start)
    if not math.isfinite(value):
        raise ValueError("the loss is not finite at the initial weights.")
    smoothness, trace = _curvature(landscape, start)
    further = _later(landscape, start, smoothness) if smoothness > 0.0 else start
    chunks = landscape.chunks(start)
    return Probe(
        gram=gram_matrix(chunks),
        dimension=landscape.layout.total,
        kept=kept_by_truncation(chunk() for chunk in chunks),
        loss=value if value > 0.0 else None,
        curvature=trace if trace > 0.0 else None,
        smoothness=smoothness if smoothness > 0.0 else None,
        later=gram_matrix(landscape.chunks(further)),
        about=f"{len(x)} held-out records of {data.name}, model {model}",
    )


def private(
    data: Dataset,
    loss: Loss,
    *,
    model: str,
    noise_multiplier: float,
    device: str = "cpu",
    seed: int | None = None,
) -> NormHistogram:
    """Gradient norms of all training records as a noisy histogram: a release, which a plan made
    from it pays for.

    Every call is another release; a plan made from one pays for that one alone. `seed` is of the
    model's start, never of the noise.
    """
    checks.device(device)
    validate.positive("noise_multiplier", noise_multiplier)
    module = models.build(model, tuple(data.x.shape[1:]), data.classes, seed).to(device)
    checks.module(module)
    oracle = Oracle(module, loss)  # isolates records by construction
    weights, norms = oracle.layout.flat(module), []
    for x, y in zip(data.x.split(_chunk(module)), data.y.split(_chunk(module)), strict=True):
        gradients, _ = oracle(weights, data.prepare(x.to(device)), y.to(device))
        norms.append(
            torch.stack([one.flatten(1).double().norm(dim=1) for one in gradients])
            .norm(dim=0)
            .cpu()
        )
    counts = true_counts(torch.cat(norms).numpy())
    return NormHistogram(
        counts=noisy_counts(counts, noise_multiplier, Randomness()),
        noise_multiplier=noise_multiplier,
        dataset_size=len(data.x),
        dimension=oracle.layout.total,
        loss=math.log(data.classes),
        about=f"noisy histogram of gradient norms, {len(EDGES) - 1} bins, model {model}",
    )


def write(
    data: Dataset,
    loss: Loss,
    path: Path,
    *,
    private_noise: float | None,
    rows: int,
    **options: object,
) -> str:
    """Probe, write the file, and return a line that says what was done."""
    if private_noise is None:
        probed: Probe | NormHistogram = public(data, loss, rows=rows, **options)
        said = "public: assumed, and noted in plans"
    else:
        probed = private(data, loss, noise_multiplier=private_noise, **options)
        said = f"private: one release with noise multiplier {private_noise:g}, charged in plans"
    probed.save(path)
    return f"{path}: {probed.about}, {probed.dimension} weights ({said})"
