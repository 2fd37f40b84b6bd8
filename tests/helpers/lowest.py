"""Prints the lowest versions that pyproject.toml promises to work with, as requirements for pip."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
print("\n".join(promise.replace(">=", "==") for promise in project["dependencies"]))
