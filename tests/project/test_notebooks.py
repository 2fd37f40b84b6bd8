"""Notebooks run from start to end, use public names only, are stored without output and end with
what they showed."""

import ast

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PATIENCE = 300  # seconds for a cell; a whole notebook takes some 20 on an idle machine


def read(path):
    return nbformat.read(path, as_version=4)


def name(path):
    return path.stem


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_stored_without_output_and_told_to_the_end(path):
    made = read(path)
    nbformat.validate(made)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert made.cells[-1].source.startswith("## What this showed")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_only_public_names(path):
    code = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "code")
    tree = ast.parse(
        "\n".join("" if line.startswith(("!", "%")) else line for line in code.splitlines())
    )
    names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names += [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert not [one for one in names if one.startswith("_")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = NotebookClient(
        read(path), timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    for cell in made.cells:
        if "plots." in cell.source or "plot_advice.figure" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), (
                cell.source
            )


def test_there_are_five():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
