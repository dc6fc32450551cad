"""The command ``toponas-fx``: ``toponas-fx check package.module:factory`` checks a model of the user's."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.owners import model_tensors
from toponas_fx.check import check
from toponas_fx.comparison import seed_all
from toponas_fx.errors import ArgumentError, ToponasError
from toponas_fx.precision import describe

_CODES = """exit codes:
  0  nothing is wrong (the verdict says where that is incomplete)
  1  the simplified model computes something else than yours
  2  nothing was checked: wrong usage, or the model cannot be built, run or simplified
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows the command's name; the process's own arguments where None.

    Returns:
        0 where nothing is wrong, 1 where something is; 2 where nothing was checked, with one sentence on stderr.
    """
    options = _parser().parse_args(arguments)
    if sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        model = load_model(options.target, options.seed)
        verdict = check(model, _inputs(options, model), seed=options.seed, progress=_told())
    except ToponasError as error:
        print(f"toponas-fx: error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(verdict.as_dict(), indent=2) if options.json else verdict)
    return 0 if verdict.passed else 1


def load_model(target: str, seed: int) -> nn.Module:
    """Import what ``package.module:factory`` names and make a model by it.

    Args:
        target: a module, a colon, and a dotted path to a model or to what returns one when called without arguments.
        seed: of the generators when the model is made.

    Raises:
        ArgumentError: there is no such thing, it needs arguments, it fails, or what it makes is no ``nn.Module``.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise ArgumentError(f"write package.module:factory, not {target!r}")
    seed_all(seed)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ArgumentError(f"there is no module {error.name!r} here or among the installed ones") from error
        raise ArgumentError(f"importing {module_name} fails: {describe(error)}") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise ArgumentError(f"importing {module_name} fails: {describe(error)}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ArgumentError(f"{module_name} has no attribute {path!r}")
        found = getattr(found, name)
    model = found if isinstance(found, nn.Module) else _made_by(found, target)
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"{target} gives a {type(model).__name__}, not a torch.nn.Module")
    return model


def _made_by(factory: Any, target: str) -> Any:
    if not callable(factory):
        raise ArgumentError(f"{target} is of type {type(factory).__name__}: neither a torch.nn.Module nor callable")
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # builtins have none
        parameters = ()  # type: ignore[assignment]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    if needed:
        raise ArgumentError(f"{target} needs {', '.join(needed)}: name a function without arguments that calls it")
    try:
        return factory()
    except Exception as error:  # whatever the user's constructor raises
        raise ArgumentError(f"{target}() fails: {describe(error)}") from error


def _inputs(options: argparse.Namespace, model: nn.Module) -> tuple[Tensor, ...] | None:
    """Return random inputs of the shapes that were asked for; None where none was."""
    if not options.input:
        return None
    generator = torch.Generator().manual_seed(options.seed)
    found = tuple(torch.randn(shape, generator=generator) for shape in options.input)
    like = next((tensor for _, tensor in model_tensors(model) if tensor.is_floating_point()), torch.empty(0))
    return tuple(tensor.to(like) for tensor in found)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1 or math.prod(shape) > 2**40:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write positive sizes with commas, such as 2,3,32,32")
    return shape


def _told() -> Callable[[str], None] | None:
    """Return what tells of the progress on a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda text: print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="toponas-fx", description="A compiler for NAS supernets.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "check",
        help="check that a model, simplified, computes what it did",
        description="Build a model, simplify copies of it in both modes, and compare outputs and gradients.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "target",
        metavar="package.module:factory",
        help="a class or function that makes the model without arguments, or the model; found from this directory",
    )
    command.add_argument(
        "--input",
        action="append",
        type=_shape,
        metavar="SHAPE",
        help="the shape of an input, such as 2,3,32,32; once for each argument of forward; inferred unless given",
    )
    command.add_argument("--seed", type=int, default=0, help="of the model's weights, the inputs and all draws")
    command.add_argument("--json", action="store_true", help="write one JSON object instead of text")
    return parser
