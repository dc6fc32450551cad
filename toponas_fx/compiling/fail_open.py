"""Run passes so that one that fails is undone and left out: a rewrite that is not needed never ends a search.

What is shared holds for all later graphs of a model, so a failure there is the caller's to handle: the user's forward
runs as written. Any other pass makes the same function cheaper, and the function without it is right.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from toponas_fx.errors import PassError
from toponas_fx.ir.decisions import Sharing, sharing_of
from toponas_fx.ir.serialization import dump_graph, load_graph
from toponas_fx.rewriting.pass_base import Pass, Repeat, Semantics
from toponas_fx.rewriting.pipeline import Observer, Passes, PassRecord, run_passes
from toponas_fx.runtime.inspection import at_work
from toponas_fx.runtime.state import State


@dataclass(frozen=True)
class Outcome:
    """What passes made of a graph.

    Attributes:
        graph: the result.
        records: one for each pass that did not fail, in order.
        failures: the errors of those that did.
    """

    graph: fx.Graph
    records: list[PassRecord]
    failures: tuple[PassError, ...]


def run_open(fast: nn.Module, graph: fx.Graph, passes: Passes, observe: Observer | None, *, strict: bool) -> Outcome:
    """Run passes over a captured graph; start again without a pass that fails, as if it had never run.

    Args:
        fast: the simplified model; its tree may get tied on the way.
        graph: what was captured; rewritten in place unless a pass fails.
        passes: in order.
        observe: as for ``run_passes``.
        strict: whether any failure is an error.

    Raises:
        PassError: a pass failed that cannot be left out, or any where ``strict``; the tree and what was decided about
            it are as they were before.
    """
    failures: list[PassError] = []
    start = _Start.of(fast, graph)
    while True:
        try:
            return Outcome(graph, run_passes(at_work(fast, graph), passes, observe), tuple(failures))
        except BaseException as error:
            start.put_back(fast)
            if strict or not isinstance(error, PassError) or not can_be_left_out(error.passes):
                raise
            failures.append(error)
            passes, graph = without(passes, error.passes), load_graph(start.rows)


def leave_out(state: State, failures: Sequence[PassError]) -> None:
    """Trust passes that failed no more, and say so, in the report and in a warning."""
    for failure in failures:
        state.passes = without(state.passes, failure.passes)
        note = f"{failure.short}; it is left out, which costs speed alone (please report it; strict=True raises here)"
        warnings.warn(f"{state.user_class.__name__}: {note}", stacklevel=2)
        if state.report is None:
            state.left_out.append(note)
        else:
            state.report = dataclasses.replace(state.report, notes=(*state.report.notes, note))


def can_be_left_out(passes: Sequence[Pass]) -> bool:
    """Return whether the result is right without some passes; no pass at all is at fault where a graph came broken."""
    return bool(passes) and not any(pass_.semantics is Semantics.SHARES for pass_ in passes)


def without(passes: Passes, gone: Sequence[Pass]) -> tuple[Pass | Repeat, ...]:
    """Return passes less some of them, by identity."""
    ids = set(map(id, gone))
    kept: list[Pass | Repeat] = []
    for entry in passes:
        if isinstance(entry, Repeat):
            inner = [pass_ for pass_ in entry.passes if id(pass_) not in ids]
            kept += [Repeat(*inner)] if inner else []
        elif id(entry) not in ids:
            kept.append(entry)
    return tuple(kept)


@dataclass(frozen=True)
class _Start:
    """A graph, a tree and what was decided about it, before any pass ran.

    Attributes:
        rows: the graph as plain data.
        children: the modules below each module, by name.
        sharing: the decisions.
    """

    rows: list[tuple[Any, ...]]
    children: list[tuple[nn.Module, dict[str, nn.Module | None]]]
    sharing: Sharing

    @classmethod
    def of(cls, fast: nn.Module, graph: fx.Graph) -> _Start:
        children = [(module, dict(module._modules)) for module in nn.Module.modules(fast) if module._modules]
        return cls(dump_graph(graph), children, sharing_of(at_work(fast, graph)).copy())

    def put_back(self, fast: nn.Module) -> None:
        for module, children in self.children:
            if module._modules != children:
                module._modules.clear()
                module._modules.update(children)
        sharing = sharing_of(at_work(fast, fx.Graph()))
        sharing.ties, sharing.kernels = dict(self.sharing.ties), dict(self.sharing.kernels)
