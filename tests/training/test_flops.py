"""Operations and bytes that are counted are those worked out by hand."""

import pytest
import torch
from torch import nn

from trainer import models
from trainer.bench import flops
from trainer.loop import losses

SHAPE = (3, 32, 32)
H100 = flops.CARDS["H100 80GB HBM3"]
# By layer: inputs * outputs * 9 * pixels, 6 + 5 + 5 of them with the same number, and the head.
RESNET = 3 * 16 * 9 * 1024 + 2 * 16 * 32 * 9 * 256 + 16 * (16 * 16 * 9 * 1024) + 640


def test_forward_pass_of_resnet20():
    assert RESNET == 40_551_040
    model = models.resnet20(SHAPE, 10).to("meta")
    one, five = (
        flops.counted(lambda rows=rows: model(torch.empty(rows, *SHAPE, device="meta")))
        for rows in (1, 5)
    )
    assert (one.operations, five.operations) == (2 * RESNET, 10 * RESNET)
    # Maps of the stages have 2^14, 2^13 and 2^12 floats. A block reads or writes 15: 2 by each of
    # two convolutions, norms and rectifiers, 3 by the sum. Stage 1 has three blocks and 5 for the
    # layer before; the others three, 1 more for a first map that is twice as large, and about 2 to
    # subsample and pad it.
    per_record = (five.bytes - one.bytes) / 4
    assert per_record == pytest.approx(4 * (50 * 2**14 + 48 * 2**13 + 48 * 2**12), rel=0.02)


def test_steps_of_resnet20():
    made = flops.steps(models.resnet20(SHAPE, 10), losses, SHAPE, 1500)
    without, private = made["without privacy"], made["private"]
    assert without.operations == 1500 * 2 * (
        3 * RESNET - 3 * 16 * 9 * 1024
    )  # the first layer needs no input gradient
    assert private.operations == without.operations
    assert private.bytes > without.bytes + 1500 * 3 * 4 * 269_722
    assert without.floor(H100, "bf16") == pytest.approx(without.bytes / H100.bandwidth)
    assert without.operations / H100.peak["float32"] < without.floor(H100, "float32") < 0.012
    assert (
        without.floor(H100, "float32")
        < private.floor(H100, "float32")
        < 1.3 * without.floor(H100, "float32")
    )


def test_one_convolution_by_hand():
    layer = nn.Conv2d(2, 4, 3, device="meta")
    x = torch.empty(7, 2, 6, 6, device="meta", requires_grad=True)
    inputs, weights, outputs, work = 7 * 2 * 36, 4 * 2 * 9, 7 * 4 * 16, 2 * 7 * 4 * 16 * 18
    forward = flops.counted(lambda: layer(x))
    assert forward.parts == ((work, 4 * (inputs + weights + 4 + outputs)),)
    made, gradient = layer(x), torch.empty(7, 4, 4, 4, device="meta")
    backward = flops.counted(
        lambda: torch.autograd.grad(made, [x, layer.weight, layer.bias], gradient)
    )
    each = 4 * (inputs + weights + outputs)
    assert backward.parts == ((work, each), (work, each), (0, 4 * (outputs + 4)))


def test_matrix_products_views_and_expanded_tensors_by_hand():
    a, b = torch.empty(5, 3, device="meta"), torch.empty(3, 4, device="meta")
    assert flops.counted(lambda: (a @ b).t().reshape(2, 10)).parts == (
        (2 * 60, 4 * (15 + 12 + 20)),
        (0, 4 * 40),
    )
    assert (
        flops.counted(
            lambda: torch.empty(1, device="meta").expand(8) + torch.empty(8, device="meta")
        ).bytes
        == 4 * 17
    )
    linear = nn.Linear(3, 4, device="meta")
    assert flops.counted(lambda: linear(a)).parts == ((2 * 60, 4 * (15 + 12 + 4 + 20)),)


def test_models_without_fast_gradients_are_counted_too():
    made = flops.steps(
        nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 10)), losses, SHAPE, 4
    )
    assert made["private"].operations == made["without privacy"].operations == 3 * 2 * 4 * 3072 * 10


def test_cards_are_known_by_name():
    assert flops.card("NVIDIA H100 80GB HBM3") is H100
    assert flops.card("AMD EPYC") is None
