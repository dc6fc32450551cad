"""Compare what a search step costs on a supernet as written, simplified, compiled, and on what else would be cheaper.

A step is forward, loss and backward over one random batch; weights and architecture weights get gradients. All rows
take their steps in turn in one process, and ratios are medians over the rounds, so that they hold on a busy machine.

In gdas-nasbench201, gdas-darts and spos-mobile a step computes one path, and a round's seed draws it, the same for all
rows. What a step costs depends on its path, so that ratios pair steps of the same path: once as the median over the
rounds, as in the other spaces, and once as the ratio of the rounds' sums, in which long paths count more, and so does
what a path costs once, when it is new. Saved bytes, FLOPs and dispatcher calls are means over the same paths.

    python examples/benchmarks/search_step.py
    python examples/benchmarks/search_step.py --space darts --compile --memory --json darts.json --markdown
    python examples/benchmarks/search_step.py --rows untouched share single-3x3 --repeats 30
    python examples/benchmarks/search_step.py --space gdas-darts --rows untouched untouched-channels-last share
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
from benchmarks.rows import Prepared, ablation_rows, prepare, without_gradient
from benchmarks.size_options import add_size_options, size_of
from benchmarks.spaces import COMPILED, SPACES, Row, Size
from benchmarks.steps import Batch, Counts, step, step_seconds, trained_tensors
from search_options import positive


@dataclass
class Runner:
    """A row that takes steps until it fails."""

    result: Result
    ready: Prepared | None = None

    def start(self, size: Size) -> None:
        """Prepare the row and take its first step."""
        row, result = self.result.row, self.result
        ready = prepare(row, size)
        result.simplify_seconds, result.notes = ready.simplify_seconds, ready.notes
        result.parameters = sum(tensor.numel() for tensor in trained_tensors(ready.model))
        with _fresh_cache() if row.compiled else nullcontext():
            first = step_seconds(ready.model, ready.batch, 0)
        if missing := without_gradient(ready.model, sampled=SPACES[size.space].sampled):
            raise RuntimeError(f"the step gives no gradient to {missing}")
        if row.compiled:
            result.compile_seconds = first - step_seconds(ready.model, ready.batch, 0)
        self.ready = ready

    def step(self, seed: int, *, is_timed: bool = True) -> None:
        """Take the step of a round."""
        if self.ready is None:
            return
        try:
            seconds = step_seconds(self.ready.model, self.ready.batch, seed)
        except Exception as error:
            self.drop(error)
            return
        if is_timed:
            self.result.seconds.append(seconds)

    def count(self, seeds: Sequence[int]) -> None:
        """Count what does not depend on time, in steps of some seeds."""
        if self.ready is None:
            return
        try:
            counts = Counts.of(self.ready.model, self.ready.batch, seeds)
        except Exception as error:
            self.drop(error)
            return
        for name, value in asdict(counts).items():
            setattr(self.result, name, value)

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
    space = SPACES[size.space]
    seeds = range(space.warm_up + repeats)
    for seed in seeds:
        # A step finds caches and heap as the one before left them: backwards every other round.
        for runner in runners if seed % 2 == 0 else reversed(runners):
            runner.step(seed, is_timed=seed >= space.warm_up)
    for runner in runners:  # behind all rounds, so that no path was run before its round
        runner.count(seeds[space.warm_up :] if space.sampled else [0])
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
    repeats = args.repeats or SPACES[size.space].rounds
    results = measure(rows, size, repeats)
    if args.memory:
        measure_memory(results)
    table = results.table()
    if args.markdown:
        print(table.markdown())
    else:
        table.show()
    if args.json:
        contents = {**results.contents(), "repeats": repeats}
        args.json.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_size_options(parser)
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="which (all that are not compiled)")
    parser.add_argument("--ablation", action="store_true", help="other rows: share without each of its passes")
    parser.add_argument("--compile", action="store_true", help="the rows under torch.compile too, minutes each")
    parser.add_argument("--memory", action="store_true", help="peak memory too, each row in a process of its own")
    parser.add_argument("--repeats", type=positive, help="rounds (11, or 51 where each samples a path)")
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
        step(model, batch.inputs(0), batch.targets)


def _fresh_cache() -> AbstractContextManager[None]:
    """Let inductor find nothing that an earlier row, or run, has compiled."""
    from torch._inductor.utils import fresh_cache

    return fresh_cache()


if __name__ == "__main__":
    main()
