"""Shared by all tests."""

import json
import os
from pathlib import Path

# pytest-xdist starts a process a core: threads of theirs would only wait for each other. Libraries
# read this when they are loaded, which is later.
if "PYTEST_XDIST_WORKER" in os.environ:
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


import hypothesis
import pytest

from mmaccount import Settings

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "mmaccount" / "kernels"


def pytest_configure() -> None:
    """Drop compiled kernels that are older than any kernel source: numba only compares each file
    with itself."""
    newest = max(source.stat().st_mtime for source in KERNELS.glob("*.py"))
    for compiled in (KERNELS / "__pycache__").glob("*.nb?"):
        if compiled.stat().st_mtime < newest:
            compiled.unlink()


@pytest.fixture(autouse=True)
def unannounced(monkeypatch):
    """Commands say on standard error when they compile; which test does so first must not matter."""
    monkeypatch.setattr("mmaccount.terminal.before_compiling", lambda tell: None)


def table(name: str) -> list[dict]:
    """The rows of a reference table."""
    return json.loads((ROOT / "tests" / "reference" / f"{name}.json").read_text())["values"]


@pytest.fixture
def resnet() -> Settings:
    """The paper's Resnet-20 run on CIFAR-10."""
    return Settings(
        sample_rate=0.03, steps=3400, noise_multiplier=0.335, mixing=11.25, truncation=100
    )


@pytest.fixture
def plain() -> Settings:
    """A common DP-SGD run."""
    return Settings(sample_rate=0.01, steps=10_000, noise_multiplier=1.0)
