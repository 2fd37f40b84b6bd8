"""What was measured on held-out data during a run: `metrics.jsonl`, one JSON object a line."""

import json
from pathlib import Path
from sys import float_info

FILE_NAME = "metrics.jsonl"
NUMBERS = ("step", "epsilon", "accuracy")  # that every row holds
LARGEST_NUMBER = float_info.max


def add(folder: Path, row: dict[str, float]) -> None:
    """Append a row to the metrics of the run in `folder`."""
    with (folder / FILE_NAME).open("a") as file:
        file.write(json.dumps(row) + "\n")


def load(folder: Path) -> list[dict[str, float]]:
    """The rows that hold the numbers a curve needs; others (a last line cut short by a crash) are
    left out. No file: no rows."""
    path = folder / FILE_NAME
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [row for row in map(_parsed, lines) if row is not None]


def _parsed(line: str) -> dict[str, float] | None:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        return None
    if not isinstance(row, dict) or any(number(row.get(name)) is None for name in NUMBERS):
        return None
    return row


def number(value: object) -> float | None:
    """The value as a float if it is a finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -LARGEST_NUMBER <= value <= LARGEST_NUMBER else None
