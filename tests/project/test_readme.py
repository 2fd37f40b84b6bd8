"""What README shows is what the commands print. (Its Python blocks run as doctests.)"""

import re
import shlex

import pytest
from conftest import ROOT

from mmaccount.commands import main

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n\$ mmaccount (.*?)\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize(("command", "shown"), BLOCKS, ids=lambda text: text[:20])
def test_console_blocks(command, shown, capsys):
    main.main(shlex.split(command))
    out, err = capsys.readouterr()
    assert out + err == shown


def test_there_are_console_blocks_and_the_commands_of_make_exist():
    assert len(BLOCKS) >= 3
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)|`make (\w+)`", README, flags=re.MULTILINE):
        assert f"\n{target[0] or target[1]}:" in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_it_is_short():
    assert len(README) <= 150 * 80  # lines of usual length
