"""Records of arrays and numbers in .npz files."""

import io
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from mmaccount.records import files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def write(path: str | Path, record: "DataclassInstance", schema: int) -> None:
    """Every field that is not None, and the schema; whole or not at all."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    content = io.BytesIO()
    np.savez(
        content,
        schema=schema,
        **{name: value for name, value in values.items() if value is not None},
    )
    files.write_bytes(path, content.getvalue())


def record(kind: type[T], data: Mapping[str, npt.NDArray[np.generic]], schema: int, name: str) -> T:
    """The record that was written, from what the file holds; `name` is for errors, which are one
    line."""
    values = {key: value if value.ndim else value.item() for key, value in data.items()}
    if (its := values.pop("schema", None)) != schema:
        raise ValueError(f"`schema` of the {name} must be {schema}, got {its}.")
    if unknown := set(values) - {field.name for field in fields(kind)}:
        raise ValueError(f"unknown key `{sorted(unknown)[0]}` in the {name}.")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"bad {name}: {error}") from error
