"""Per-record gradients.

`Oracle` works for every model that isolates its records; `Fast` does the common layers quicker.

Both are made of a model and a loss that maps (outputs, targets) to one loss per record, and are
called with flat weights and a batch: they return one float32 tensor [records, *parameter shape] per
trainable parameter, ordered as `named_parameters()`, and the records' losses. Forward and backward
pass have the given precision.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from math import ceil, sqrt

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from trainer.gradients.convolutions import DEFAULT_KERNEL, KERNELS, Kernel, fastest
from trainer.gradients.geometry import Geometry
from trainer.gradients.precision import DTYPE, arithmetic, cast
from trainer.mechanism import ONE, Processes

Loss = Callable[[Tensor, Tensor], Tensor]


class Layout:
    """Where each trainable parameter lies in the flat vector of weights.

    Tied parameters appear once.
    """

    def __init__(self, model: nn.Module) -> None:
        named = [
            (name, parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        ]
        if not named:
            raise ValueError("`model` has no trainable parameter.")
        self.names = [name for name, _ in named]
        self.shapes = [parameter.shape for _, parameter in named]
        self.sizes = [parameter.numel() for _, parameter in named]
        self.total = sum(self.sizes)

    def flat(self, model: nn.Module) -> Tensor:
        """The trainable parameters of a model as one vector, a copy."""
        parameters = dict(model.named_parameters())
        return torch.cat([parameters[name].detach().reshape(-1) for name in self.names])

    def named(self, weights: Tensor) -> dict[str, Tensor]:
        """The vector as parameters, views."""
        return {
            name: part.view(shape)
            for name, part, shape in zip(
                self.names, weights.split(self.sizes), self.shapes, strict=True
            )
        }

    def load(self, model: nn.Module, weights: Tensor) -> None:
        """Put the vector into a model."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self.named(weights).items():
                parameters[name].copy_(value)


