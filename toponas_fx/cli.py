"""The command ``toponas-fx``: ``toponas-fx check package.module:factory`` checks a model of the user's.

What takes seconds to import is imported once it is needed: usage, version and wrong usage are told at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import toponas_fx
from toponas_fx.call_text import parse_arguments
from toponas_fx.errors import ArgumentError, ToponasError

if TYPE_CHECKING:
    from torch import Tensor, nn

_EXAMPLES = """examples:
  toponas-fx check networks:Network --args "16, layers=8, criterion=torch.nn.CrossEntropyLoss()" --input 2,3,32,32
  toponas-fx check path/to/train.py:model --input 2,3,32,32
  toponas-fx check networks:make_small --json > verdict.json

exit codes:
  0  nothing is wrong (the verdict says where that is incomplete)
  1  the simplified model computes something else than yours
  2  nothing was checked: wrong usage, or the model cannot be built, run or simplified
  130  interrupted
"""
_Shape = tuple[str, tuple[int, ...]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; the process's own arguments where None.

    Returns:
        0 where nothing is wrong, 1 where something is; 2 where nothing was checked and 130 where the user interrupted
        it, with one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        return _check(options)
    except ToponasError as error:
        print(f"toponas-fx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("toponas-fx: interrupted", file=sys.stderr)
        return 130


def _check(options: argparse.Namespace) -> int:
    place, _, path = options.target.rpartition(":")
    if not place or not path:
        raise ArgumentError(f"write package.module:factory or path/to/file.py:factory, not {options.target!r}")
    arguments = parse_arguments(options.arguments)

    from toponas_fx.factories import load_model

    model = load_model(place, path, arguments, options.seed)
    args, kwargs = _inputs(options, model)
    verdict = toponas_fx.check(model, args, example_kwargs=kwargs, seed=options.seed, progress=_told())
    print(json.dumps(verdict.as_dict(), indent=2) if options.json else verdict)
    return 0 if verdict.passed else 1


def _inputs(options: argparse.Namespace, model: nn.Module) -> tuple[tuple[Tensor, ...] | None, dict[str, Tensor]]:
    """Return random inputs of the shapes that were asked for, positional ones and those by name."""
    import torch

    from toponas_fx.capture.owners import model_tensors

    generator = torch.Generator().manual_seed(options.seed)
    like = next((tensor for _, tensor in model_tensors(model) if tensor.is_floating_point()), torch.empty(0))
    made = [(name, torch.randn(shape, generator=generator).to(like)) for name, shape in options.input]
    return tuple(x for name, x in made if not name) or None, {name: x for name, x in made if name}


def _shape(text: str) -> _Shape:
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(part) for part in sizes.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1 or math.prod(shape) > 2**40 or (equals and not name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write positive sizes with commas, such as 2,3,32,32")
    return name, shape


def _told() -> Callable[[str], None] | None:
    """Return what tells of the progress on a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda text: print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="toponas-fx", description="A compiler for NAS supernets.", epilog=_EXAMPLES, formatter_class=raw
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {toponas_fx.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "check",
        help="check that a model, simplified, computes what it did; check --help tells more",
        description="Build a model, simplify copies of it in both modes, and compare outputs and gradients.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    command.add_argument(
        "target",
        metavar="package.module:factory",
        help="a class or function that makes the model, or the model itself; found from this directory. A script is "
        "named by its path, train.py:model, and runs up to its `if __name__ == ...`",
    )
    command.add_argument(
        "--args",
        "--kwargs",
        dest="arguments",
        action="append",
        default=[],
        metavar="ARGUMENTS",
        help="what the factory is called with, as one writes it: '16, 10, layers=8, "
        "criterion=torch.nn.CrossEntropyLoss()'. Literals, dotted names, and calls of these",
    )
    command.add_argument(
        "--input",
        action="append",
        default=[],
        type=_shape,
        metavar="SHAPE",
        help="the shape of an input, such as 2,3,32,32, or x=2,3,32,32 for one that forward takes by name; once for "
        "each; inferred unless given",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="of the model's weights, the inputs and all draws: --seed 1"
    )
    command.add_argument("--json", action="store_true", help="write one JSON object instead of text")
    return parser
