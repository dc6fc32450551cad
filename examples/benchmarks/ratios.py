"""Compare each example supernet with what toponas_fx makes of it: step time, memory for backward, operations.

A step is a forward and a backward pass over one random batch. The two models take their steps in turn in one process,
and the time ratio is the median over the pairs, so that it holds on a busy machine.

    python examples/benchmarks/ratios.py
    python examples/benchmarks/ratios.py --space darts pcdarts --repeats 20 --json ratios.json
    python examples/benchmarks/ratios.py --grid --sample 40 --threads 1
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
import toponas_fx
from benchmarks import size_grid
from benchmarks.size_grid import Place, places, table_of
from benchmarks.steps import Batch, seeded_saved_bytes, step_seconds
from benchmarks.tables import Table
from supernets.darts import DARTSSupernet
from supernets.gdas import GDASSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import NASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet

IMAGE_SIZE = 32
SPACES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # with the images of a batch, and steps to warm up
    "nasbench201": (lambda: NASBench201Supernet(C=16, N=2), 64, 1),
    "darts": (lambda: DARTSSupernet(C=16, layers=3), 16, 1),  # normal, reduction, reduction
    "pcdarts": (lambda: PCDARTSSupernet(C=16, layers=3), 16, 1),
    "gdas": (lambda: GDASSupernet(C=16, N=2), 64, 16),  # until it is known that each step takes another path
    "mobile": (lambda: MobileSupernet(C=16, layers=2), 16, 1),
}


@dataclass(frozen=True)
class Ratios:
    """Simplified over original, and operations before and after.

    Attributes:
        time: of a step.
        milliseconds: of the original's step.
        saved: bytes that a forward pass keeps for the backward pass.
        convolutions: before and after; zeros where there is no graph.
        norms: likewise.
        notes: what toponas_fx warned of.
    """

    time: float
    milliseconds: float
    saved: float
    convolutions: tuple[int, int]
    norms: tuple[int, int]
    notes: tuple[str, ...]


def measure(space: str, repeats: int, mode: str) -> Ratios:
    """Measure one space; a pair of steps draws the same random numbers."""
    make, size, warm_up = SPACES[space]
    torch.manual_seed(0)
    original = make()
    batch = Batch.random(size, IMAGE_SIZE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        models = (original, toponas_fx.simplify(copy.deepcopy(original), batch.images, mode=mode))
        steps = range(warm_up + repeats)
        pairs = [[step_seconds(model, batch, seed) for model in models] for seed in steps][warm_up:]
        sizes = [seeded_saved_bytes(model, batch) for model in models]
    before, after = models[1].report.before, models[1].report.after
    return Ratios(
        time=statistics.median(simplified / plain for plain, simplified in pairs),
        milliseconds=1e3 * statistics.median(plain for plain, _ in pairs),
        saved=sizes[1] / sizes[0],
        convolutions=(before.convolutions, after.convolutions),
        norms=(before.norms, after.norms),
        notes=tuple(dict.fromkeys(str(warning.message) for warning in caught)),
    )


def measure_place(place: Place, repeats: int) -> float:
    """Return the ratio of step times at one place of the grid."""
    torch.manual_seed(0)
    original = place.make()
    batch = Batch.random(place.batch, place.side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = (original, toponas_fx.simplify(copy.deepcopy(original), batch.images, mode=place.mode))
        pairs = [[step_seconds(model, batch, seed) for model in models] for seed in range(2 + repeats)][2:]
    return statistics.median(simplified / plain for plain, simplified in pairs)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--space", nargs="+", choices=SPACES, default=list(SPACES), help="which (all)")
    parser.add_argument("--repeats", type=int, default=10, help="steps of each model (%(default)s)")
    parser.add_argument("--mode", choices=("share", "exact"), default="share", help="of simplify (%(default)s)")
    parser.add_argument("--grid", action="store_true", help="the ratio of step times at many sizes, in both modes")
    parser.add_argument("--sample", type=int, metavar="N", help="as many places of the grid, drawn with a seed")
    parser.add_argument("--smallest", type=int, default=0, help="as --largest (%(default)s)")
    parser.add_argument(
        "--largest", type=int, default=2**28, help="size of a place: C^2 side^2 batch depth (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of torch; by default torch decides")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers there")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, found {args.repeats}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.grid:
        spaces = [space for space in args.space if space in size_grid.SPACES]
        grid = track(
            places(spaces, args.sample, args.smallest, args.largest), "measuring", console=Console(stderr=True)
        )
        table_of([(place, measure_place(place, args.repeats)) for place in grid], torch.get_num_threads()).show()
        return
    found = {space: measure(space, args.repeats, args.mode) for space in args.space}

    title = f"Simplified over original, mode {args.mode}, {torch.get_num_threads()} threads"
    columns = ["supernet", "original's\nstep", "step\ntime", "saved for\nbackward", "convolutions", "norms"]
    table = Table(title, columns, [])
    for space, r in found.items():
        counts = (f"{old} → {new}" if old else "as written" for old, new in (r.convolutions, r.norms))
        table.rows.append([space, f"{r.milliseconds:.0f} ms", f"{r.time:.2f}", f"{r.saved:.2f}", *counts])
    table.notes = [f"note on {space}: {note}" for space, r in found.items() for note in r.notes]
    table.show()
    if args.json:
        contents = {"mode": args.mode, "ratios": {space: asdict(r) for space, r in found.items()}}
        args.json.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
