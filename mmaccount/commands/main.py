"""The command `mmaccount`.

Exit status: 0 done; 2 bad input, one line on standard error; 1 could not finish, and why;
130 interrupted.

The modules of the commands only describe options when they are loaded: what computes is loaded by
the command that is carried out, so that `--help` is quick.
"""

import argparse
import json
import sys
from typing import NoReturn

from mmaccount.commands import advise, audit, draw, price, train
from mmaccount.commands.run_options import Action
from mmaccount.records.bound import BoundError, Infeasible
from mmaccount.terminal import Status, say_when_compiling

DESCRIPTION = "Price, solve and compare DP-SGD and ModelMix runs."


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from importlib.metadata import version  # only now: it takes long to load

        print(f"mmaccount {version('mmaccount')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mmaccount", description=DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_Parser
    )

    def command(name: str, action: Action, text: str, example: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"Example: mmaccount {name} {example}".rstrip(),
        )
        one.set_defaults(action=action)
        one.add_argument(
            "--json", action="store_true", help="print one JSON object and nothing else"
        )
        return one

    price.add(command)
    train.add(command)
    advise.add(command)
    draw.add(command)
    audit.add(command)
    price.add_reproduce(command)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    say_when_compiling("mmaccount")
    try:
        with Status() as status:
            arguments.progress = status.counted
            data, lines = arguments.action(arguments)
    except (Infeasible, BoundError) as error:
        print(f"mmaccount: {error}", file=sys.stderr)
        return 1
    except (ArithmeticError, MemoryError) as error:
        print(f"mmaccount: too extreme to compute here: {error}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError) as error:
        print(f"mmaccount: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmaccount: interrupted.", file=sys.stderr)
        return 130
    print(json.dumps(data, allow_nan=False) if arguments.json else "\n".join(lines))
    return 0 if data.get("passed", True) else 1
