"""Show what audits cost: steps of a supernet simplified with audits and without, in turn, for some minutes.

The ratio is that of all seconds, those of the audits themselves included; `simplify` is in none of them. Without audits
a step is the same program: what the ratio is above 1 is audits and noise.

    python examples/benchmarks/audit_cost.py
    python examples/benchmarks/audit_cost.py --space darts --minutes 5
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the examples' folder, for the supernets in it
import toponas_fx
from benchmarks.steps import Batch, step_seconds
from benchmarks.tables import Table
from search_options import positive
from supernets.darts import DARTSSupernet
from supernets.gdas import GDASSupernet
from supernets.nasbench201 import NASBench201Supernet

SPACES: dict[str, Callable[[int], nn.Module]] = {
    "nasbench201": lambda C: NASBench201Supernet(C=C, N=1),
    "darts": lambda C: DARTSSupernet(C=C, layers=3),
    "gdas": lambda C: GDASSupernet(C=C, N=1),
}


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        steps: of each of the two models.
        without: seconds of those without audits.
        audited: of those with them.
        audits: how many were made.
    """

    steps: int
    without: float
    audited: float
    audits: int


def measure(space: str, channels: int, size: int, side: int, seconds: float) -> Cost:
    """Take steps in turn until some seconds are over."""
    batch, models = Batch.random(size, side), list[nn.Module]()
    for audit in (False, True):
        torch.manual_seed(0)
        models.append(toponas_fx.simplify(SPACES[space](channels), batch.images, audit=audit))
    spent = [0.0, 0.0]
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for index in (0, 1) if count % 2 else (1, 0):
            spent[index] += step_seconds(models[index], batch, count)
        count += 1
    audits = sum(program.audits for program in toponas_fx.inspection(models[1])._toponas.programs)
    return Cost(count, *spent, audits)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--space", nargs="+", choices=SPACES, default=list(SPACES), help="(all)")
    parser.add_argument("--C", type=positive, default=16, help="initial channels (%(default)s)")
    parser.add_argument("--batch", type=positive, default=16, help="images (%(default)s)")
    parser.add_argument("--side", type=positive, default=16, help="pixels of a side (%(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each space (%(default)s)")
    parser.add_argument("--threads", type=positive, help="of torch; by default torch decides")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    title = f"C={args.C}, batch {args.batch}, {args.side}x{args.side}: seconds of all steps, audited over not"
    table = Table(title, ["space", "steps of each", "audits", "step, ms", "audited / not"], [])
    for space in args.space:
        cost = measure(space, args.C, args.batch, args.side, 60 * args.minutes)
        step = f"{1000 * cost.without / cost.steps:.1f}"
        table.rows.append([space, str(cost.steps), str(cost.audits), step, f"{cost.audited / cost.without:.3f}"])
    table.show()


if __name__ == "__main__":
    main()
