"""Sizes at which a supernet is compared with what toponas_fx makes of it: where is the simplified step slower?"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from benchmarks.tables import Table
from supernets.darts import DARTSSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import NASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet

CHANNELS, SIDES, BATCHES, DEPTHS = (4, 8, 16, 32, 64), (8, 16, 32, 64), (2, 8, 16, 64, 128), (1, 2)
MODES = ("share", "exact")
SLOWER = 1.02
"""The ratio of step times above which a simplified step counts as slower."""
SPACES: dict[str, Callable[[int, int], nn.Module]] = {  # by channels and depth
    "nasbench201": lambda channels, depth: NASBench201Supernet(C=channels, N=depth),
    "darts": lambda channels, depth: DARTSSupernet(C=channels, layers=depth + 1),
    "pcdarts": lambda channels, depth: PCDARTSSupernet(C=channels, layers=depth + 1),
    "mobile": lambda channels, depth: MobileSupernet(C=channels, layers=depth),
}


@dataclass(frozen=True)
class Place:
    """One place of the grid.

    Attributes:
        space: of `SPACES`.
        mode: of `simplify`.
        channels: initial channels.
        side: pixels of a side of the images.
        batch: images.
        depth: cells a stage in NAS-Bench-201, layers of mobile, one less than the cells of DARTS and PC-DARTS.
    """

    space: str
    mode: str
    channels: int
    side: int
    batch: int
    depth: int

    @property
    def size(self) -> int:
        """What it roughly costs: numbers in the images, times channels."""
        return self.channels**2 * self.side**2 * self.batch * self.depth

    def make(self) -> nn.Module:
        """Return the supernet."""
        return SPACES[self.space](self.channels, self.depth)


def places(spaces: Sequence[str], count: int | None, smallest: int, largest: int, seed: int = 0) -> list[Place]:
    """Return the grid between two sizes, or as many places of it, drawn with a seed."""
    axes = (spaces, MODES, CHANNELS, SIDES, BATCHES, DEPTHS)
    every = [Place(*values) for values in itertools.product(*axes)]
    grid = [place for place in every if smallest <= place.size <= largest]
    return grid if count is None else random.Random(seed).sample(grid, min(count, len(grid)))


def table_of(found: Sequence[tuple[Place, float]], threads: int) -> Table:
    """Return the places and their ratios, the slowest first."""
    columns = ["supernet", "mode", "C", "side", "batch", "depth", "step time"]
    rows = sorted(found, key=lambda item: -item[1])
    slower = sum(ratio > SLOWER for _, ratio in rows)
    table = Table(f"Simplified over original at {len(rows)} sizes, {threads} threads", columns, [*map(_cells, rows)])
    table.notes = [f"above {SLOWER}: {slower} of {len(rows)}"]
    return table


def _cells(item: tuple[Place, float]) -> list[str]:
    place, ratio = item
    return [place.space, place.mode, *map(str, _sizes(place)), f"{ratio:.2f}"]


def _sizes(place: Place) -> Iterator[int]:
    yield from (place.channels, place.side, place.batch, place.depth)
