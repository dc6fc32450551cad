"""The command ``toponas-fx inspect``: what simplification does to a model."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import toponas_fx
from toponas_fx.command.options import (
    EXIT_CODES,
    add_command,
    add_mode_option,
    forward_errors_told,
    is_terminal,
    load_subject,
)
from toponas_fx.errors import ArgumentError

EXAMPLES = """examples:
  toponas-fx inspect networks:Network --args "16, layers=8" --input 2,3,32,32
  toponas-fx inspect path/to/train.py:model --input 2,3,32,32 --html picture.html
  toponas-fx inspect networks:make_small --details
  toponas-fx inspect networks:make_small --json > report.json

""" + EXIT_CODES.format(ok="the report was written", one="", failed="nothing was inspected")


def add_inspect(commands: Any) -> None:
    """Add the command."""
    told = "report what simplification does to a model, with a picture if wanted"
    description = "Build a model, simplify it, and print what was gained, what its edges became and what was refused."
    command = add_command(commands, "inspect", told, description, EXAMPLES)
    add_mode_option(command)
    command.add_argument("--html", metavar="PATH", help="draw the model there too, a page to open: --html picture.html")
    command.add_argument("--details", action="store_true", help="list every candidate operation, change and refusal")
    command.set_defaults(run=run_inspect)


def run_inspect(options: argparse.Namespace) -> int:
    """Simplify a model, print its report, draw it where asked to, and return the exit code."""
    subject = load_subject(options)
    with forward_errors_told(subject):
        args, kwargs = subject.args, subject.kwargs
        fast = toponas_fx.simplify(subject.model, args, example_kwargs=kwargs, mode=options.mode)
        report = toponas_fx.inspection(fast).report
    if options.html is not None:
        try:
            toponas_fx.draw(fast, options.html)
        except OSError as error:
            raise ArgumentError(f"--html {options.html}: {error.strerror or error}") from error
    if options.json:
        print(report.to_json())
    elif options.details:
        print(report.details())
    elif is_terminal() and find_spec("rich") is not None:
        import_module("rich").print(report)
    else:
        print(report)
    return 0
