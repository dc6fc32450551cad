"""The command ``toponas-fx check``: whether a model, simplified, computes what it did."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import toponas_fx
from toponas_fx.command.options import EXIT_CODES, add_command, load_subject

EXAMPLES = """examples:
  toponas-fx check networks:Network --args "16, layers=8, criterion=torch.nn.CrossEntropyLoss()" --input 2,3,32,32
  toponas-fx check path/to/train.py:model --input 2,3,32,32
  toponas-fx check networks:make_small --json > verdict.json

""" + EXIT_CODES.format(
    ok="nothing is wrong (the verdict says where that is incomplete)",
    one="1  the simplified model computes something else than yours\n  ",
    failed="nothing was checked",
)


def add_check(commands: Any) -> None:
    """Add the command."""
    told = "check that a model, simplified, computes what it did"
    description = "Build a model, simplify copies of it in both modes, and compare outputs and gradients."
    add_command(commands, "check", told, description, EXAMPLES).set_defaults(run=run_check)


def run_check(options: argparse.Namespace) -> int:
    """Check a model, print the verdict, and return the exit code."""
    subject = load_subject(options)
    verdict = toponas_fx.check(
        subject.model, subject.args, example_kwargs=subject.kwargs, seed=options.seed, progress=_told()
    )
    print(json.dumps(verdict.as_dict(), indent=2) if options.json else verdict)
    return 0 if verdict.passed else 1


def _told() -> Callable[[str], None] | None:
    """Return what tells of the progress on a terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda text: print(f"\r{text:<40}\r", end="", file=sys.stderr, flush=True)
