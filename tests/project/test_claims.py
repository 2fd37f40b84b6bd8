"""docs/claims.md and the docstring of mmaccount.accounting name what exists."""

import ast
import pkgutil
import re
import shlex

import pytest
from conftest import ROOT

import mmaccount.accounting

CLAIMS = (ROOT / "docs" / "claims.md").read_text()
# theorem, functions, tests
ENTRIES = re.findall(
    r"^(\S.*)\n    (`.*`)\n    (`.*`)$", mmaccount.accounting.__doc__, flags=re.MULTILINE
)
ROOMS = {path.stem for path in (ROOT / "mmaccount").iterdir()}
NO_TEST = "**no test**"


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, without heads."""
    lines = [line.strip() for line in text.splitlines()]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line, following in zip(lines, [*lines[1:], ""])
        if line.startswith("|") and not line.startswith("|---") and not following.startswith("|---")
    ]


def quoted(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def resolved(name: str) -> object:
    """What a dotted name stands for; rooms of mmaccount may stand without it."""
    return pkgutil.resolve_name(f"mmaccount.{name}" if name.split(".")[0] in ROOMS else name)


def is_test(name: str) -> bool:
    file, test = name.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def is_command(text: str) -> bool:
    """`make` with a target that exists, `pytest` with a file, `python` with a script or a module."""
    program, *words = shlex.split(text)
    if program == "make":
        return f"\n{words[0]}:" in (ROOT / "Makefile").read_text()
    if words[0] == "-m":
        return pkgutil.resolve_name(words[1]) is not None
    return program in {"python", "pytest"} and (ROOT / words[0]).is_file()


def shown(text: str) -> bool:
    return is_test(text) if "::" in text else is_command(text)


@pytest.mark.parametrize("row", rows(CLAIMS), ids=lambda row: row[0][:60])
def test_every_claim_has_its_function_and_its_test(row):
    claim, basis, where, test = row
    assert claim
    assert basis
    assert quoted(where)
    assert [name for name in quoted(where) if resolved(name) is None] == []
    assert test == NO_TEST or quoted(test)
    assert [name for name in quoted(test) if not shown(name)] == []


@pytest.mark.parametrize(("theorem", "where", "test"), ENTRIES)
def test_every_theorem_has_its_function_and_its_test(theorem, where, test):
    assert [name for name in quoted(where) if resolved(f"accounting.{name}") is None] == []
    assert [name for name in quoted(test) if not is_test(f"accounting/{name}")] == []


THEOREMS = [
    "Theorem 4.1",
    "Corollary 4.1",
    "(S)",
    "(M)",
    "(D)",
    "(F)",
    "AM-GM",
    "Prop. 12",
    "envelope",
]
THEOREMS += [
    "auxiliary",
    "Fourier inversion",
    "closed form",
    "PLD",
    "Neighbours",
    "Couplings",
    "Groups",
]


@pytest.mark.parametrize("theorem", THEOREMS)
def test_no_theorem_is_left_out(theorem):
    assert any(theorem.lower() in entry[0].lower() for entry in ENTRIES)
    table = CLAIMS.split("## The theorems")[1].split("\n## ")[0]
    assert any(theorem.lower() in " ".join(row[:2]).lower() for row in rows(table))


def test_sections_of_readme_that_claim_are_all_there():
    """Every head of README that is followed by claims heads a table too."""
    readme = (ROOT / "README.md").read_text()
    heads = set(re.findall("^## (.*)$", readme, flags=re.MULTILINE)) - {"Citation"}
    assert heads <= set(re.findall("^## (.*)$", CLAIMS, flags=re.MULTILINE))


def test_a_name_that_is_gone_is_noticed():
    with pytest.raises(AttributeError):
        resolved("accounting.accountant.nobody")
    assert not is_test("accounting/test_renyi.py::test_nobody")
    assert not is_command("make nobody")
    assert not is_command("python tests/nobody.py")
