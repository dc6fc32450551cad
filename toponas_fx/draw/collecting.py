"""Collecting what a picture shows of a simplified model, from its report, its topologies and its graph."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import networkx as nx

from toponas_fx.analysis.module_paths import common_path
from toponas_fx.draw.cells import cell_paths
from toponas_fx.draw.drawing import DROPPED, KEPT, Candidate, Cell, Deed, Drawing, Edge, Key, PassStep, Term, Value
from toponas_fx.draw.ends import drawn_ends
from toponas_fx.draw.live import Live, look
from toponas_fx.draw.terms import Group, Parts, Terms, groups_of, parts_of
from toponas_fx.errors import ToponasError
from toponas_fx.module_tree.isolation import in_mode
from toponas_fx.report.report import CandidateReport, Report
from toponas_fx.rewriting.pass_base import Pass
from toponas_fx.rewriting.pipeline import flatten
from toponas_fx.runtime.inspection import Inspection, at_work, inspection

_COSTS = {
    "convolutions": "convolutions",
    "norms": "norms",
    "parameters": "parameters",
    "flops": "FLOPs",
    "saved_bytes": "bytes saved for backward",
}
_NOTHING = "no mixed operation was found"


def collect(fast: Any) -> Drawing:
    """Return what there is to draw of a simplified model; its weights are read as they are now."""
    view = inspection(fast)
    report = view.report
    costs = tuple(_costs(report))
    topology = view._toponas.topology
    if topology is None or not report.mixtures:
        reason = next(iter(report.notes), _NOTHING)
        return Drawing(report.model, report.mode, costs, notes=report.notes[1:], reason=reason)
    with in_mode(view._toponas_model, training=True):
        view = _of_all_paths(view)
        try:
            terms = Terms(view, groups_of(parts_of(topology), view._toponas.edges))
        except ToponasError as absent:
            return Drawing(report.model, report.mode, costs, notes=report.notes, reason=str(absent))
        return _Collector(view, topology, terms, look(view)).drawing(costs)


def _of_all_paths(view: Inspection) -> Inspection:
    """Return a view of the program that has all that may be drawn; the last that ran may be another."""
    wanted = {edge.key[0] for edge in view.report.mixtures if edge.drawn}
    for program in view._toponas.programs if wanted else ():
        if program.fixed[2] and wanted <= {node.name for node in program.graph.nodes}:
            return at_work(view._toponas_model, program.graph)
    return view


def _costs(report: Report) -> Iterator[tuple[str, float, float]]:
    for name, title in _COSTS.items():
        before, after = getattr(report.before, name), getattr(report.after, name)
        if before is not None and after is not None:
            yield title, before, after


class _Collector:
    """Joins, edge by edge, what the report, the topologies and the graph tell."""

    def __init__(self, view: Inspection, topology: nx.MultiDiGraph, terms: Terms, live: Live) -> None:
        self._view, self._report, self._topology = view, view.report, topology
        self._terms, self._live = terms, live
        self._before: Parts = parts_of(topology)
        self._groups = groups_of(self._before, view._toponas.edges)
        sources = {key: str(own[0]["source"]) for key, own in self._before.items()}
        bare = [key for key, own in self._before.items() if len(own) == 1 and not own[0]["modules"]]
        self._ends = drawn_ends(topology, sources, bare, terms.reads)
        self._reports = {report.key: report for report in self._report.mixtures}
        self._homes = cell_paths({key: self._path(key, own) for key, own in self._before.items()}, sources)
        self._numbers = {record.name: number for number, record in enumerate(self._report.records)}
        order = {node.name: place for place, node in enumerate(view.graph.nodes)}
        self._order = {name: order.get(name, -1) for name in topology}

    def drawing(self, costs: tuple[tuple[str, float, float], ...]) -> Drawing:
        """Return all of it."""
        members: dict[str, list[Key]] = {}
        for key in self._ends.ends:
            members.setdefault(self._homes[key], []).append(key)
        cells = [self._cell(path, keys) for path, keys in members.items()]
        ordered, links = self._in_order(cells)
        notes = [*self._report.notes, self._live.note] if self._live.note else self._report.notes
        passes, told = tuple(_passes(self._view)), tuple(notes)
        model, mode, caption = self._report.model, self._report.mode, self._report.caption
        return Drawing(model, mode, costs, passes, ordered, links, told, caption=caption)

    def _path(self, key: Key, parts: Group) -> str:
        """Return where an edge is: at the modules that it calls, else where its sum is computed."""
        return common_path([path for part in parts for path in part["modules"]]) or self._terms.scopes.get(key, "")

    # -- cells -------------------------------------------------------------------------------------------------------

    def _cell(self, path: str, keys: Sequence[Key]) -> Cell:
        names = dict.fromkeys(name for key in keys for name in self._ends.ends[key])
        sums = {self._ends.ends[key][1] for key in keys}
        inside = {name for key, home in self._homes.items() if home == path for name in (key[0], self._source(key))}
        graph = nx.DiGraph(self._topology.subgraph(names).edges())
        graph.add_edges_from(self._ends.ends[key] for key in keys)
        depth = {name: level for level, found in enumerate(nx.topological_generations(graph)) for name in found}
        ordered = sorted(names, key=lambda name: (depth[name], self._order[name]))
        place = {name: number for number, name in enumerate(ordered)}
        numbers = {name: str(number) for number, name in enumerate(name for name in ordered if name in sums)}
        inputs = [name for name in ordered if name not in sums]
        numbers.update({name: f"in {place}" if len(inputs) > 1 else "in" for place, name in enumerate(inputs, 1)})
        values = tuple(
            Value(
                numbers[name],
                "sum" if name in sums else "input",
                self._topology.nodes[name]["type"],
                name,
                self._leaves(name, inside),
            )
            for name in ordered
        )
        edges = [self._edge(key, place) for key in keys]
        plain = {
            (place[a], place[b], data["between"])
            for a, b, data in self._topology.subgraph(names).edges(data=True)
            if data["kind"] == "plain"
        }
        edges.sort(key=lambda edge: (edge.target, edge.source, edge.key))
        return Cell(path, values, tuple(edges), tuple(sorted(plain)))

    def _leaves(self, name: str, inside: set[str]) -> bool:
        readers = set(self._topology.successors(name))
        return not readers or not readers <= inside

    def _source(self, key: Key) -> str:
        return str(self._before[key][0]["source"])

    def _in_order(self, cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], tuple[tuple[int, int], ...]]:
        """Return cells in the order of computation, and which reads which."""
        owner: dict[str, int] = {}
        for number, cell in enumerate(cells):
            owner.update({value.name: number for value in cell.values if value.role == "sum"})
        for number, cell in enumerate(cells):
            for value in cell.values:
                owner.setdefault(value.name, number)
        numbers = {cell.path: number for number, cell in enumerate(cells)}
        for key, home in self._homes.items():
            for name in (key[0], self._source(key)) if home in numbers else ():
                owner.setdefault(name, numbers[home])
        reads = nx.DiGraph()
        reads.add_nodes_from(range(len(cells)))
        between = ((owner.get(a), owner.get(b)) for a, b in self._topology.edges())
        reads.add_edges_from((a, b) for a, b in between if a is not None and b is not None and a != b)
        first = {number: min(self._order[key.key[0]] for key in cell.edges) for number, cell in enumerate(cells)}
        is_acyclic = nx.is_directed_acyclic_graph(reads)
        order = list(nx.lexicographical_topological_sort(reads, key=first.get)) if is_acyclic else sorted(first)
        place = {number: index for index, number in enumerate(order)}
        links = sorted((place[a], place[b]) for a, b in reads.edges if place[a] < place[b])
        return tuple(cells[number] for number in order), tuple(links)

    # -- edges -------------------------------------------------------------------------------------------------------

    def _edge(self, key: Key, place: dict[str, int]) -> Edge:
        report, terms = self._reports[key], self._terms.of(key)
        source, target = self._ends.ends[key]
        around = self._ends.around.get(key)
        return Edge(
            key,
            report.name,
            place[source],
            place[target],
            self._candidates(key, terms),
            terms,
            None if around is None else self._candidates(around, self._terms.of(around))[0],
            (report.before, report.after),
            self._live.costs.get(key),
            self._terms.costs(key),
            report.drawn,
        )

    def _candidates(self, key: Key, terms: tuple[Term, ...]) -> tuple[Candidate, ...]:
        own = self._before[key]
        weights = self._live.weights.get(key, (None,) * len(own))
        values = {part["position"]: value for part, value in zip(own, weights, strict=True)}
        return tuple(
            self._candidate(number, group, told, values[group[-1]["position"]], terms)
            for number, (group, told) in enumerate(zip(self._groups[key], self._reports[key].candidates, strict=True))
        )

    def _candidate(
        self, number: int, group: Group, told: CandidateReport, value: float | None, terms: tuple[Term, ...]
    ) -> Candidate:
        fates = [term.fate for term in terms if number in term.covers]
        fate = DROPPED if not fates else next((fate for fate in fates if fate != KEPT), KEPT)
        return Candidate(
            told.name,
            tuple(group[-1]["ops"]),
            told.weight,
            value,
            fate,
            tuple(self._deeds(told.changes, ": ")),
            tuple(self._deeds(told.refusals, " refused: ")),
        )

    def _deeds(self, texts: Iterable[str], between: str) -> Iterator[Deed]:
        for text in dict.fromkeys(texts):
            name, _, sentence = text.partition(between)
            yield Deed(self._numbers[name], sentence)


def _passes(view: Inspection) -> Iterator[PassStep]:
    rules = {rule.name: rule for rule in flatten(view._toponas.passes)}
    for record in view.report.records:
        before, after = ((costs.convolutions, costs.norms, costs.nodes) for costs in (record.before, record.after))
        yield PassStep(
            record.name, _about(rules[record.name]), record.semantics.value, len(record.changes), before, after
        )


def _about(rule: Pass) -> str:
    """Return the first line of what a rule says of itself, or its file does."""
    own = (type(rule).__doc__ or "").strip().partition("\n")[0]
    told = (sys.modules[type(rule).__module__].__doc__ or "").strip().partition("\n")[0]
    return told if not own or "module's docstring" in own else own
