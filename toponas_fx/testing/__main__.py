"""The command ``python -m toponas_fx.testing mypackage:MyPass``: it asks whether a pass keeps its promises."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from toponas_fx.checking.precision import describe
from toponas_fx.command.factories import load
from toponas_fx.errors import ArgumentError, ToponasError
from toponas_fx.rewriting.pass_base import Pass
from toponas_fx.testing.battery import battery
from toponas_fx.testing.supernets import import_hypothesis

_ABOUT = """Run everything that a pass promises.

  contract   a frozen dataclass with a name, semantics and a stage, whose copies are equal
  example    example() of its module, which returns a module and its input: the rewrite, outputs, gradients, buffers;
             a second run finds nothing; what is done is said in sentences
  supernets  random supernets through the default passes and this one: exact in mode "exact" unless it shares, and
             equal to their reference at every one-hot architecture, in training and in evaluation, in float64
  copies     deepcopy and pickle of the simplified model
"""
_EXAMPLES = """examples:
  python -m toponas_fx.testing mypackage.passes:MyPass
  python -m toponas_fx.testing my_pass.py:MyPass --examples 100 --seed 1
  python -m toponas_fx.testing toponas_fx.passes:Deduplicate

exit codes:
  0  every promise is kept
  1  one is broken
  2  it was not tested: wrong usage, it cannot be imported, or it found nothing to do
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; the process's own arguments where None.

    Returns:
        0 where every promise is kept, 1 where one is broken; 2 where the pass was not tested, and 130 where the user
        interrupted it, with one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        return _test(_loaded(options.target), options.examples, options.seed)
    except ToponasError as error:
        print(f"toponas_fx.testing: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("toponas_fx.testing: interrupted", file=sys.stderr)
        return 130


def _test(pass_: Any, examples: int, seed: int) -> int:
    import_hypothesis()
    name = getattr(pass_, "name", type(pass_).__name__)
    findings = []
    for finding in battery(pass_, examples, seed):
        mark = {True: "ok", False: "WRONG", None: "-"}[finding.passed]
        print(f"{finding.question:<10} {mark:<6} {finding.text}", flush=True)
        findings.append(finding)
    wrong = [finding.question for finding in findings if finding.passed is False]
    if wrong:
        print(f"\nverdict: FAIL: {name} breaks a promise: {', '.join(wrong)}")
        return 1
    if findings[-1].passed is None:
        print(f"\nverdict: NOT TESTED: {name} found nothing to do")
        return 2
    print(f"\nverdict: PASS: {name} keeps its promises")
    return 0


def _loaded(target: str) -> Any:
    place, _, path = target.rpartition(":")
    if not place or not path:
        raise ArgumentError(f"write package.module:MyPass or path/to/file.py:MyPass, not {target!r}")
    found = load(place, path)
    if not isinstance(found, type):
        return found
    if not issubclass(found, Pass):
        raise ArgumentError(f"{target} is no subclass of toponas_fx.rewriting.pass_base.Pass")
    try:
        return found()
    except Exception as error:  # whatever the constructor raises
        raise ArgumentError(f"{target}() fails, name an instance instead: {describe(error)}") from error


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m toponas_fx.testing", description=_ABOUT, epilog=_EXAMPLES, formatter_class=raw
    )
    parser.add_argument(
        "target",
        metavar="package.module:MyPass",
        help="a pass, an instance or a class that takes no arguments; found from this directory. A script is named by "
        "its path, my_pass.py:MyPass",
    )
    parser.add_argument(
        "--examples",
        type=_number,
        default=25,
        metavar="N",
        help="how many random supernets: --examples 100; 25 unless given",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random supernets: --seed 1")
    return parser


if __name__ == "__main__":
    sys.exit(main())
