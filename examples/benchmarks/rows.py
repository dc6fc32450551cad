"""What `search_step.py` compares: the networks of a space, and what is done to each before it takes steps."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import toponas_fx
from benchmarks.steps import Batch
from supernets import darts, nasbench201
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import CANDIDATES, NASBench201Supernet
from supernets.partial_nasbench201 import PartialNASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet
from supernets.primitives import PRIMITIVES
from supernets.single_path import SinglePathDARTS, SinglePathNASBench201
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps
from toponas_fx.rewriting.pass_base import Pass, Repeat

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
        cells: a stage's in NAS-Bench-201, all of them in DARTS.
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
    """

    networks: dict[str, Callable[[Size], nn.Module]]
    costliest: tuple[int, ...]
    cells: int
    batch: int

    @property
    def single_paths(self) -> list[str]:
        """The networks that have one candidate an edge."""
        return [name for name in self.networks if name.startswith("single-")]

    def rows(self) -> list[Row]:
        """Return all rows, those under `torch.compile` last."""
        rows = [
            Row(UNTOUCHED, "untouched"),
            Row(CHANNELS_LAST, "untouched, channels-last", channels_last=True),
            Row("exact", 'mode="exact"', mode="exact"),
            Row("share", 'mode="share"', mode="share"),
            Row("share-recompute", 'mode="share", recompute=True', mode="share", recompute=True),
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


def ablation_rows() -> list[Row]:
    """Return the rows that tell what each pass contributes: all passes, and all but one."""
    names = [pass_.name for pass_ in _flat(DEFAULT_PASSES) if not isinstance(pass_, DetectMixedOps)]
    left_out = [Row(f"without-{name}", f"share, without {name}", mode="share", without=name) for name in names]
    return [Row(UNTOUCHED, "untouched"), Row("share", 'mode="share"', mode="share"), *left_out]


def _positions(candidates: tuple[str, ...], names: str) -> tuple[int, ...]:
    return tuple(candidates.index(name) for name in names.split())


SPACES = {
    "nasbench201": Space(
        {
            "supernet": lambda size: NASBench201Supernet(size.C, size.cells),
            "partial": lambda size: PartialNASBench201Supernet(size.C, size.cells),
            "single-3x3": lambda size: SinglePathNASBench201(size.C, size.cells),
        },
        costliest=_positions(CANDIDATES, "nor_conv_3x3 nor_conv_1x1 avg_pool_3x3 skip_connect none"),
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
        costliest=_positions(
            PRIMITIVES,
            "sep_conv_5x5 sep_conv_3x3 dil_conv_5x5 dil_conv_3x3 max_pool_3x3 avg_pool_3x3 skip_connect none",
        ),
        cells=3,
        batch=16,
    ),
}


@dataclass
class Prepared:
    """A row's model, ready to take steps on its batch; `torch.compile` compiles at the first.

    Attributes:
        model: the network after all that the row does to it.
        batch: the same values for all rows, in the row's memory layout.
        simplify_seconds: of capture and passes, or None where the network is as written.
        notes: what was warned of.
    """

    model: nn.Module
    batch: Batch
    simplify_seconds: float | None = None
    notes: tuple[str, ...] = ()


def prepare(row: Row, size: Size) -> Prepared:
    """Make a row's model and batch; networks of one name start from the same weights."""
    torch.manual_seed(0)
    batch = Batch.random(size.batch, size.image_size, size.device)
    space = SPACES[size.space]
    model = space.networks[row.network](size)
    if size.candidates < len(space.costliest):
        _keep_candidates(model, sorted(space.costliest[: size.candidates]))
    _move(model, size.device)
    if row.channels_last:
        batch = replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))
        model.to(memory_format=torch.channels_last)
    if row.checkpointed:
        _checkpoint_cells(model)
    ready = Prepared(model, batch) if row.mode is None else _simplify(model, batch, row)
    if row.compiled:
        # torch assumes static sizes for the first model that it sees, and only for the first of a class: ask for them,
        # or else every later row is handed slower code than it would get alone.
        ready.model.compile(dynamic=False)
    return ready


def without_gradient(model: nn.Module) -> str | None:
    """Return what the last step left without gradient, though it is trained: a row that skips work is no opponent.

    Of architecture weights some may be without: a network of reduction cells does not read those of normal cells.
    """
    architecture = model.arch_parameters()
    if architecture and all(tensor.grad is None for tensor in architecture):
        return "the architecture weights"
    known = {id(tensor) for tensor in architecture}
    named = model.named_parameters()
    missing = [name for name, tensor in named if tensor.grad is None and id(tensor) not in known]
    return ", ".join(missing) or None


def _darts(network: type[DARTSSupernet], size: Size) -> DARTSSupernet:
    return network(size.C, size.cells, steps=size.nodes, multiplier=size.nodes)


def _keep_candidates(model: nn.Module, positions: list[int]) -> None:
    """Leave of each edge's candidates, and of the architecture weights, those at some positions."""
    for edge in model.modules():
        if isinstance(edge, darts.MixedOp | nasbench201.MixedOp):
            edge._ops = nn.ModuleList(edge._ops[i] for i in positions)
    for tensor in model.arch_parameters():
        if tensor.dim() == 2:  # f32[E,O]; a beta is an edge's
            tensor.data = tensor.data[:, positions].clone()


def _move(model: nn.Module, device: str) -> None:
    """Bring a model to a device, with the architecture weights that are plain tensors."""
    model.to(device)
    for tensor in model.arch_parameters():
        tensor.data = tensor.data.to(device)


def _checkpoint_cells(model: nn.Module) -> None:
    """Store the inputs of each cell alone. Running statistics move twice a step, which no output of training shows."""
    for cell in model.cells:
        cell.forward = functools.partial(checkpoint, cell.forward, use_reentrant=False)


def _passes_without(name: str | None) -> tuple[Pass | Repeat, ...]:
    kept: list[Pass | Repeat] = []
    for entry in DEFAULT_PASSES:
        if isinstance(entry, Repeat):
            kept.append(Repeat(*(pass_ for pass_ in entry.passes if pass_.name != name)))
        elif entry.name != name:
            kept.append(entry)
    return tuple(kept)


def _flat(passes: Iterable[Pass | Repeat]) -> Iterator[Pass]:
    for entry in passes:
        yield from entry.passes if isinstance(entry, Repeat) else (entry,)


def _simplify(model: nn.Module, batch: Batch, row: Row) -> Prepared:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        passes = _passes_without(row.without)
        fast: Any = toponas_fx.simplify(model, batch.images, mode=row.mode, recompute=row.recompute, passes=passes)
        seconds = time.perf_counter() - start
    return Prepared(fast, batch, seconds, tuple(dict.fromkeys(str(warning.message) for warning in caught)))
