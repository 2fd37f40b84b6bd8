"""JSON records on disk: whole or not at all."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def fingerprint(data: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of `data` (sorted keys, no spaces, shortest numbers that read
    back the same)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: str | Path, kind: str) -> dict[str, Any]:
    """The JSON object in a file; `kind` names it in errors."""
    try:
        data = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"cannot read {kind} {path}: {error.strerror}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{kind} {path} is not JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{kind} {path} must hold one JSON object.")
    return data


def write(path: str | Path, data: dict[str, Any]) -> None:
    """Replace the file in one move, on disk before this returns: a crash leaves the old file or the
    new one."""
    write_bytes(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the file by this content in one move, on disk before this returns."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    if os.name == "nt":  # Windows has no way to write a folder's entries to disk
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def lock(path: str | Path) -> int:
    """Open a file that only one process, and one opener in it, holds at a time; `unlock` takes what
    this returns.

    Raises:
        BlockingIOError: it is held already.
    """
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(held, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError as error:
        os.close(held)
        raise BlockingIOError(f"{path} is held already.") from error
    return held


def unlock(held: int) -> None:
    """Let others hold the file."""
    os.close(held)
