"""One meaning a name, and docstrings that can be read alone."""

import ast
import inspect
import re
from collections import Counter

import pytest
from conftest import ROOT

import mmaccount as mm
import trainer

# Constants of several modules that bound the same in each, most of them by another value.
SHARED = {
    "CELL_WIDTH",
    "CHERNOFF_FACTORS",
    "COLUMNS_AT_ONCE",
    "EPSILON_TOLERANCE",
    "FUSED",
    "GOOD_RELATIVE_WIDTH",
    "HIGHEST_FREQUENCY",
    "INVERSION_TILTS",
    "LOG_ACCURACY",
    "MOST_POINTS",
    "NODES",
    "POINTS_PER_STD",
    "RETRY_BELOW",
    "SCHEMA",
    "SHARED_UP_TO",
    "SHIFT_LOG_RATIO",
    "SMALL_SHIFT",
    "SMOOTHING",
    "WEIGHTS",
    "WINDOW",
}
# Each checker of certificates is one file that imports nothing of the package.
ALONE = {"verify_plain.py", "verify_renyi.py"}
# Words that need something before them.
UNCLEAR = re.compile(r"(The same|As|Of|Also|Its|Likewise|Attributes|Args)\b")


def trees():
    for package in ("mmaccount", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.name not in ALONE:
                yield ast.parse(path.read_text())


def constants(tree):
    targets = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    names = {name.id for target in targets for name in ast.walk(target) if hasattr(name, "id")}
    return {name for name in names if re.fullmatch("[A-Z][A-Z0-9_]+", name)}


def test_a_constant_of_several_modules_means_the_same_in_each():
    counted = Counter(name for tree in trees() for name in constants(tree))
    assert {name for name, count in counted.items() if count > 1} == SHARED


def test_no_two_modules_have_a_class_of_one_name():
    classes = Counter(
        node.name
        for tree in trees()
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in classes.items() if count > 1] == []


def documented():
    """(name, docstring) of every public function, class and method."""
    public = {f"mmaccount.{name}": getattr(mm, name) for name in mm.__all__}
    public |= {f"trainer.{name}": getattr(trainer, name) for name in trainer.__all__}
    for name, what in public.items():
        if not callable(what):
            continue
        yield name, what.__doc__
        members = vars(what) if inspect.isclass(what) else {}
        for key, member in members.items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if not key.startswith("_") and inspect.isfunction(function):
                yield f"{name}.{key}", function.__doc__


@pytest.mark.parametrize(("name", "text"), [*documented()])
def test_help_begins_with_a_sentence_of_its_own(name, text):
    first = inspect.cleandoc(text or "").split("\n\n")[0]
    assert len(first) > 10
    assert not UNCLEAR.match(first)
