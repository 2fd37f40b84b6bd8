"""Readers of data that are already on this machine; sizes and, where they are public, checksums are
verified."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import torch

from trainer.data.dataset import Dataset, images

CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_ROWS = 10_000  # in every file
SVHN_MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}
IMAGE_BYTES = 3 * 32 * 32
TEST_EVERY = 5  # of the digits, after a fixed shuffle


def _read(path: Path, md5: str | None) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}.") from error
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise ValueError(f"{path} is not the published file: its checksum differs.")
    return content


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, values from 0 to 16.

    Always the same 1,437 to train, 360 held out.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = images(x[order].reshape(-1, 1, 8, 8)), torch.tensor(y[order], dtype=torch.int64)
    test = torch.arange(len(x)) % TEST_EVERY == 0
    return Dataset(
        name="digits",
        x=x[~test],
        y=y[~test],
        held_out_x=x[test],
        held_out_y=y[test],
        classes=10,
        centre=8.0,
        scale=8.0,
    )


def npz(path: str | Path) -> Dataset:
    """Arrays x_train, y_train, x_test, y_test of a .npz file; uint8 inputs are taken as images,
    others as they are."""
    try:
        with np.load(path, allow_pickle=False) as file:
            x, y, held_out_x, held_out_y = (
                np.asarray(file[name]) for name in ("x_train", "y_train", "x_test", "y_test")
            )
    except KeyError as error:
        raise ValueError(
            f"{path}: {error.args[0]}; the arrays must be x_train, y_train, x_test and y_test."
        ) from error
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error}.") from error
    if (
        not (np.issubdtype(y.dtype, np.integer) and np.issubdtype(held_out_y.dtype, np.integer))
        or not y.size
    ):
        raise ValueError(f"{path}: y_train and y_test must be whole numbers, and not empty.")
    kind = torch.uint8 if x.dtype == np.uint8 else torch.float32
    constants = {} if kind is torch.uint8 else {"centre": 0.0, "scale": 1.0}
    return Dataset(
        name=Path(path).name,
        x=torch.tensor(x, dtype=kind),
        y=torch.tensor(y, dtype=torch.int64),
        held_out_x=torch.tensor(held_out_x, dtype=kind),
        held_out_y=torch.tensor(held_out_y, dtype=torch.int64),
        classes=int(max(y.max(), held_out_y.max())) + 1,
        **constants,
    )


class _Arrays(pickle.Unpickler):
    """Reads the pickles of CIFAR-10 and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module.replace("numpy.core", "numpy._core"), name) == (
            "numpy._core.multiarray",
            "_reconstruct",
        ):
            from numpy._core.multiarray import _reconstruct

            return _reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            import codecs

            return codecs.encode
        raise ValueError(f"unexpected {module}.{name} in a CIFAR-10 file.")


def _cifar10_part(
    folder: Path, name: str, md5: dict[str, str], rows: int
) -> tuple[np.ndarray, np.ndarray]:
    if (folder / f"{name}.bin").exists():
        raw = np.frombuffer(_read(folder / f"{name}.bin", None), dtype=np.uint8)
        if raw.size != rows * (IMAGE_BYTES + 1):
            raise ValueError(
                f"{folder / name}.bin must have {rows * (IMAGE_BYTES + 1)} bytes, got {raw.size}."
            )
        table = raw.reshape(rows, IMAGE_BYTES + 1)
        return table[:, 1:].reshape(rows, 3, 32, 32), table[:, 0]
    import io

    arrays = _Arrays(io.BytesIO(_read(folder / name, md5.get(name))), encoding="bytes").load()
    x, y = np.asarray(arrays[b"data"]), np.asarray(arrays[b"labels"])
    if x.shape != (rows, IMAGE_BYTES) or x.dtype != np.uint8 or y.shape != (rows,):
        raise ValueError(
            f"{folder / name} must hold {rows} rows of {IMAGE_BYTES} bytes, got {x.shape} of {x.dtype}."
        )
    return x.reshape(rows, 3, 32, 32), y


def cifar10(
    folder: str | Path, *, md5: dict[str, str] = CIFAR10_MD5, rows: int = CIFAR10_ROWS
) -> Dataset:
    """CIFAR-10 from its published files, binary version (data_batch_1.bin ...) or python version
    (data_batch_1 ...)."""
    parts = [
        _cifar10_part(Path(folder), f"data_batch_{number}", md5, rows) for number in range(1, 6)
    ]
    held_out_x, held_out_y = _cifar10_part(Path(folder), "test_batch", md5, rows)
    return Dataset(
        name="cifar10",
        x=images(np.concatenate([x for x, _ in parts])),
        y=torch.tensor(np.concatenate([y for _, y in parts]), dtype=torch.int64),
        held_out_x=images(held_out_x),
        held_out_y=torch.tensor(held_out_y, dtype=torch.int64),
        classes=10,
    )


def svhn(folder: str | Path, *, md5: dict[str, str] = SVHN_MD5) -> Dataset:
    """SVHN from train_32x32.mat and test_32x32.mat; the label 10 of the files is the digit 0."""
    import io

    from scipy.io import loadmat

    read = {}
    for name in ("train", "test"):
        path = Path(folder) / f"{name}_32x32.mat"
        arrays = loadmat(io.BytesIO(_read(path, md5.get(path.name))))
        x, y = arrays["X"], arrays["y"].reshape(-1)
        if x.shape[:3] != (32, 32, 3) or x.dtype != np.uint8 or x.shape[3] != len(y):
            raise ValueError(
                f"{path} must hold X of 32 x 32 x 3 x n bytes and y of n labels, "
                f"got {x.shape} and {y.shape}."
            )
        read[name] = images(x.transpose(3, 2, 0, 1)), torch.tensor(y % 10, dtype=torch.int64)
    (x, y), (held_out_x, held_out_y) = read["train"], read["test"]
    return Dataset(name="svhn", x=x, y=y, held_out_x=held_out_x, held_out_y=held_out_y, classes=10)