class Oracle:
    """torch.func's vmap(grad): each record alone, by construction."""

    def __init__(self, model: nn.Module, loss: Loss, precision: str = "float32") -> None:
        self.loss, self.layout, self.precision = loss, Layout(model), precision
        self.model = copy.deepcopy(model).to(DTYPE[precision])
        self._gradients = vmap(grad_and_value(self._one), in_dims=(None, 0, 0))

    def _one(self, parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.loss(functional_call(self.model, parameters, (x[None],)).float(), y[None])[0]

    def tune(self, x: Tensor, y: Tensor, processes: Processes = ONE) -> dict[Geometry, str]:
        """There is nothing to choose."""
        return {}

    def __call__(self, weights: Tensor, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients and losses of every record of a non-empty batch."""
        with arithmetic(self.precision):
            named = self.layout.named(weights.to(DTYPE[self.precision]))
            gradients, losses = self._gradients(named, cast(x, self.precision), y)
        return [gradient.float() for gradient in gradients.values()], losses


# ----------------------------------------------------- layers that leave their gradients per record


class _Conv(torch.autograd.Function):
    """A convolution whose backward pass skips the summed weight gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, hook: Tensor, layer: nn.Conv2d, keep: "_Keep") -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.layer, ctx.keep = layer, keep
        return nn.functional.conv2d(
            x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation
        )

    @staticmethod
    def backward(ctx, out: Tensor) -> tuple[Tensor | None, None, None, None]:  # noqa: ANN001
        (x,), layer = ctx.saved_tensors, ctx.layer
        shape = Geometry.of(x, layer)
        ctx.keep.add(layer.weight, ctx.keep.kernel(shape)(x, out, shape))
        if layer.bias is not None:
            ctx.keep.add(layer.bias, out.sum((2, 3)))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        geometry = (layer.stride, layer.padding, layer.dilation)
        of_input, _, _ = torch.ops.aten.convolution_backward(
            out, x, layer.weight, None, *geometry, False, [0, 0], 1, [True, False, False]
        )
        return of_input, None, None, None


class _Norm(torch.autograd.Function):
    """GroupNorm.

    Backwards all records are taken for the channels of one, so that sums over records are those of
    each.
    """

    @staticmethod
    def forward(ctx, x: Tensor, hook: Tensor, layer: nn.GroupNorm, keep: "_Keep") -> Tensor:  # noqa: ANN001
        sizes = (len(x), x.shape[1], x[0, 0].numel(), layer.num_groups)
        outputs, mean, rstd = torch.ops.aten.native_group_norm(
            x.contiguous(), layer.weight, layer.bias, *sizes, layer.eps
        )
        ctx.save_for_backward(x, mean, rstd)
        ctx.layer, ctx.keep, ctx.sizes = layer, keep, sizes
        return outputs

    @staticmethod
    def backward(ctx, out: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN001
        x, mean, rstd = ctx.saved_tensors
        layer = ctx.layer
        rows, channels, pixels, groups = ctx.sizes
        as_one_record = (
            part.reshape(1, -1, *part.shape[2:])
            for part in (out.contiguous(), x.contiguous(), mean, rstd)
        )
        of_input, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            *as_one_record,
            layer.weight.repeat(rows),
            1,
            rows * channels,
            pixels,
            rows * groups,
            [True, True, True],
        )
        ctx.keep.add(layer.weight, of_weight.view(rows, channels))
        ctx.keep.add(layer.bias, of_bias.view(rows, channels))
        return of_input.view_as(x), None, None, None


class _Affine(torch.autograd.Function):
    """A linear layer: outer products, summed over dimensions between record and feature."""

    @staticmethod
    def forward(ctx, x: Tensor, hook: Tensor, layer: nn.Linear, keep: "_Keep") -> Tensor:  # noqa: ANN001
        ctx.save_for_backward(x)
        ctx.layer, ctx.keep = layer, keep
        return nn.functional.linear(x, layer.weight, layer.bias)

    @staticmethod
    def backward(ctx, out: Tensor) -> tuple[Tensor | None, None, None, None]:  # noqa: ANN001
        (x,), layer = ctx.saved_tensors, ctx.layer
        out_by_record = out.reshape(len(out), -1, out.shape[-1])
        x_by_record = x.reshape(len(x), -1, x.shape[-1])
        ctx.keep.add(layer.weight, out_by_record.transpose(1, 2) @ x_by_record)
        if layer.bias is not None:
            ctx.keep.add(layer.bias, out_by_record.sum(1))
        of_input = out @ layer.weight if ctx.needs_input_grad[0] else None
        return of_input, None, None, None


class _Keep:
    """Per-record gradients by parameter (a layer that is used twice adds up), and how those of
    convolutions are made."""

    def __init__(self) -> None:
        self.gradients: dict[int, Tensor] = {}  # by id of the parameter
        self.chosen: dict[Geometry, str] = {}

    def kernel(self, shape: Geometry) -> Kernel:
        return KERNELS[self.chosen.setdefault(shape, DEFAULT_KERNEL)]

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        key = id(parameter)
        if key in self.gradients:
            gradient = self.gradients[key] + gradient
        self.gradients[key] = gradient


def _function(layer: nn.Module) -> type[torch.autograd.Function] | None:
    """The fast version of a layer, by exact type and only in the forms that it covers."""
    if (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    ):
        return _Conv
    if type(layer) is nn.GroupNorm and layer.affine:
        return _Norm
    return _Affine if type(layer) is nn.Linear else None


class Fast:
    """One forward and one backward pass for the whole batch.

    Only for models whose trainable parameters all belong to Conv2d, GroupNorm and Linear layers of
    the usual forms; another model is a ValueError (use `Oracle`).
    """

    def __init__(self, model: nn.Module, loss: Loss, precision: str = "float32") -> None:
        self.loss, self.layout, self.precision, self.keep = loss, Layout(model), precision, _Keep()
        self.model = copy.deepcopy(model).to(DTYPE[precision])
        covered: set[int] = set()
        for layer in self.model.modules():
            function, own = _function(layer), list(layer.parameters(recurse=False))
            if function is not None and all(parameter.requires_grad for parameter in own):
                covered |= {id(parameter) for parameter in own}
                layer.forward = self._replaced(function, layer)
        self.parameters = [
            parameter for parameter in self.model.parameters() if parameter.requires_grad
        ]
        if any(id(parameter) not in covered for parameter in self.parameters):
            raise ValueError(
                "the model has trainable parameters outside Conv2d, GroupNorm and Linear layers."
            )

    def _replaced(
        self, function: type[torch.autograd.Function], layer: nn.Module
    ) -> Callable[[Tensor], Tensor]:
        # Makes the first layer's backward pass run.
        hook = layer.weight.new_zeros((), requires_grad=True)

        def forward(x: Tensor) -> Tensor:
            return function.apply(x, hook, layer, self.keep)

        return forward

    def __call__(self, weights: Tensor, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
        """Gradients and losses of every record of a non-empty batch."""
        self.layout.load(self.model, weights)
        self.keep.gradients = {}
        with arithmetic(self.precision):
            losses = self.loss(self.model(cast(x, self.precision)).float(), y)
            losses.sum().backward()
        kept, self.keep.gradients = self.keep.gradients, {}

        def gradient(parameter: Tensor) -> Tensor:
            unused = parameter.new_zeros(1).expand(len(x), *parameter.shape)
            return kept.get(id(parameter), unused).float()

        return [gradient(parameter) for parameter in self.parameters], losses.detach()

    def tune(self, x: Tensor, y: Tensor, processes: Processes = ONE) -> dict[Geometry, str]:
        """Choose the quickest way for every convolution on a batch of this size; returns the
        choice. Only shapes are looked at. Rounding follows from the choice, and that from timing:
        without this call results are repeatable. The first of several processes chooses for all, so
        that they round alike."""
        self.keep.chosen = {}
        self(self.layout.flat(self.model), x, y)
        shapes, names = list(self.keep.chosen), list(KERNELS)

        def quickest() -> Tensor:
            with arithmetic(self.precision):
                chosen = [
                    fastest(shape, self.parameters[0].device, self.precision) for shape in shapes
                ]
            return torch.tensor([names.index(name) for name in chosen])

        numbers = processes.from_first(quickest, (len(shapes),), torch.int64).tolist()
        self.keep.chosen = {
            shape: names[int(number)] for shape, number in zip(shapes, numbers, strict=True)
        }
        return self.keep.chosen


def best(model: nn.Module, loss: Loss, precision: str = "float32") -> Oracle | Fast:
    """`Fast` where it applies, else `Oracle`."""
    try:
        return Fast(model, loss, precision)
    except ValueError:
        return Oracle(model, loss, precision)


def chunked(
    per_record: Callable[[Tensor, Tensor, Tensor], tuple[Sequence[Tensor], Tensor]],
    batch: Callable[[Tensor], tuple[Tensor, Tensor]],
    size: int,
    views: int = 1,
    note: Callable[[Tensor], None] = lambda losses: None,
) -> Callable[[Tensor, Tensor], Iterator[list[Tensor]]]:
    """What the mechanism calls: per-record gradients of the given indices, `size` records at a
    time.

    `batch(indices)` returns `views` augmented versions of each record, those of one record side by
    side; their gradients are averaged, so that the record is clipped once. The last chunk is filled
    up with its first record, and what that gives is dropped: in batches of another shape float32
    kernels round a record's gradient differently. `note` gets the losses.
    """

    def gradients(weights: Tensor, indices: Tensor) -> Iterator[list[Tensor]]:
        for part in indices.split(size) if len(indices) else ():
            full = torch.cat([part, part[:1].expand(size - len(part))])
            chunk, losses = per_record(weights, *batch(full))
            note(losses.unflatten(0, (size, views)).mean(1)[: len(part)])
            if views > 1:
                chunk = (gradient.unflatten(0, (size, views)).mean(1) for gradient in chunk)
            yield [gradient[: len(part)] for gradient in chunk]

    return gradients


def physical_batch_size(expected: float, sample_rate: float, most: int) -> int:
    """Rows of a chunk, at most `most`, so that a usual batch fills its chunks well: up to 3
    standard deviations above the expected size, in as few equal chunks as go, a multiple of 16
    (kernels treat left-over rows differently)."""
    usual = expected + 3.0 * sqrt(expected * (1.0 - sample_rate))
    rows = ceil(usual / ceil(usual / most))
    return min(most, 16 * ceil(rows / 16))
