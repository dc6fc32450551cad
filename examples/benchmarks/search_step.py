"""Compare what a search step costs on a supernet as written, simplified, compiled, and on what else would be cheaper.

A step is forward, loss and backward over one random batch; weights and architecture weights get gradients. All rows
take their steps in turn in one process, and ratios are medians over the rounds, so that they hold on a busy machine.

    python examples/benchmarks/search_step.py
    python examples/benchmarks/search_step.py --space darts --compile --memory --json darts.json --markdown
    python examples/benchmarks/search_step.py --rows untouched share single-3x3 --repeats 30
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
from benchmarks.peak_memory import growth_in_subprocess, print_growth
from benchmarks.results import Result, Results
from benchmarks.rows import COMPILED, SPACES, Prepared, Row, Size, ablation_rows, prepare, without_gradient
from benchmarks.size_options import add_size_options, size_of
from benchmarks.steps import Batch, dispatcher_calls, seeded_saved_bytes, step_seconds, trained_tensors
from search_options import positive
from toponas_fx.analysis.costs import flops

WARM_UP = 1
"""Rounds that are run and not counted, after each row's first step."""


@dataclass
class Runner:
    """A row that takes steps until it fails."""

    result: Result
    ready: Prepared | None = None

    def start(self, size: Size) -> None:
        """Prepare the row, take its first step, and count what does not depend on time."""
        row, result = self.result.row, self.result
        ready = prepare(row, size)
        result.simplify_seconds, result.notes = ready.simplify_seconds, ready.notes
        result.parameters = sum(tensor.numel() for tensor in trained_tensors(ready.model))
        with _fresh_cache() if row.compiled else nullcontext():
            first = step_seconds(ready.model, ready.batch, 0)
        if missing := without_gradient(ready.model):
            raise RuntimeError(f"the step gives no gradient to {missing}")
        if row.compiled:
            result.compile_seconds = first - step_seconds(ready.model, ready.batch, 0)
        result.saved_bytes = seeded_saved_bytes(ready.model, ready.batch.images)
        result.flops = flops(ready.model, ready.batch.images)  # torch runs a compiled model uncompiled for this
        result.dispatcher_calls = dispatcher_calls(ready.model, ready.batch)
        self.ready = ready

    def step(self, number: int) -> None:
        """Take the step of a round; those below 0 do not count."""
        if self.ready is None:
            return
        try:
            seconds = step_seconds(self.ready.model, self.ready.batch, number + WARM_UP)
        except Exception as error:
            self.drop(error)
            return
        if number >= 0:
            self.result.seconds.append(seconds)

    def drop(self, error: Exception) -> None:
        """Take no more steps."""
        self.result.fail(error)
        self.ready = None


def measure(rows: Sequence[Row], size: Size, repeats: int) -> Results:
    """Let the rows take their steps in turn; a row that raises is left out from there on."""
    if any(row.compiled for row in rows):
        _start_inductor(size)
    runners = [Runner(Result(row)) for row in rows]
    for runner in runners:
        try:
            runner.start(size)
        except Exception as error:  # whatever a row's own code raises is that row's result
            runner.drop(error)
    for number in range(-WARM_UP, repeats):
        # A step finds caches and heap as the one before left them: backwards every other round.
        for runner in runners if number % 2 == 0 else reversed(runners):
            runner.step(number)
    return Results(size, [runner.result for runner in runners])


def measure_memory(results: Results) -> None:
    """Add the peak memory of each row that works, from a process of its own."""
    for result in results.rows:
        if result.error is None:
            options = _options(result.row, results.size)
            try:
                growth = growth_in_subprocess(Path(__file__), options)
            except Exception as error:
                result.notes += (f"no peak memory: {error}",)
            else:
                result.peak_bytes, result.whole_bytes = growth.steps, growth.whole


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the JSON."""
    parser = _parser()
    args = parser.parse_args(argv)
    size = size_of(parser, args)
    rows = ablation_rows() if args.ablation else chosen_rows(parser, size, args.rows, args.compile)
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json: there is no folder {args.json.parent} to write to")
    if args.growth:
        print_growth(rows[0], size)
        return
    results = measure(rows, size, args.repeats)
    if args.memory:
        measure_memory(results)
    table = results.table()
    if args.markdown:
        print(table.markdown())
    else:
        table.show()
    if args.json:
        contents = {**results.contents(), "repeats": args.repeats}
        args.json.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_size_options(parser)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="which (all that are not compiled)")
    parser.add_argument("--ablation", action="store_true", help="other rows: share without each of its passes")
    parser.add_argument("--compile", action="store_true", help="the rows under torch.compile too, minutes each")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each row in a process of its own")
    parser.add_argument("--repeats", type=positive, default=11, help="rounds (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write settings, machine and numbers there")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--growth", action="store_true", help=argparse.SUPPRESS)  # in the process of a row's own
    return parser


def chosen_rows(
    parser: argparse.ArgumentParser, size: Size, names: Sequence[str] | None, compiled: bool = False
) -> list[Row]:
    """Return the named rows in the table's order, and what each is under `torch.compile` where that is wanted.

    Without names it is all that are not compiled, or all. An unknown name ends the program with one sentence.
    """
    known = SPACES[size.space].rows()
    if names is None:
        return [row for row in known if compiled or not row.compiled]
    if unknown := set(names) - {row.name for row in known}:
        names_known = ", ".join(row.name for row in known)
        parser.error(f"--rows: {size.space} has no {', '.join(sorted(unknown))}; it has {names_known}")
    asked = {*names, *(f"{name}{COMPILED}" for name in names if compiled)}
    return [row for row in known if row.name in asked]


def _options(row: Row, size: Size) -> list[str]:
    """Return the options that make this script measure the memory of one row."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(size).items()]
    return [*options, "--rows", row.name, f"--threads={torch.get_num_threads()}", "--growth"]


def _start_inductor(size: Size) -> None:
    """Compile something small, so that no row's seconds hold what a process does once."""
    batch = Batch.random(2, 8, size.device)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    model.to(size.device).compile(dynamic=False)
    with _fresh_cache():
        nn.functional.cross_entropy(model(batch.images), batch.targets).backward()


def _fresh_cache() -> AbstractContextManager[None]:
    """Let inductor find nothing that an earlier row, or run, has compiled."""
    from torch._inductor.utils import fresh_cache

    return fresh_cache()


if __name__ == "__main__":
    main()
