"""What an edge computes now: the terms of its sum, which candidates each of them covers, and with whom it is shared."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import networkx as nx
from torch import fx

from toponas_fx.analysis.edge_reader import Edge as EdgeAlgebra
from toponas_fx.analysis.labels import label_of
from toponas_fx.draw.drawing import KEPT, ONCE, SHARED, EdgeCosts, Key, Step, Term
from toponas_fx.draw.live import edge_costs
from toponas_fx.runtime.inspection import Inspection

Parts = Mapping[Key, list[dict[str, Any]]]
"""The attributes of the terms of each edge in a topology, in order."""


def parts_of(topology: nx.MultiDiGraph) -> dict[Key, list[dict[str, Any]]]:
    """Return the terms of each edge of a topology, with the value that they read as ``source``, in order."""
    found: dict[Key, list[dict[str, Any]]] = {}
    for source, target, edge in topology.edges(data=True):
        if edge["kind"] == "candidate":
            found.setdefault((target, edge["mixture"]), []).append({**edge, "source": source})
    order = {name: index for index, name in enumerate(topology)}
    for own in found.values():
        own.sort(key=lambda edge: int(edge["position"]))
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])))


Group = list[dict[str, Any]]
"""The terms of one candidate: a block and the skip around it have one weight, ``w * (x + f(x))``."""


def groups_of(parts: Parts, edges: Iterable[EdgeAlgebra]) -> dict[Key, list[Group]]:
    """Return the candidates of each edge, in the order of the report."""
    known = {edge.key: edge.candidates for edge in edges}
    return {
        key: [[at[position] for position in group] for group in known[key]]
        for key, own in parts.items()
        for at in [{part["position"]: part for part in own}]
    }


class Terms:
    """Reads terms off the rewritten graph.

    An edge keeps the name of its sum and its number. A term covers the candidates that its operations were made from;
    where those are computed for others too, the ones whose weights it has.

    Attributes:
        scopes: where in the model the sum of each edge is computed.
        reads: the value that each edge reads now, or reads a part of.
    """

    def __init__(self, view: Inspection, before: Mapping[Key, list[Group]]) -> None:
        """Take a simplified model, and the candidates of each edge as the user wrote them."""
        self._view = view
        known = {name: node for node in view.graph.nodes for name in node.meta.get("stands_for", ())}
        self._nodes = {**known, **{node.name: node for node in view.graph.nodes}}
        self._before = before
        edges: tuple[EdgeAlgebra, ...] = view._toponas.edges
        self._weights = {edge.key: [self._nodes.get(name or "") for name in edge.weights] for edge in edges}
        self._kept = set(view._toponas.sharing.ties.values())
        self._after = {key: own for key, own in parts_of(view.topology()).items() if key in before}
        self.scopes = {key: str(self._nodes[key[0]].meta.get("scope", "")) for key in self._after}
        self.reads = {key: self._whole(str(own[0]["source"])) for key, own in self._after.items()}
        self._readers: dict[str, dict[Key, None]] = {}
        for key, own in self._after.items():
            for name in dict.fromkeys(name for edge in own for name in edge["nodes"]):
                self._readers.setdefault(name, {})[key] = None

    def of(self, key: Key) -> tuple[Term, ...]:
        """Return the terms of an edge, those that cover its first candidates first."""
        own = self._after.get(key, [])
        counts = Counter(name for edge in own for name in edge["nodes"])
        found = [self._term(key, edge, counts) for edge in own]
        others = {place for term in found if term.steps for place in term.covers}
        found = [term if term.steps else _alone(term, others) for term in found]
        return tuple(sorted(found, key=lambda term: min(term.covers, default=len(self._before[key]))))

    def costs(self, key: Key) -> EdgeCosts:
        """Return what the operations of an edge cost now."""
        names = dict.fromkeys(name for edge in self._after.get(key, ()) for name in edge["nodes"])
        return edge_costs(self._view, [self._nodes[name] for name in names])

    def _whole(self, name: str) -> str:
        node = self._nodes.get(name)
        while node is not None and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return name if node is None else node.name

    def _term(self, key: Key, edge: dict[str, Any], counts: Counter[str]) -> Term:
        covers = self._covers(key, edge, counts)
        others = [name for name in edge["nodes"] if len(self._readers[name]) > 1]
        partners = dict.fromkeys(other for name in others for other in self._readers[name] if other != key)
        nodes = [self._nodes[name] for name in edge["nodes"]]
        fates = {node: self._fate(node, len(covers) > 1, counts) for node in nodes}
        found = {fate for node, fate in fates.items() if node.target is not operator.getitem}
        fate = SHARED if len(covers) > 1 or SHARED in found else ONCE if found == {ONCE} else KEPT
        steps, links = _flow(self._view, edge["source"], nodes, fates)
        return Term(covers, "" if edge["weight"] == "1" else edge["weight"], fate, steps, links, tuple(partners))

    def _covers(self, key: Key, edge: dict[str, Any], counts: Counter[str]) -> tuple[int, ...]:
        """Return the places of the candidates that a term computes: its weight tells, its own nodes, shared nodes."""
        if "drawn" in edge:
            return (int(edge["position"]),)
        names = list(edge["nodes"])
        own = self._weighted_by(key, int(edge["position"]))
        own = own or self._made_from(key, [name for name in names if counts[name] == 1]) or self._made_from(key, names)
        constant = [place for place, weight in enumerate(self._weights[key]) if weight is None]
        return own or (tuple(constant) if len(constant) == 1 else ())

    def _made_from(self, key: Key, names: list[str]) -> tuple[int, ...]:
        origins = {origin for name in names for origin in self._nodes[name].meta.get("origin", (name,))}
        groups = enumerate(self._before[key])
        return tuple(place for place, group in groups if not origins.isdisjoint(_origins(group)))

    def _weighted_by(self, key: Key, position: int) -> tuple[int, ...]:
        """Return the candidates whose weights a term has: one, or a sum of several; a norm may hold it by now."""
        total: Any = self._nodes[key[0]]
        term, weight = total.args[0][position], total.args[1][position]
        held = {*_summands(weight), *(term.all_input_nodes if isinstance(term, fx.Node) else ())}
        return tuple(place for place, own in enumerate(self._weights[key]) if own is not None and own in held)

    def _fate(self, node: fx.Node, is_merged: bool, counts: Counter[str]) -> str:
        if len(self._readers[node.name]) > 1:
            return ONCE
        if is_merged or (node.op == "call_module" and str(node.target) in self._kept):
            return SHARED
        return ONCE if counts[node.name] > 1 else KEPT


def _flow(
    view: Inspection, source: str, nodes: list[fx.Node], fates: dict[fx.Node, str]
) -> tuple[tuple[Step, ...], tuple[tuple[int, int], ...]]:
    """Place the operations of a term by columns: each after all that it reads."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(-1, len(nodes)))
    place = {node: index for index, node in enumerate(nodes)}
    for node, index in place.items():
        known = [place[parent] for parent in node.all_input_nodes if parent in place]
        graph.add_edges_from((parent, index) for parent in known or [-1])
        if known and any(parent.name == source for parent in node.all_input_nodes):
            graph.add_edge(-1, index)
    steps: dict[int, Step] = {}
    for column, generation in enumerate(nx.topological_generations(graph)):
        for row, index in enumerate(sorted(generation)):
            if index >= 0:
                steps[index] = Step(_label(view, nodes[index]), fates[nodes[index]], column - 1, row)
    return tuple(steps[index] for index in range(len(nodes))), tuple(sorted(graph.edges))


def _alone(skip: Term, others: set[int]) -> Term:
    """Return the value itself as a term of those that are nothing else: the skip around a block counts to the block."""
    covers = tuple(place for place in skip.covers if place not in others)
    return replace(skip, covers=covers, fate=skip.fate if len(covers) > 1 else KEPT)


def _origins(group: Group) -> set[str]:
    return {origin for part in group for origin in part["origins"]}


def _summands(weight: Any) -> Iterator[fx.Node]:
    """Yield a weight and those that it is the sum of."""
    if isinstance(weight, fx.Node):
        yield weight
        for part in weight.args if weight.target is operator.add else ():
            yield from _summands(part)


def _label(view: Inspection, node: fx.Node) -> str:
    label = label_of(view, node)
    return {"mixed_sum": "\N{GREEK CAPITAL LETTER SIGMA}", "getitem": "part"}.get(label, label)
