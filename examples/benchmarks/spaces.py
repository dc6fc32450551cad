"""The spaces of `search_step.py`: which networks each has, of which size, and in which ways they take a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from supernets.darts import DARTSSupernet
from supernets.gdas import GDASSupernet
from supernets.gdas_darts import GDASDARTSSupernet
from supernets.nasbench201 import CANDIDATES, NASBench201Supernet
from supernets.partial_nasbench201 import PartialNASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet
from supernets.primitives import PRIMITIVES
from supernets.single_path import SinglePathDARTS, SinglePathNASBench201
from supernets.spos_mobile import CHOICES, SPOSSupernet

UNTOUCHED = "untouched"
CHANNELS_LAST = "untouched-channels-last"
COMPILED = "-compiled"
"""What ends the name of a row under `torch.compile`."""


@dataclass(frozen=True)
class Size:
    """How large networks and images are.

    Attributes:
        space: of `SPACES`.
        C: channels of the first stage.
        cells: a stage's in NAS-Bench-201, a stage's blocks in SPOS, all of them in DARTS.
        nodes: of a DARTS cell.
        candidates: that an edge of a supernet has, the costliest of its space.
        batch: images.
        image_size: their side.
        device: as torch calls it.
    """

    space: str
    C: int
    cells: int
    nodes: int
    candidates: int
    batch: int
    image_size: int
    device: str


@dataclass(frozen=True)
class Row:
    """One way to take a step.

    Attributes:
        name: for `--rows`.
        label: for the table.
        network: of the space's.
        mode: of `simplify`, or None to leave the network as written.
        recompute: likewise, of `simplify`.
        share_sampled: likewise.
        without: the pass that is left out, by name.
        channels_last: whether images and kernels are in torch's channels-last layout.
        checkpointed: whether each cell's inside is computed again in the backward pass instead of stored.
        compiled: whether `torch.compile` takes the model.
    """

    name: str
    label: str
    network: str = "supernet"
    mode: str | None = None
    recompute: bool = False
    share_sampled: bool = False
    without: str | None = None
    channels_last: bool = False
    checkpointed: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Space:
    """The networks of a space by name, and the sizes that a user gets who names none.

    Attributes:
        networks: how to make them.
        costliest: the positions of an edge's candidates, the costliest first.
        cells: see `Size`.
        batch: likewise.
        sampled: whether each step computes another path, which the step's seed decides.
        path: makes from a network what draws the arguments that its forward takes behind the images.
    """

    networks: dict[str, Callable[[Size], nn.Module]]
    costliest: tuple[int, ...]
    cells: int
    batch: int
    sampled: bool = False
    path: Callable[[Any], Callable[[], tuple[Any, ...]]] = lambda network: tuple

    @property
    def warm_up(self) -> int:
        """Rounds that are run and not counted, after each row's first step: paths differ in what they run first."""
        return 16 if self.sampled else 1

    @property
    def rounds(self) -> int:
        """Rounds that are counted where the user names no number."""
        return 51 if self.sampled else 11

    @property
    def single_paths(self) -> list[str]:
        """The networks that have one candidate an edge."""
        return [name for name in self.networks if name.startswith("single-")]

    def rows(self) -> list[Row]:
        """Return all rows, those under `torch.compile` last.

        Sampled paths have fewer: `torch.compile` has another graph for each path, and theirs are single paths.
        """
        rows = [
            Row(UNTOUCHED, "untouched"),
            Row(CHANNELS_LAST, "untouched, channels-last", channels_last=True),
            Row("exact", 'mode="exact"', mode="exact"),
            Row("share", 'mode="share"', mode="share"),
            Row("share-recompute", 'mode="share", recompute=True', mode="share", recompute=True),
        ]
        if self.sampled:
            label = 'mode="share", share_sampled=True'
            return [*rows, Row("share-sampled", label, mode="share", share_sampled=True)]
        rows += [
            Row("checkpointed", "untouched, cells checkpointed", checkpointed=True),
            Row("partial", "partial channels, K=4", "partial"),
            Row("partial-share", 'partial channels, K=4, mode="share"', "partial", mode="share"),
        ]
        for name in self.single_paths:
            label = name.replace("single-", "single path, ")
            rows.append(Row(name, label, name))
            rows.append(Row(f"{name}-channels-last", f"{label}, channels-last", name, channels_last=True))
        uncompiled = ("share-recompute", "checkpointed", "partial", "partial-share")
        compiled = [row for row in rows if row.name not in uncompiled]
        return rows + [
            replace(row, name=row.name + COMPILED, label=f"{row.label}, compiled", compiled=True) for row in compiled
        ]


def _positions(candidates: tuple[str, ...], names: str) -> tuple[int, ...]:
    return tuple(candidates.index(name) for name in names.split())


def _darts(network: type[DARTSSupernet], size: Size) -> DARTSSupernet:
    return network(size.C, size.cells, steps=size.nodes, multiplier=size.nodes)


_NASBENCH201 = _positions(CANDIDATES, "nor_conv_3x3 nor_conv_1x1 avg_pool_3x3 skip_connect none")
_DARTS = _positions(
    PRIMITIVES, "sep_conv_5x5 sep_conv_3x3 dil_conv_5x5 dil_conv_3x3 max_pool_3x3 avg_pool_3x3 skip_connect none"
)

SPACES = {
    "nasbench201": Space(
        {
            "supernet": lambda size: NASBench201Supernet(size.C, size.cells),
            "partial": lambda size: PartialNASBench201Supernet(size.C, size.cells),
            "single-3x3": lambda size: SinglePathNASBench201(size.C, size.cells),
        },
        costliest=_NASBENCH201,
        cells=2,
        batch=64,
    ),
    "darts": Space(
        {
            "supernet": lambda size: _darts(DARTSSupernet, size),
            "partial": lambda size: _darts(PCDARTSSupernet, size),
            "single-sep-3x3": lambda size: SinglePathDARTS("sep_conv_3x3", size.C, size.cells, steps=size.nodes),
            "single-sep-5x5": lambda size: SinglePathDARTS("sep_conv_5x5", size.C, size.cells, steps=size.nodes),
        },
        costliest=_DARTS,
        cells=3,
        batch=16,
    ),
    "gdas-nasbench201": Space(
        {"supernet": lambda size: GDASSupernet(size.C, size.cells)},
        costliest=_NASBENCH201,
        cells=2,
        batch=64,
        sampled=True,
    ),
    "gdas-darts": Space(
        {"supernet": lambda size: _darts(GDASDARTSSupernet, size)},
        costliest=_DARTS,
        cells=3,
        batch=16,
        sampled=True,
    ),
    "spos-mobile": Space(
        {"supernet": lambda size: SPOSSupernet(size.C, size.cells)},
        costliest=_positions(CHOICES, "k7_e6 k5_e6 k3_e6 k7_e3 k5_e3 k3_e3 skip"),
        cells=4,
        batch=32,
        sampled=True,
        path=lambda network: lambda: (network.uniform_choice(),),
    ),
}
