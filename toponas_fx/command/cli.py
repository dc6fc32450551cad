"""The command ``toponas-fx``: ``check``, ``inspect`` and ``bench`` take a model of the user's.

What takes seconds to import is imported once it is needed: usage, version and wrong usage are told at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import toponas_fx
from toponas_fx.command.bench import add_bench
from toponas_fx.command.check import add_check
from toponas_fx.command.inspect import add_inspect
from toponas_fx.command.options import EXIT_CODES
from toponas_fx.errors import ToponasError

_EXAMPLES = """examples:
  toponas-fx check networks:Network --args "16, layers=8" --input 2,3,32,32
  toponas-fx inspect networks:Network --args "16, layers=8" --input 2,3,32,32 --html picture.html
  toponas-fx bench networks:Network --args "16, layers=8" --input 64,3,32,32

""" + EXIT_CODES.format(
    ok="done; for check: nothing is wrong", one="1  check found something wrong\n  ", failed="nothing was done"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; the process's own arguments where None.

    Returns:
        0 where all is well, 1 where ``check`` found something wrong; 2 where nothing was done and 130 where the user
        interrupted it, with one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        code: int = options.run(options)
    except ToponasError as error:
        print(f"toponas-fx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("toponas-fx: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="toponas-fx",
        description="A compiler for NAS supernets.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {toponas_fx.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (add_check, add_inspect, add_bench):
        add(commands)
    return parser
