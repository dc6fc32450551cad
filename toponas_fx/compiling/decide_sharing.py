"""When it is decided what a model shares: in ``simplify``, or by the first later training capture that mixes.

A model that draws its path, or waits for an architecture, has no mixed operation when it is simplified, and may mix its
candidates in another mode. What is shared then follows from the model and that mode alone, so that all processes of a
search decide alike; and checkpoints keep every name, so that those from before and after fit each other.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import networkx as nx
from torch import fx, nn

from toponas_fx.analysis.algebra import ARITHMETIC, edges_of, with_results
from toponas_fx.analysis.costs import Costs, graph_costs
from toponas_fx.analysis.drawn_edges import drawn_edges, mixing_ops
from toponas_fx.analysis.topology import build_topology
from toponas_fx.capture import Capture
from toponas_fx.ir.decisions import Sharing
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.passes import DetectMixedOps, ShareDrawn
from toponas_fx.report.building import ONE_AT_A_TIME, UNREAD, build_report, unused_notes
from toponas_fx.rewriting.pass_base import Pass
from toponas_fx.rewriting.pipeline import Observer, Passes, PassRecord, flatten
from toponas_fx.runtime.call import Call
from toponas_fx.runtime.inspection import at_work
from toponas_fx.runtime.normalized_layers import watch_layers
from toponas_fx.runtime.state import State


def shares_drawn(passes: Passes) -> bool:
    """Return whether candidates of edges that draw one share modules, as ``simplify(share_sampled=True)`` asks."""
    return any(isinstance(pass_, ShareDrawn) for pass_ in flatten(passes))


def mixes(graph: fx.Graph) -> bool:
    """Return whether a graph in which mixed operations were detected has one of which all candidates run."""
    return any(mixing_ops(graph))


def may_decide(sharing: Sharing, call: Call) -> bool:
    """Return whether a capture for a call decides what is shared, should it find mixed operations."""
    return not sharing.is_decided and bool(call.fixed[2])


def may_report(state: State, call: Call) -> bool:
    """Return whether a capture of all paths is what the report should be on: none was, and it has no edge."""
    edges = () if state.report is None else state.report.mixtures
    is_told = any(edge.drawn or len(edge.candidates) > 1 for edge in edges)
    return bool(call.fixed[2]) and state.report is not None and not is_told


@contextmanager
def deciding(sharing: Sharing, call: Call) -> Iterator[None]:
    """Let passes that run inside add nothing to what is shared where the capture has no say."""
    is_held = not sharing.is_decided and not may_decide(sharing, call)
    sharing.is_decided = sharing.is_decided or is_held
    try:
        yield
    finally:
        sharing.is_decided = sharing.is_decided and not is_held


def detection(fast: Any, state: State, captured: Capture) -> Observer:
    """Return what keeps the edges as the user wrote them, before anything is dropped or shared, and as they became.

    Their algebra is read where the passes begin that compute the same by other arithmetic. A fault in what is told of
    them ends no search: they are not told then, which is said.
    """
    ends = set(map(id, [*_ends_of_algebra(state.passes)][-2:]))  # the last may fail and be left out

    def keep_detected(pass_: Pass, gm: fx.GraphModule) -> None:
        try:
            tell(pass_, gm)
        except Exception as error:
            if state.is_strict:
                raise
            note = f"its edges are not told, for a fault of ours ({type(error).__name__}: {error}; please report it)"
            warnings.warn(f"{state.user_class.__name__}: {note}", stacklevel=2)
            state.topology, state.edges, state.notes = None, (), [note]

    def tell(pass_: Pass, gm: fx.GraphModule) -> None:
        if isinstance(pass_, DetectMixedOps):
            state.topology = build_topology(gm)
            state.edges = edges_of(gm, state.topology)
            state.notes = unused_notes(fast, captured.entered, gm) if state.edges else []
            if any(drawn_edges(gm.graph)) and not shares_drawn(state.passes):
                state.notes.append(ONE_AT_A_TIME)
        if id(pass_) in ends:
            state.edges = with_results(gm, state.edges)

    return keep_detected


def _ends_of_algebra(passes: Passes) -> Iterator[Pass]:
    """Yield the last pass of each entry before those of ``ARITHMETIC``."""
    for entry in passes:
        *_, last = flatten([entry])
        if last.name in ARITHMETIC:
            return
        yield last


@dataclass(frozen=True)
class LateDecision:
    """What a model was before a training capture that may decide.

    Attributes:
        fast: the model.
        parameters: its parameters by name.
        costs: what the capture costs as the user wrote it.
        shown: topology, edges and notes of what the report is on.
    """

    fast: Any
    parameters: dict[str, nn.Parameter]
    costs: Costs
    shown: tuple[Any, tuple[Any, ...], list[str]]

    @classmethod
    def before(cls, fast: Any, captured: Capture) -> LateDecision:
        """Look at the model before the passes run."""
        state: State = fast._toponas
        shown = state.topology, state.edges, state.notes
        return cls(fast, dict(fast.named_parameters()), graph_costs(at_work(fast, captured.graph)), shown)

    def hold(self, graph: fx.Graph, records: list[PassRecord]) -> None:
        """Hold to what the passes decided: graphs from before do not, parameters leave, and the report is another."""
        state: State = self.fast._toponas
        sharing = state.sharing
        sharing.is_decided = sharing.is_late = True
        if sharing.ties or sharing.kernels:
            state.programs.clear()
        watch_layers(self.fast, sharing)
        state.index, state.structure = TreeIndex.of(self.fast), None
        notes = self._notes()
        gone = self._parameters_that_left()
        name = state.user_class.__name__
        if gone:
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            notes.append(
                f"shares modules from this call on, the first in training that has several candidates: `{gone[0]}`"
                f"{more} left parameters() and learn no more, the first alike candidate's take their place; "
                "checkpoints keep all names"
            )
            warnings.warn(f"{name} {notes[-1]}", stacklevel=2)
        self._report(graph, records, notes)

    def report(self, graph: fx.Graph, records: list[PassRecord]) -> None:
        """Let the report be on all paths, where it was on one of them."""
        self._report(graph, records, self._notes())

    def _notes(self) -> list[str]:
        """Return the report's notes, less those on the capture that it was on, and those on this one."""
        state: State = self.fast._toponas
        *_, gone = self.shown
        told = () if state.report is None else state.report.notes
        return [*(note for note in told if note not in gone and not note.startswith(UNREAD)), *state.notes]

    def forget(self) -> None:
        """Let the topology be that of what the report is on."""
        state: State = self.fast._toponas
        state.topology, state.edges, state.notes = self.shown

    def _report(self, graph: fx.Graph, records: list[PassRecord], notes: list[str]) -> None:
        state: State = self.fast._toponas
        name, found = state.user_class.__name__, state.topology or nx.MultiDiGraph()
        after = graph_costs(at_work(self.fast, graph))
        state.report = build_report(name, state.mode, found, records, self.costs, after, notes, state.edges)
        state.unmeasured = state.paths = None

    def _parameters_that_left(self) -> list[str]:
        """Return the names of the parameters of replaced modules; no zero_grad() would clear their gradients again."""
        left = {id(parameter) for parameter in self.fast.parameters()}
        gone = {name: tensor for name, tensor in self.parameters.items() if id(tensor) not in left}
        for parameter in gone.values():
            parameter.grad = None
        return list(gone)
