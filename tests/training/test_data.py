"""Data sets: layouts, refusals, and glyphs that depend on nothing but their number."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.io import savemat

from trainer import data
from trainer.augment import Augmentation, scattered
from trainer.data import cifar10, digits, glyphs, npz, svhn
from trainer.data.dataset import Dataset


def test_digits_are_always_the_same_and_split():
    a, b = digits(), digits()
    assert (len(a.x), len(a.held_out_x), a.classes) == (1437, 360, 10)
    assert torch.equal(a.x, b.x)
    assert float(a.prepare(a.x).min()) == -1
    assert float(a.prepare(a.x).max()) == 1
    assert len(np.unique(torch.cat([a.x, a.held_out_x]).flatten(1).numpy(), axis=0)) > 1790


def test_npz(tmp_path):
    path = tmp_path / "mine.npz"
    arrays = {
        "x_train": np.ones((4, 3)),
        "y_train": [0, 1, 2, 0],
        "x_test": np.ones((2, 3)),
        "y_test": [1, 1],
    }
    np.savez(path, **arrays)
    made = data.load(str(path))
    assert (made.classes, made.x.dtype, made.centre, made.scale) == (3, torch.float32, 0.0, 1.0)
    np.savez(
        path,
        **arrays
        | {"x_train": np.ones((4, 3, 8, 8), np.uint8), "x_test": np.ones((2, 3, 8, 8), np.uint8)},
    )
    assert npz(path).x.dtype == torch.uint8
    for change, message in [
        ({"x_train": np.full((4, 3), np.nan)}, "finite"),
        ({"y_train": [0, 1]}, "fit"),
        ({"y_train": [0, -1, 0, 0]}, "labels"),
        ({"y_train": [0.5, 0, 0, 0]}, "whole"),
    ]:
        np.savez(path, **arrays | change)
        with pytest.raises(ValueError, match=message):
            npz(path)
    np.savez(path, x=np.ones(3))
    with pytest.raises(ValueError, match="x_train"):
        npz(path)
    with pytest.raises(ValueError, match="cannot read"):
        npz(tmp_path / "none.npz")


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, 12)


NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]


@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar10_layouts(version, pictures, tmp_path):
    x, y = pictures
    for i, name in enumerate(NAMES):
        part, labels = x[2 * i : 2 * i + 2].reshape(2, -1), y[2 * i : 2 * i + 2]
        if version == "binary":
            (tmp_path / f"{name}.bin").write_bytes(
                np.concatenate([labels[:, None].astype(np.uint8), part], axis=1).tobytes()
            )
        else:
            (tmp_path / name).write_bytes(
                pickle.dumps({b"data": part, b"labels": labels.tolist()}, protocol=2)
            )
    made = cifar10(tmp_path, md5={}, rows=2)
    assert torch.equal(torch.cat([made.x, made.held_out_x]), torch.tensor(x))
    assert torch.cat([made.y, made.held_out_y]).tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"checksum|bytes"):
        data.load(f"cifar10:{tmp_path}")
    with pytest.raises(ValueError, match=r"bytes"):
        cifar10(tmp_path, md5={}, rows=3)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Bad:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match=r"unexpected builtins\.print"):
        cifar10(tmp_path, md5={}, rows=1)
    with pytest.raises(ValueError, match="cannot read"):
        cifar10(tmp_path / "none")


def test_svhn_layout(pictures, tmp_path):
    x, y = pictures
    labels = np.where(y == 0, 10, y)
    for name, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        savemat(
            tmp_path / f"{name}_32x32.mat",
            {"X": x[part].transpose(2, 3, 1, 0), "y": labels[part][:, None]},
        )
    made = svhn(tmp_path, md5={})
    assert torch.equal(torch.cat([made.x, made.held_out_x]), torch.tensor(x))
    assert torch.cat([made.y, made.held_out_y]).tolist() == y.tolist()
    with pytest.raises(ValueError, match="checksum"):
        data.load(f"svhn:{tmp_path}")


def test_glyphs_depend_on_their_number_only():
    small, large = glyphs(20, 10), glyphs(40, 10)
    assert torch.equal(small.x, large.x[:20])
    assert torch.equal(small.held_out_x, large.held_out_x)
    assert not torch.equal(small.x[:10], small.held_out_x)
    assert small.x.shape == (20, 3, 32, 32)
    assert small.x.dtype == torch.uint8
    assert large.y.bincount().tolist() == [4] * 10
    assert torch.equal(glyphs(251, 1).x[:40], large.x)
    contrast = small.x.float().std((2, 3)).mean(1)
    assert float(contrast.min()) > 5


def test_a_linear_model_cannot_read_glyphs():
    """Least squares on 4,000 images; tests/bench/glyphs.py measures more of them, and Resnet-20."""
    seen = []
    made = glyphs(4000, 1000, lambda done, whole: seen.append((done, whole)))
    x, held_out = (made.prepare(part).flatten(1).double() for part in (made.x, made.held_out_x))
    one_hot = torch.nn.functional.one_hot(made.y, 10).double() - 0.1
    solution = torch.linalg.solve(x.T @ x + 100.0 * torch.eye(x.shape[1]).double(), x.T @ one_hot)
    assert float(((held_out @ solution).argmax(1) == made.held_out_y).double().mean()) < 0.3
    assert seen[-1] == (5000, 5000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar10:", "x.csv"])
def test_unknown_data_are_refused(name):
    with pytest.raises(ValueError, match="data"):
        data.load(name)


def test_labels_are_checked_before_training():
    x, y = torch.zeros(2, 3), torch.tensor([0, 5])
    with pytest.raises(ValueError, match="labels"):
        Dataset(name="bad", x=x, y=y, held_out_x=x, held_out_y=y, classes=5)


def test_augmentation_keeps_records_side_by_side():
    x = torch.arange(3 * 1 * 8 * 8, dtype=torch.uint8).view(3, 1, 8, 8) % 251
    made = Augmentation(views=4, flip=True)(x, torch.arange(3), 5)
    for i in range(3):
        for view in made[4 * i : 4 * i + 4]:
            assert torch.equal(view, x[i]) or torch.equal(view, x[i].flip(2))
    cropped = Augmentation(views=2000, crop=True)(x[:1], torch.tensor([7]), 5)
    assert cropped.shape == (2000, 1, 8, 8)
    padded = torch.nn.functional.pad(x[0], [4] * 4)
    windows = {
        tuple(padded[0, r : r + 8, c : c + 8].flatten().tolist())
        for r in range(9)
        for c in range(9)
    }
    assert {tuple(view.flatten().tolist()) for view in cropped} == windows
    assert torch.equal(Augmentation()(x, torch.arange(3), 5), x)
    for options in ({"views": 0}, {"views": 2}, {"views": 1.5}):
        with pytest.raises(ValueError, match="views"):
            Augmentation(**options)
    with pytest.raises(ValueError, match="images"):
        Augmentation(crop=True)(torch.zeros(2, 5), torch.arange(2), 5)


def test_views_are_uniform_and_those_of_a_record_do_not_depend_on_the_batch():
    drawn = scattered(2**63 + 11, np.arange(200_000))
    assert stats.kstest(drawn, "uniform").pvalue > 1e-4
    for other in (
        scattered(2**63 + 12, np.arange(200_000)),
        np.roll(drawn, 1),
        np.roll(drawn, 3),
    ):  # another step, draw, view
        assert abs(np.corrcoef(drawn, other)[0, 1]) < 5 / 200_000**0.5
    x = torch.randn(30, 1, 8, 8)
    some, augmentation = torch.tensor([3, 4, 20]), Augmentation(views=2, flip=True, crop=True)
    whole = augmentation(x, torch.arange(30), 5).unflatten(0, (30, 2))
    assert torch.equal(augmentation(x[some], some, 5).unflatten(0, (3, 2)), whole[some])
    assert not torch.equal(augmentation(x[some], some, 6).unflatten(0, (3, 2)), whole[some])
