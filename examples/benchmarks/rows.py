"""The rows of `search_step.py`: what is done to a space's network before it takes steps."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import toponas_fx
from benchmarks.spaces import SPACES, UNTOUCHED, Row, Size
from benchmarks.steps import Batch
from supernets import darts, nasbench201
from supernets.spos_mobile import ChoiceBlock
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps
from toponas_fx.rewriting.pass_base import Pass, Repeat


def ablation_rows() -> list[Row]:
    """Return the rows that tell what each pass contributes: all passes, and all but one."""
    names = [pass_.name for pass_ in _flat(DEFAULT_PASSES) if not isinstance(pass_, DetectMixedOps)]
    left_out = [Row(f"without-{name}", f"share, without {name}", mode="share", without=name) for name in names]
    return [Row(UNTOUCHED, "untouched"), Row("share", 'mode="share"', mode="share"), *left_out]


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
    batch = replace(batch, path=space.path(model))
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


def without_gradient(model: nn.Module, *, sampled: bool = False) -> str | None:
    """Return what the last step left without gradient, though it is trained: a row that skips work is no opponent.

    Of architecture weights some may be without: a network of reduction cells does not read those of normal cells. Of a
    sampled path no other weights are asked for, as those of the candidates not taken have none.
    """
    architecture = model.arch_parameters()
    if architecture and all(tensor.grad is None for tensor in architecture):
        return "the architecture weights"
    if sampled:
        return None
    known = {id(tensor) for tensor in architecture}
    named = model.named_parameters()
    missing = [name for name, tensor in named if tensor.grad is None and id(tensor) not in known]
    return ", ".join(missing) or None


def _keep_candidates(model: nn.Module, positions: list[int]) -> None:
    """Leave of each edge's candidates, and of the architecture weights, those at some positions."""
    for edge in model.modules():
        if isinstance(edge, darts.MixedOp | nasbench201.MixedOp):
            edge._ops = nn.ModuleList(edge._ops[i] for i in positions)
        elif isinstance(edge, ChoiceBlock):
            edge.ops = nn.ModuleList(edge.ops[i] for i in positions)  # the skip, which some lack, is the first to go
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
        inputs = batch.inputs(0)
        options: dict[str, Any] = {"recompute": row.recompute, "share_sampled": row.share_sampled}
        fast: Any = toponas_fx.simplify(model, inputs, mode=row.mode, passes=passes, **options)
        seconds = time.perf_counter() - start
    return Prepared(fast, batch, seconds, tuple(dict.fromkeys(str(warning.message) for warning in caught)))
