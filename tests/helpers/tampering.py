"""What both checkers of certificates have to stand: changed certificates, and life without the rest
of the package."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

Check = Callable[[str], tuple[int, str]]


def as_read(made: dict) -> dict:
    return json.loads(json.dumps(made), parse_float=Fraction)


def status_of(check: Check, made: dict, folder: Path) -> int:
    path = folder / "certificate.json"
    path.write_text(json.dumps(made))
    return check(str(path))[0]


def leaves(data, path=()):
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    found = [leaf for key, value in items for leaf in leaves(value, (*path, key))]
    return found or [path]


def tampered(made: dict, path, value) -> dict:
    made = copy.deepcopy(made)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


def see_every_change(
    check: Check, made: dict, changed: Callable[[object], list], folder: Path
) -> None:
    """Assert that the certificate holds, and not with any leaf changed, or the part around it left
    out."""
    assert status_of(check, made, folder) == 0
    for path in leaves(made):
        value = made
        for key in path:
            value = value[key]
        for other in (other for other in changed(value) if other != value):
            assert status_of(check, tampered(made, path, other), folder) in (1, 2), (path, other)
        assert (
            status_of(check, tampered(made, path[:-1], {}), folder) in (1, 2)
            if len(path) > 1
            else True
        )


def run_alone(checker: Path, made: dict, folder: Path) -> str:
    """Run a checker as a file, where only mpmath can be imported; returns what it prints."""
    path = folder / "certificate.json"
    path.write_text(json.dumps(made))
    block = (
        "import runpy, sys\n"
        "for name in ('numpy', 'scipy', 'numba', 'matplotlib', 'torch', 'flint', 'mmaccount'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = [{checker.name!r}, {str(path)!r}]\n"
        f"runpy.run_path({str(checker)!r}, run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", block], capture_output=True, text=True, cwd=folder, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
