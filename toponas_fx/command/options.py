"""What the commands have in common: how a model is named and built, and what it is run with.

Nothing here imports torch before it is needed: usage and wrong usage are told at once.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toponas_fx.command.call_text import parse_arguments
from toponas_fx.errors import ArgumentError, InputError, ToponasError

if TYPE_CHECKING:
    from torch import Tensor, nn

TARGET = "package.module:factory"
EXIT_CODES = """exit codes:
  0  {ok}
  {one}2  {failed}: wrong usage, or the model cannot be built, run or simplified
  130  interrupted
"""
_Shape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Subject:
    """What a command is about.

    Attributes:
        model: the user's model.
        args: forward's positional arguments, or None where they are to be inferred.
        kwargs: those by name.
    """

    model: nn.Module
    args: tuple[Tensor, ...] | None
    kwargs: dict[str, Tensor]


def add_model_options(command: argparse.ArgumentParser) -> None:
    """Add the options that name a model and its inputs."""
    command.add_argument(
        "target",
        metavar=TARGET,
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


def add_mode_option(command: argparse.ArgumentParser) -> None:
    """Add the mode of ``simplify``."""
    text = "share shares modules between candidate operations, exact keeps the function (%(default)s)"
    command.add_argument("--mode", choices=("share", "exact"), default="share", help=text)


def load_subject(options: argparse.Namespace) -> Subject:
    """Build the model that the options name, and random inputs of the shapes that they give.

    Raises:
        ArgumentError: the options name no model.
    """
    place, _, path = options.target.rpartition(":")
    if not place or not path:
        raise ArgumentError(f"write {TARGET} or path/to/file.py:factory, not {options.target!r}")
    arguments = parse_arguments(options.arguments)

    from toponas_fx.command.factories import load_model

    model = load_model(place, path, arguments, options.seed)
    return Subject(model, *_inputs(options, model))


@contextmanager
def forward_errors_told(subject: Subject) -> Iterator[None]:
    """Turn what the model's own forward raises into one sentence; warnings of ``simplify`` are notes of its report.

    Raises:
        InputError: forward fails on the inputs that were given.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ToponasError:
        raise
    except Exception as error:
        given = [*(subject.args or ()), *subject.kwargs.values()]
        shapes = ", ".join(str(tuple(x.shape)) for x in given)
        text = " ".join(str(error).split())
        raise InputError(f"forward fails on inputs of shape {shapes}: {type(error).__name__}: {text}") from error


def is_terminal() -> bool:
    """Return whether a person reads what is printed."""
    return sys.stdout.isatty()


def _inputs(options: argparse.Namespace, model: nn.Module) -> tuple[tuple[Tensor, ...] | None, dict[str, Tensor]]:
    """Return random inputs of the shapes that were asked for, positional ones and those by name."""
    import torch

    from toponas_fx.module_tree.tensor_paths import model_tensors

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


def add_command(commands: Any, name: str, told: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Add a command with its help.

    Args:
        commands: what ``add_subparsers`` returned.
        name: of the command.
        told: one line on it.
        description: what it does.
        examples: examples and exit codes.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=f"{told}; {name} --help tells more",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_options(parser)
    return parser
