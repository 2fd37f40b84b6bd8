"""Per-record gradients against a float64 loop, for every model; refusals before training."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from torch import nn
from torch.nn import functional

from mmaccount import Phase, Plan
from trainer import checks, models
from trainer.gradients import convolutions, per_record
from trainer.gradients.geometry import Geometry
from trainer.gradients.per_record import Fast, Layout, Oracle, chunked, physical_batch_size
from trainer.loop import losses
from trainer.mechanism import Processes, Randomness, Run, private_step
from trainer.gradients.precision import DTYPE, arithmetic

SHAPE = (3, 32, 32)


class Twice(nn.Module):
    """A layer used twice, a tied one, a linear layer on sequences."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, dilation=1)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.conv(torch.relu(self.conv(x))))
        rows = x[:, 0, :, :8]
        return self.head(torch.relu(self.two(torch.relu(self.one(rows))))).mean(1)


class Functional(nn.Module):
    """Uses a layer's weight past the layer: the fast gradients would miss that."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(10, 10)

    def forward(self, x):
        return functional.linear(self.layer(x.mean((1, 2))[:, :10]), self.layer.weight)


def strided(shape, classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Flatten(),
        nn.LazyLinear(classes),
    )


BUILDERS = {
    "linear": models.linear,
    "cnn": models.cnn,
    "resnet20": models.resnet20,
    "strided": strided,
    "twice": lambda shape, classes: Twice(),
}


def build(name):
    torch.manual_seed(1)
    model = BUILDERS[name](SHAPE, 10)
    model(torch.zeros(1, *SHAPE))
    return checks.perturbed(model)


def loop(model, x, y):
    """One record after the other in float64."""
    model, x = copy.deepcopy(model).double(), x.double()
    rows = []
    for i in range(len(x)):
        made = torch.autograd.grad(
            losses(model(x[i : i + 1]), y[i : i + 1])[0], list(model.parameters())
        )
        rows.append(torch.cat([g.flatten() for g in made]))
    return torch.stack(rows)


def flat(made):
    return torch.cat([g.flatten(1) for g in made], 1)


def of(made, *arguments):
    """Per-record gradients as one matrix."""
    return flat(made(*arguments)[0])


@pytest.mark.parametrize("kind", [Oracle, Fast])
@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("rows", [1, 5])
def test_gradients_are_those_of_a_float64_loop(kind, name, rows):
    model = build(name)
    x, y = torch.randn(rows, *SHAPE), torch.randint(0, 10, (rows,))
    made = kind(model, losses)
    found, expected = of(made, made.layout.flat(model), x, y).double(), loop(model, x, y)
    scale = expected.abs().max()
    assert float((found - expected).abs().max()) < 2e-5 * float(scale)


# channels, outputs, size, kernel, stride, padding, dilation: those of resnet20 and cnn, and odd
# ones
GEOMETRIES = [
    *[
        (3, 16, 32, 3, 1, 1, 1),
        (16, 16, 32, 3, 1, 1, 1),
        (16, 32, 32, 3, 2, 1, 1),
        (32, 32, 16, 3, 1, 1, 1),
    ],
    *[
        (32, 64, 16, 3, 2, 1, 1),
        (64, 64, 8, 3, 1, 1, 1),
        (16, 32, 16, 3, 1, 1, 1),
        (2, 3, 7, 1, 1, 0, 1),
    ],
    *[(2, 3, (9, 7), (3, 2), (2, 3), (1, 0), 1), (2, 3, (11, 12), (2, 4), (3, 1), (2, 3), (2, 1))],
    *[(1, 1, 5, 5, 1, 0, 1), (2, 2, 9, 3, 3, 2, 2), (3, 2, (4, 9), (1, 3), (1, 2), (0, 4), (1, 3))],
]


def convolution(given):
    """A geometry, random inputs and gradients of outputs, and autograd's weight gradients of every
    record, in float64."""
    inputs, outputs, size, *settings = given
    torch.manual_seed(0)
    layer = nn.Conv2d(inputs, outputs, *settings, bias=False)
    x = torch.randn(4, inputs, *(size if isinstance(size, tuple) else (size, size)))
    shape, out = Geometry.of(x, layer), torch.randn_like(layer(x))
    rows = []
    for one, gradient in zip(x.double(), out.double()):
        weight = layer.weight.detach().double().requires_grad_()
        made = functional.conv2d(
            one[None], weight, None, layer.stride, layer.padding, layer.dilation
        )
        assert made[0].shape == shape.out[1:]
        rows.append(torch.autograd.grad(made, weight, gradient[None])[0])
    return shape, x, out, torch.stack(rows)


@pytest.mark.parametrize("given", GEOMETRIES)
def test_all_ways_of_a_convolution_agree_with_autograd(given):
    shape, x, out, expected = convolution(given)
    same = {}
    for name, kernel in convolutions.KERNELS.items():
        if name == "fused":  # see interpreted.py
            continue
        found = kernel(x, out, shape)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) < 2e-6 * float(expected.abs().max())
        same[name] = torch.equal(kernel(x.flip(0), out.flip(0), shape), found.flip(0))
    assert all(
        same[name]
        for name in convolutions.usable(shape, (x.round(), out.round()), (x, out), "float32")
    )


def spoiled(change):
    """A kernel that is wrong by little."""
    return lambda x, out, shape: change(x, out, lambda x, out: convolutions.grouped(x, out, shape))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("size", [32, 112])
def test_a_kernel_that_is_wrong_by_little_is_not_usable(monkeypatch, precision, size):
    wrong = {
        "last pixel left out": spoiled(
            lambda x, out, made: made(
                x, torch.cat([out.flatten(2)[..., :-1], 0 * out[..., -1, -1:]], 2).view_as(out)
            )
        ),
        "longer": spoiled(lambda x, out, made: made(x, out) * 1.02),
        "a channel for another": spoiled(lambda x, out, made: made(x.roll(1, 1), out)),
    }
    monkeypatch.setattr(convolutions, "KERNELS", convolutions.KERNELS | wrong)
    shape = Geometry.of(torch.zeros(4, 3, size, size), nn.Conv2d(3, 16, 3, padding=1))
    whole = tuple(torch.randint(-2, 3, each).to(DTYPE[precision]) for each in (shape.x, shape.out))
    assert convolutions.usable(shape, whole, whole, precision) == ["grouped", "unfolded", "shifted"]


def test_the_quickest_usable_way_is_chosen_and_used(monkeypatch):
    used = []

    def named(name, change=lambda made, x: made):
        def kernel(x, out, shape):
            used.append(name)
            return change(convolutions.grouped(x, out, shape), x)

        return kernel

    def impossible(x, out, shape):
        raise torch.OutOfMemoryError("too large")

    class Clock:
        def __init__(self, device):
            pass

        def seconds(self, call):
            call()
            return {"grouped": 3.0, "quick": 2.0}.get(used[-1], 1.0)

    ways = {
        "grouped": named("grouped"),
        "wrong": named("wrong", lambda made, x: made * 1.1),
        "placed": named(
            "placed",
            lambda made, x: made * (1 + 1e-6 * torch.arange(len(x))[:, None, None, None, None]),
        ),
        "broken": named("broken", lambda made, x: made * float("nan")),
        "impossible": impossible,
        "quick": named("quick"),
    }
    monkeypatch.setattr(convolutions, "Clock", Clock)
    monkeypatch.setattr(convolutions, "KERNELS", ways)
    monkeypatch.setattr(per_record, "KERNELS", ways)
    model = build("strided")
    made, (x, y) = Fast(model, losses), (torch.randn(4, *SHAPE), torch.zeros(4).long())
    weights = made.layout.flat(model)
    assert list(made.tune(x, y).values()) == ["quick", "quick"]
    used.clear()
    quick = of(made, weights, x, y)
    assert used == ["quick", "quick"]
    used.clear()
    assert torch.equal(of(Fast(model, losses), weights, x, y), quick)
    assert used == ["grouped", "grouped"]
    del ways["quick"], ways["grouped"]
    ways["grouped"] = ways["placed"]
    assert set(made.tune(x, y).values()) == {"grouped"}
    assert not checks.same_anywhere(
        made, weights, lambda rows: (torch.randn(rows, *SHAPE), torch.zeros(rows).long()), 4
    )


def test_unfolding_is_not_tried_where_its_copy_would_be_too_large(monkeypatch):
    shape = Geometry.of(torch.zeros(4, 3, 8, 8), nn.Conv2d(3, 5, 3, padding=1))
    assert shape.patches == 4 * 27 * 64
    monkeypatch.setattr(
        convolutions,
        "KERNELS",
        {"unfolded": convolutions.unfolded, "grouped": convolutions.grouped},
    )
    monkeypatch.setattr(convolutions.functional, "unfold", lambda *given: pytest.fail("tried"))
    monkeypatch.setitem(convolutions.UNFOLDED_BYTES, "cpu", 4 * shape.patches - 1)
    assert convolutions.fastest(shape, "cpu") == "grouped"


def test_the_first_of_several_processes_chooses_for_all():
    class Second(Processes):
        def from_first(self, make, shape, dtype=torch.float64):
            return torch.full(shape, list(convolutions.KERNELS).index("shifted"), dtype=dtype)

    made = Fast(build("strided"), losses)
    assert list(made.tune(torch.randn(4, *SHAPE), torch.zeros(4).long(), Second()).values()) == [
        "shifted",
        "shifted",
    ]


def test_fast_follows_new_weights_and_leaves_nothing_behind():
    model = build("cnn")
    made = Fast(model, losses)
    x, y = torch.randn(4, *SHAPE), torch.randint(0, 10, (4,))
    weights = made.layout.flat(model)
    first = of(made, weights, x, y)
    assert not torch.equal(first, of(made, weights * 0.5, x, y))
    assert torch.equal(first, of(made, weights, x, y))
    assert made.keep.gradients == {}


def test_fast_refuses_what_it_does_not_cover_and_start_falls_back():
    model = nn.Sequential(nn.Flatten(), nn.LayerNorm(3072), nn.Linear(3072, 10))
    with pytest.raises(ValueError, match="outside"):
        Fast(model, losses)

    def example(rows):
        return torch.randn(rows, 3, 32, 32), torch.randint(0, 10, (rows,))

    assert isinstance(checks.per_record(model, losses, example), Oracle)
    assert isinstance(checks.per_record(build("cnn"), losses, example), Fast)

    def wide(rows):
        return torch.randn(rows, 3, 32, 10), torch.randint(0, 10, (rows,))

    assert isinstance(checks.per_record(Functional(), losses, wide), Oracle)


def test_frozen_parameters_have_no_place():
    model = build("cnn")
    before = Layout(model).total
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert Layout(model).total == before - 3 * 16 * 9 - 16
    made = Fast(model, losses)
    assert of(
        made, made.layout.flat(model), torch.randn(2, *SHAPE), torch.zeros(2).long()
    ).shape == (2, made.layout.total)


def test_layout_round_trip():
    model, other = build("resnet20"), models.resnet20(SHAPE, 10)
    layout = Layout(model)
    assert layout.total == 269_722
    layout.load(other, layout.flat(model))
    assert torch.equal(layout.flat(other), layout.flat(model))
    with pytest.raises(ValueError, match="trainable"):
        Layout(nn.ReLU())


class Replayed(Randomness):
    """Every record keeps its coin, whoever else is in the data; noise and mixing are the same.
    `asked` is what happened."""

    def __init__(self, seed, records):
        super().__init__(seed)
        self.records, self.asked = records, []

    def words(self, purpose, step):
        self.asked.append(purpose)
        draw = super().words(purpose, step)
        return (
            draw
            if purpose != "sampling"
            else lambda count: draw(max(self.records) + 1)[self.records]
        )

    def charge(self, step):
        self.asked.append(f"charge {step}")


@examples(max_examples=30)
@given(
    name=st.sampled_from(["linear", "cnn", "twice"]),
    rows=st.integers(1, 30),
    place=st.integers(0, 30),
    size=st.floats(-3, 30),
    truncation=st.sampled_from([1.0, 9.0]),
    gap=st.sampled_from([0.0, 0.3]),
    precision=st.sampled_from(["float32", "bf16"]),
    seed=st.integers(0, 1000),
)
def test_neighbours_with_the_same_coins_differ_by_at_most_the_sensitivity(
    name, rows, place, size, truncation, gap, precision, seed
):
    """A step on D, and on D with one record more, also an absurd one, anywhere in it; everything
    random is replayed."""
    model = build(name)
    torch.manual_seed(seed)
    x, y = torch.randn(rows + 1, *SHAPE), torch.randint(0, 10, (rows + 1,))
    x[rows] *= 10.0**size
    made = Fast(model, losses, precision)
    phase = Phase(
        steps=3,
        noise_multiplier=1.0,
        clip_norm=0.5,
        learning_rate=0.5,
        truncation=truncation,
        gap=gap,
    )
    plan = Plan(
        dataset_size=rows, sample_rate=0.6, batch_size=0.6 * rows, phases=(phase,), delta=1e-5
    )
    weights, old = made.layout.flat(model), list(range(rows))
    found = []
    for records in (old, [*old[:place], rows, *old[place:]]):
        replayed, inputs, labels = Replayed(seed, records), x[records], y[records]

        def batch(indices, inputs=inputs, labels=labels):
            return inputs[indices], labels[indices]

        run = Run(plan=plan, ledger=replayed, randomness=replayed, records=len(records))
        step = private_step(run, 2, weights, weights * 0.9, gradients=chunked(made, batch, 16))
        found.append((step.weights, replayed.asked))
    (one, one_asked), (two, two_asked) = found
    moved = (two - one) / phase.learning_rate * plan.batch_size
    assert float(moved.norm()) <= 0.5
    assert float(moved.abs().max()) <= 0.5 / truncation**0.5 * (1 + 1e-9)
    assert one_asked == two_asked == ["charge 2", "sampling", "noise", *["mixing"] * (gap > 0)]


@pytest.mark.parametrize("kind", [Oracle, Fast])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_record_has_the_same_gradient_to_the_bit_whoever_else_is_in_the_batch(kind, name):
    model = build(name)
    made, rows = kind(model, losses), 16
    weights = made.layout.flat(model)
    assert checks.same_anywhere(
        made, weights, lambda n: (torch.randn(n, *SHAPE), torch.randint(0, 10, (n,))), rows
    )
    x, y = torch.randn(rows, *SHAPE), torch.randint(0, 10, (rows,))
    reference = of(made, weights, x, y)
    for poison in (float("nan"), float("inf"), 1e30):
        other = x.clone()
        other[1::2] = poison
        assert torch.equal(of(made, weights, other, y)[::2], reference[::2])


def test_same_anywhere_notices_a_gradient_that_depends_on_the_place():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x) * (1 + 1e-6 * torch.arange(len(x))[:, None])

    made = Fast(Placed(), losses)
    assert not checks.same_anywhere(made, made.layout.flat(Placed()), vectors, 16)


@pytest.mark.parametrize("kind", [Oracle, Fast])
@pytest.mark.parametrize("name", ["cnn", "resnet20", "twice"])
def test_bf16_rounds_the_passes_and_float32_leaves_them(kind, name):
    model, rows = build(name), 16
    x, y = torch.randn(rows, *SHAPE), torch.randint(0, 10, (rows,))
    weights, expected = Layout(model).flat(model), loop(model, x, y)
    assert torch.equal(
        of(kind(model, losses, "tf32"), weights, x, y), of(kind(model, losses), weights, x, y)
    )
    rounded = kind(model, losses, "bf16")
    made, found_losses = rounded(weights, x, y)
    assert {one.dtype for one in (*made, found_losses)} == {torch.float32}
    errors = (flat(made) - expected).norm(dim=1) / expected.norm(dim=1)
    assert 1e-3 < float(errors.median()) < 0.1
    assert checks.same_anywhere(
        rounded, weights, lambda n: (torch.randn(n, *SHAPE), torch.randint(0, 10, (n,))), rows
    )


def test_tf32_is_as_asked_for_whatever_the_process_has_set():
    seen = []

    def spied(outputs, targets):
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        seen.append((matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic))
        return losses(outputs, targets)

    model = build("cnn")
    x, y = torch.randn(2, *SHAPE), torch.zeros(2).long()
    for outside in ("tf32", "float32"):
        with arithmetic(outside):
            for precision in DTYPE:
                made = Fast(model, spied, precision)
                made(made.layout.flat(model), x, y)
            assert (
                torch.backends.cuda.matmul.allow_tf32
                == torch.backends.cudnn.allow_tf32
                == (outside == "tf32")
            )
    assert seen == 2 * [(False, False, True), (True, True, True), (False, False, True)]


@given(
    expected=st.floats(1e-3, 1e5),
    sample_rate=st.floats(1e-6, 1.0),
    most=st.integers(1, 5000) | st.just(4096),
)
def test_chunks_are_of_constant_size_and_mostly_full(expected, sample_rate, most):
    rows = physical_batch_size(expected, sample_rate, most)
    assert 1 <= rows <= most
    assert rows % 16 == 0 or rows == most
    usual = expected + 3 * (expected * (1 - sample_rate)) ** 0.5
    wasted = -(-usual // rows) * rows - usual
    assert wasted <= max(rows, 16)


def test_chunks_are_filled_up_and_what_fills_them_is_dropped():
    shapes, noted = [], []

    def per_record(weights, x, y):
        shapes.append(len(x))
        return [x[:, None] * 1.0], x * 1.0

    batch = torch.arange(10)
    gradients = chunked(
        per_record, lambda part: (part.repeat_interleave(2), part), 4, views=2, note=noted.append
    )
    parts = list(gradients(torch.zeros(1), batch))
    assert shapes == [8, 8, 8]
    assert torch.cat([part for (part,) in parts]).flatten().tolist() == batch.tolist()
    assert torch.cat(noted).tolist() == batch.tolist()
    assert list(gradients(torch.zeros(1), batch[:0])) == []


def test_views_are_averaged_before_clipping():
    model = build("linear")
    made = Oracle(model, losses)
    x, y = torch.randn(6, *SHAPE), torch.randint(0, 10, (3,)).repeat_interleave(2)
    weights = made.layout.flat(model)
    (two,) = chunked(made, lambda part: (x, y), 3, views=2)(weights, torch.arange(3))
    torch.testing.assert_close(flat(two), of(made, weights, x, y).unflatten(0, (3, 2)).mean(1))


# ---------------------------------------------------------------------------------------- refusals


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x - x.mean(0))


class FunctionalNorm(Centred):
    def forward(self, x):
        return self.head(functional.batch_norm(x, None, None, training=True))


class Remembers(Centred):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        self.mean += 0.1 * x.detach().mean()
        return self.head(x)


class Noisy(Centred):
    def forward(self, x):
        return self.head(functional.dropout(x, 0.5))


def vectors(rows):
    return torch.randn(rows, 5), torch.randint(0, 3, (rows,))


def weighted_mean(outputs, targets):
    made = functional.cross_entropy(
        outputs, targets, weight=torch.tensor([1.0, 2.0, 3.0]), reduction="none"
    )
    return made / torch.tensor([1.0, 2.0, 3.0])[targets].sum()


@pytest.mark.parametrize(
    ("model", "loss", "message"),
    [
        (Centred(), losses, "depends on the other records"),
        (FunctionalNorm(), losses, "depends|Expected more"),
        (Remembers(), losses, "buffer `mean`"),
        (Noisy(), losses, "randomness"),
        (nn.Linear(5, 3), weighted_mean, "depends on the other records"),
        (nn.Linear(5, 3), functional.cross_entropy, "one loss per record"),
        (
            nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)),
            losses,
            "depends|buffer|Expected",
        ),
    ],
)
def test_coupled_records_are_refused(model, loss, message):
    with pytest.raises(ValueError, match=message):
        checks.isolated(model, loss, vectors)


class Coupled(nn.Module):
    """Every record is moved a bit by the mean of its batch, if that is large."""

    def __init__(self, share, more_than):
        super().__init__()
        self.layer, self.share, self.more_than = nn.Linear(5, 3), share, more_than

    def forward(self, x):
        return self.layer(x - self.share * x.mean(0) if len(x) > self.more_than else x)


def test_coupling_is_also_looked_for_in_batches_of_the_size_of_training():
    def same(share):
        model = Coupled(share, checks.EXAMPLE_ROWS)
        checks.isolated(model, losses, vectors)
        return checks.same_anywhere(Fast(model, losses), Layout(model).flat(model), vectors, 16)

    assert same(0.0)
    assert not same(1e-4)
    with pytest.raises(ValueError, match="depends on the other records"):
        same(1.0)


class Merged(nn.Module):
    """Its layer gets pieces of records in rows of their own, or the pieces first."""

    def __init__(self, turned):
        super().__init__()
        self.inner, self.outer, self.turned = nn.Linear(1, 2), nn.Linear(10, 3), turned

    def forward(self, x):
        pieces = x[:, :, None].transpose(0, 1) if self.turned else x.reshape(-1, 1)
        made = self.inner(pieces)
        return self.outer((made.transpose(0, 1) if self.turned else made).reshape(len(x), 10))


@pytest.mark.parametrize("turned", [False, True])
def test_layers_whose_rows_are_not_records_are_left_to_vmap(turned):
    assert type(checks.per_record(Merged(turned), losses, vectors)) is Oracle


def test_a_zero_last_layer_does_not_hide_the_coupling():
    model = nn.Sequential(Centred(), nn.Linear(3, 3))
    nn.init.zeros_(model[1].weight)
    with pytest.raises(ValueError, match="depends"):
        checks.isolated(model, losses, vectors)


def test_isolated_models_pass():
    checks.isolated(nn.Linear(5, 3), losses, vectors)
    for name in ("linear", "cnn", "resnet20"):
        checks.isolated(
            build(name),
            losses,
            lambda rows: (torch.randn(rows, *SHAPE), torch.randint(0, 10, (rows,))),
        )


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm2d(8), "`1`.*BatchNorm2d.*GroupNorm.*8"),
        (nn.BatchNorm2d(8, affine=False), "GroupNorm"),
        (nn.SyncBatchNorm(8), "GroupNorm"),
        (nn.InstanceNorm2d(8, track_running_stats=True), "track_running_stats"),
        (nn.Dropout(0.1), "Dropout"),
    ],
)
def test_layers_are_refused_by_type_with_their_name(layer, message):
    with pytest.raises(ValueError, match=message):
        checks.module(nn.Sequential(nn.Identity(), layer))
    checks.module(nn.Sequential(nn.GroupNorm(2, 8), nn.InstanceNorm2d(8), nn.Dropout(0.0)))


def test_models_by_name(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(shape, classes): return nn.Linear(shape[0], classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert models.build("mine:net", (5,), 3).out_features == 3
    for name, message in [
        ("nothing", "must be one of"),
        ("mine:none", "none"),
        ("nowhere:net", "nowhere"),
        ("cnn", "images"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.build(name, (5,), 3)
    a, b, c = (
        Layout(m).flat(m) for m in (models.build("cnn", SHAPE, 10, seed) for seed in (1, 1, None))
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
