"""Imports point one way, and `import mmaccount` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "mmaccount"
ROOMS = [  # each may import from those above it, and from itself
    {"records"},
    {"kernels"},
    {"terminal"},
    {"accounting"},
    {"analysis", "certificates", "dp_events", "opacus_accountant"},
    {"advice"},
    {"plots"},
    {"reporting"},
    {"commands"},
    {"__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
CHECKERS = (
    "verify_renyi.py",
    "verify_plain.py",
)  # of certificates: mpmath alone, and nothing of ours


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> list[str]:
    """Every module a file imports, inside functions too; relative imports are refused by ruff's
    style here."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            if node.module.split(".")[0] in (
                "mmaccount",
                "trainer",
            ):  # what is imported may be a module, or in one
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module not in ("mmaccount", "trainer"):
                names.append(node.module)
    return names


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_one_way(path):
    here = room(path)
    assert here in LEVEL, f"{here} is no room: add it to ROOMS and to CONTRIBUTING.md"
    for name in imported(path):
        assert not name.startswith("trainer")
        if name.startswith("mmaccount."):
            there = name.split(".")[1]
            assert path.name not in CHECKERS
            assert there == here or LEVEL[there] < LEVEL[here], f"{here} must not import {there}"
        elif here == "records":
            assert name.split(".")[0] in sys.stdlib_module_names, (
                f"{path.name}: records need the standard library only"
            )
        elif path.name in CHECKERS:
            assert name.split(".")[0] in {*sys.stdlib_module_names, "mpmath"}


SEES = {  # what modules of the trainer may import besides the records
    "probe.py": {"mmaccount.advice"},
    "battery.py": {"mmaccount.analysis"},
    "__main__.py": {"mmaccount.terminal"},
}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "trainer").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_the_trainer_sees_only_records(path):
    """No module but trainer/pricing.py may ask an accountant; the mechanism knows nothing but the
    plan."""
    if path.name == "pricing.py":
        return
    names = imported(path)
    rooms = {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] == "mmaccount"}
    assert rooms <= {"mmaccount.records"} | SEES.get(path.name, set())
    if path.name == "mechanism.py":
        assert {name for name in names if name.startswith("mmaccount")} <= {
            "mmaccount.records.plan",
            "mmaccount.records.plan.Phase",
            "mmaccount.records.plan.Plan",
        }
        assert not any(name.startswith("trainer") for name in names)


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_imports_itself_on_a_detour():
    """Imports inside functions count: such a circle breaks as soon as one of them moves to the top
    of its file."""
    files = {
        module(path): path
        for name in ("mmaccount", "trainer")
        for path in (ROOT / name).rglob("*.py")
    }
    left = {
        name: {other for other in imported(path) if other in files} - {name}
        for name, path in files.items()
    }
    while left:
        ready = {name for name, needed in left.items() if not needed & left.keys()}
        assert ready, f"a circle goes through some of {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in ready}


def test_contributing_shows_the_same_rooms():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    shown = [{name.strip("` ") for name in row.split("|")[1].split(",")} for row in rows]
    assert shown == [names - {"__init__"} for names in ROOMS]


@pytest.mark.parametrize("statement", ["import mmaccount", "from mmaccount import Settings, Bound"])
def test_import_is_light(statement):
    heavy = ["torch", "numba", "matplotlib", "scipy", "numpy"]
    code = f"{statement}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_and_ledger_load_without_torch(tmp_path):
    code = (
        "from mmaccount import Ledger, LedgerFile, Phase, Plan; import sys;"
        "phase = Phase(steps=1, noise_multiplier=1, clip_norm=1, learning_rate=1);"
        "plan = Plan(dataset_size=9, sample_rate=1, batch_size=9, phases=(phase,), delta=.1);"
        "plan.save('plan.json'); LedgerFile('ledger.json', Plan.load('plan.json')).charge(1);"
        "assert Ledger.load('ledger.json').charged == 1;"
        "print([name for name in ('torch', 'numba', 'matplotlib', 'scipy', 'numpy') if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def test_pricing_loads_neither_torch_nor_matplotlib():
    code = (
        "import mmaccount as mm, sys; mm.epsilon(mm.Settings(sample_rate=0.1, steps=1, "
        "noise_multiplier=1), delta=1e-5);"
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_all_there_and_unknown_ones_are_not():
    import mmaccount

    for name in mmaccount.__all__:
        assert getattr(mmaccount, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmaccount.nothing


def test_public_names_are_seen_before_they_are_loaded():
    code = "import mmaccount; print(' '.join(dir(mmaccount)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    import mmaccount

    assert set(mmaccount.__all__) <= set(done.stdout.split())


def test_help_lists_the_public_functions():
    import pydoc

    import mmaccount

    shown = pydoc.render_doc(mmaccount, renderer=pydoc.plaintext)
    functions, classes = shown.split("FUNCTIONS")[1], shown.split("CLASSES")[1]
    assert "epsilon(settings" in functions
    assert "solve(" in functions
    assert "class Settings" in classes
    assert f"VERSION\n    {mmaccount.__version__}" in shown


def test_the_version_is_that_of_the_distribution():
    import importlib.metadata

    import mmaccount

    assert importlib.metadata.version("mmaccount") == mmaccount.__version__
