"""The command ``toponas-fx bench``: what a step of a model costs, simplified and as written."""

from __future__ import annotations

import argparse
import json
from typing import Any

from toponas_fx.command.options import EXIT_CODES, add_command, add_mode_option, forward_errors_told, load_subject

EXAMPLES = """examples:
  toponas-fx bench networks:Network --args "16, layers=8" --input 64,3,32,32
  toponas-fx bench path/to/train.py:model --input 64,3,32,32 --rounds 30
  toponas-fx bench networks:make_small --mode exact --json > costs.json

""" + EXIT_CODES.format(ok="the costs were measured", one="", failed="nothing was measured")


def add_bench(commands: Any) -> None:
    """Add the command."""
    told = "measure a step of a model, simplified beside the original in both memory layouts"
    description = (
        "Build a model and let it, the same in channels-last layout and the simplified one take forward and backward\n"
        "steps in turn: time, bytes saved for backward, peak memory, and ratios."
    )
    command = add_command(commands, "bench", told, description, EXAMPLES)
    add_mode_option(command)
    command.add_argument("--rounds", type=_positive, default=11, help="steps of each that count (%(default)s)")
    command.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """Measure a model, print the costs, and return the exit code."""
    subject = load_subject(options)

    from toponas_fx.checking.bench import bench

    with forward_errors_told(subject):
        args, kwargs = subject.args, subject.kwargs
        found = bench(subject.model, args, example_kwargs=kwargs, mode=options.mode, rounds=options.rounds)
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)
