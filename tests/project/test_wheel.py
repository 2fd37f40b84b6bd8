"""A wheel, installed without the checkout beside it, does what README promises."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = ["--sample-rate", "0.01", "--steps", "10000", "--noise-multiplier", "1", "--delta", "1e-5"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("mmaccount", "trainer"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(made),
    ]
    subprocess.run([*command, str(source)], check=True)
    return next(made.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Runs this interpreter with the installed wheel and the packages it needs, without the
    checkout."""
    site, away = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("away")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        "--target",
        str(site),
    ]
    subprocess.run([*command, str(wheel)], check=True)
    where = os.pathsep.join(
        [str(site), sysconfig.get_path("purelib")]
    )  # files *.pth, so the checkout, are read elsewhere
    environment = os.environ | {"PYTHONPATH": where, "PYTHONWARNINGS": "error"}

    def run(*words):
        command = [sys._base_executable, *words]
        return subprocess.run(
            command, cwd=away, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    for package in ("mmaccount", "trainer"):
        assert Path(
            run("-c", f"import {package}; print({package}.__file__)").strip()
        ).is_relative_to(site)
    return run


def test_it_holds_the_packages_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"mmaccount", "trainer"}
    python = {
        str(path.relative_to(ROOT))
        for name in ("mmaccount", "trainer")
        for path in (ROOT / name).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == python
    assert "mmaccount/py.typed" in names
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "mmaccount = mmaccount.commands.main:main" in zipfile.ZipFile(wheel).read(entry).decode()


def test_it_prices_plans_and_trains(python):
    assert "epsilon <= 6.18772" in python("-m", "mmaccount", "epsilon", *RUN)
    plan = [
        "--dataset-size",
        "1437",
        "--batch-size",
        "144",
        "--steps",
        "3",
        "--noise-multiplier",
        "2",
        "--clip-norm",
        "1",
    ]
    python(
        "-m",
        "mmaccount",
        "plan",
        *plan,
        "--learning-rate",
        "0.5",
        "--delta",
        "1e-4",
        "--out",
        "plan.json",
    )
    assert "held-out accuracy" in python(
        "-m", "trainer", "--plan", "plan.json", "--data", "digits", "--out", "run"
    )
    assert "epsilon <=" in python("-m", "mmaccount", "spent", "run/ledger.json")
    python("-m", "mmaccount", "report", "run", "--out", "run/report.html")
