"""Show what a user waits for: `simplify`, and each first call of another kind, in steps of the untouched supernet.

All figures are CPU seconds of this process, divided by those of one forward and backward pass of the supernet as its
user wrote it. Of a first call, what the same call takes the second time is left out.

    python examples/benchmarks/compile_cost.py
    python examples/benchmarks/compile_cost.py --cells 8 20 --batch 8 --C 16 --json cost.json
    python examples/benchmarks/compile_cost.py --profile
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
import toponas_fx
from benchmarks.steps import Batch, step
from benchmarks.tables import Table
from search_options import positive
from supernets.darts import DARTSSupernet


@dataclass(frozen=True)
class Waits:
    """What a user waits for, in steps of the untouched supernet.

    Attributes:
        cells: of the supernet.
        step_seconds: CPU seconds of such a step.
        simplify: the call of `simplify`.
        simplified: a step of the simplified model.
        second_batch: the first step at another batch size.
        third_batch: the first step at one more.
        evaluation: the first forward pass after `eval()`.
        no_grad: the first one without gradients, in evaluation.
        image_size: the first step at another image size.
    """

    cells: int
    step_seconds: float
    simplify: float
    simplified: float
    second_batch: float
    third_batch: float
    evaluation: float
    no_grad: float
    image_size: float


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds that a call takes, of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def first_seconds(call: Callable[[], object]) -> float:
    """Return what the first of two calls takes more than the second."""
    return max(cpu_seconds(call) - cpu_seconds(call), 0.0)


def measure(cells: int, channels: int, size: int, side: int) -> Waits:
    """Measure a DARTS supernet of some cells, four nodes each."""
    torch.manual_seed(0)
    model: nn.Module = DARTSSupernet(C=channels, layers=cells)
    batch = Batch.random(size, side)
    images, targets = batch.images, batch.targets
    step(model, [images], targets)  # torch's own first calls
    torch.optim.SGD(model.parameters(), 0.1)  # a search has one, and torch imports a second's worth for it
    untouched = min(cpu_seconds(lambda: step(model, [images], targets)) for _ in range(3))
    made: list[nn.Module] = []
    simplify = cpu_seconds(lambda: made.append(toponas_fx.simplify(model, images)))
    (fast,) = made

    def at(count: int, pixels: int = side) -> float:
        fewer = [images[:count, :, :pixels, :pixels]]
        return first_seconds(lambda: step(fast, fewer, targets[:count]))

    step(fast, [images], targets)
    simplified = min(cpu_seconds(lambda: step(fast, [images], targets)) for _ in range(3))
    second, third, smaller = at(size - 1), at(size - 2), at(size, side // 2)
    fast.eval()
    evaluation = first_seconds(lambda: fast(images))
    with torch.no_grad():
        no_grad = first_seconds(lambda: fast(images))
    found = (simplify, simplified, second, third, evaluation, no_grad, smaller)
    return Waits(cells, untouched, *(seconds / untouched for seconds in found))


def profile(cells: int, channels: int, size: int, side: int) -> None:
    """Print where `simplify` spends its time."""
    model, images = DARTSSupernet(C=channels, layers=cells), torch.randn(size, 3, side, side)
    profiler = cProfile.Profile()
    profiler.runcall(toponas_fx.simplify, model, images)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats("toponas_fx", 40)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--cells", nargs="+", type=positive, default=[8], help="of the DARTS supernet (%(default)s)")
    parser.add_argument("--C", type=positive, default=16, help="initial channels (%(default)s)")
    parser.add_argument("--batch", type=positive, default=8, help="images, at least 3 (%(default)s)")
    parser.add_argument("--side", type=positive, default=32, help="pixels of a side (%(default)s)")
    parser.add_argument("--threads", type=positive, help="of torch; by default torch decides")
    parser.add_argument("--profile", action="store_true", help="show where simplify spends its time instead")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers there")
    args = parser.parse_args(argv)
    if args.batch < 3:
        parser.error(f"--batch must be at least 3, found {args.batch}")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.profile:
        profile(args.cells[0], args.C, args.batch, args.side)
        return
    found = [measure(cells, args.C, args.batch, args.side) for cells in args.cells]
    title = f"DARTS, C={args.C}, batch {args.batch}, {args.side}x{args.side}: CPU seconds over an untouched step's"
    columns = ["cells", "untouched\nstep", "simplify", "simplified\nstep", "second\nbatch", "third\nbatch"]
    table = Table(title, [*columns, "first\neval()", "first\nno_grad", "another\nimage size"], [])
    for waits in found:
        ratios = list(asdict(waits).values())[2:]
        table.rows.append([str(waits.cells), f"{waits.step_seconds:.2f} s", *(f"{ratio:.2f}" for ratio in ratios)])
    if len(found) > 1:
        seconds = [waits.simplify * waits.step_seconds for waits in found]
        table.notes = [f"simplify of {found[-1].cells} cells takes {seconds[-1] / seconds[0]:.2f} of {found[0].cells}"]
    table.show()
    if args.json:
        args.json.write_text(json.dumps([asdict(waits) for waits in found], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
