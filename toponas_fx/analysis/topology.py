"""The topology of a supernet: a multigraph whose nodes are values and whose edges are candidates.

An analysis over the normal form: it reads ``mixed_sum`` nodes, and the ``select`` nodes of models that draw a path,
before or after the other rewrites, and changes nothing.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import networkx as nx
import torch
from torch import fx

from toponas_fx.analysis.arms import home
from toponas_fx.analysis.candidate_names import candidate_names, is_zero
from toponas_fx.analysis.drawn_edges import Draw, edges, is_draw, is_edge_end, is_number, sum_of
from toponas_fx.analysis.labels import label_of
from toponas_fx.analysis.mixed_ops import MixedOp
from toponas_fx.analysis.module_paths import common_path, is_under, place_of
from toponas_fx.ops.registry import facts

_INPUTS, _EXIT, _CONSTANT = "inputs", "exit", "constant"
_NO_DATA = ("size", "numel", "dim")
RESHAPES = ("unbind", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "detach", torch.reshape)
"""Calls that a weight may go through and still be the same element."""


def build_topology(gm: fx.GraphModule) -> nx.MultiDiGraph:
    """Return the values and candidates of a model in which mixed sums were detected.

    Graph nodes are the results of mixed sums and the values that their candidates start from, keyed by the name of
    the fx node (``"inputs"`` where candidates start from several inputs, ``"constant"`` where from none), with the
    attributes ``type``, such as ``f32[2,4,8,8]``, and ``op``; what is drawn has ``sum`` too, where it is added up.

    An edge of ``kind="candidate"`` leads from the value that a candidate reads to its mixed sum: ``mixture`` (the edge
    number within the sum), ``position`` (of the term), ``nodes`` (the fx nodes between, in order, the term last),
    ``ops`` (a label for each of them; ``("identity",)`` for the value itself, ``("zero",)`` for a term that is always
    zero), ``name`` (in the field's words, ``sep_conv_3x3``, or the user's own), ``modules`` (paths of the modules
    called), ``weight`` (a short text), ``origins`` (the captured nodes that it was made from). Where a step computes
    one of the candidates alone, they lead to the ``select`` that takes it and have ``drawn=True``; ``position`` is
    the place among those that may be taken. An edge of ``kind="plain"`` connects a value with one that is computed
    from it otherwise; ``between`` is the number of fx nodes in between. The graph's ``name``, which ``print`` shows,
    counts them.
    """
    found = list(edges(gm.graph))
    flow = _Flow(gm.graph, found)
    sources = _find_sources(flow, found)
    graph = nx.MultiDiGraph()
    for mixed, source in zip(found, sources, strict=True):
        _add_value(graph, gm, mixed.node)
        chains = [_chain(flow, mixed, source, term) for term in mixed.terms]
        names = candidate_names(gm, mixed, chains)
        parts = zip(mixed.positions, mixed.terms, mixed.weights, chains, names, strict=True)
        for position, term, weight, chain, name in parts:
            text = _weight_text(_folded_weight(term) or weight)
            place = {"kind": "candidate", "mixture": mixed.edge, "position": position, "weight": text, "name": name}
            start = _add_value(graph, gm, source)
            if isinstance(mixed, Draw):
                place["drawn"] = True
            graph.add_edge(start, mixed.node.name, **place, **_candidate(gm, term, chain))
        if isinstance(mixed, Draw):
            graph.nodes[mixed.node.name]["sum"] = _add_value(graph, gm, sum_of(mixed.node))
    _connect(graph, flow, {node.name: node for node in gm.graph.nodes if node.name in graph})
    graph.graph["name"] = _name(found)
    return graph


def _name(found: list[MixedOp]) -> str:
    drawn = [edge for edge in found if isinstance(edge, Draw)]
    mixed = [edge for edge in found if not isinstance(edge, Draw)]
    terms, candidates = (sum(len(edge.positions) for edge in own) for own in (mixed, drawn))
    texts = [f"{len(mixed)} mixed operations of {terms} terms"] if mixed or not drawn else []
    texts += [f"{len(drawn)} edges that draw one of {candidates} candidates"] if drawn else []
    return ", ".join(texts)


class _Flow:
    """The flow of data from inputs to outputs: without what only reads parameters, weights of sums, and sizes.

    Data reaches a mixed sum through a point of its own for each mixed operation, ``(node, edge)``.
    """

    def __init__(self, graph: fx.Graph, found: list[MixedOp]) -> None:
        """Order the nodes of a graph and find their dominators and post-dominators."""
        self.order: dict[Any, float] = {node: index for index, node in enumerate(graph.nodes)}
        self.data = nx.DiGraph()
        self.data.add_nodes_from([_INPUTS, _EXIT])
        own: dict[fx.Node, list[MixedOp]] = {mixed.node: [] for mixed in found}
        for mixed in found:
            own[mixed.node].append(mixed)
        for node in graph.nodes:
            for mixed in own.get(node, ()):
                self.order[node, mixed.edge] = self.order[node] - 0.5
                self._add((node, mixed.edge), mixed.terms)
                if isinstance(mixed, Draw):
                    self._add((node, mixed.edge), (arm.value for arm in mixed.arms))
            self._add(node, [(node, mixed.edge) for mixed in own[node]] if node in own else _read_by(node))
        ends = [node for node, degree in self.data.out_degree if degree == 0 and node != _EXIT]
        self._add(_EXIT, ends)
        self.above: dict[Any, Any] = nx.immediate_dominators(self.data, _INPUTS)
        self.below: dict[Any, Any] = nx.immediate_dominators(self.data.reverse(copy=False), _EXIT)
        self.order.update({_INPUTS: -1, _EXIT: len(self.order)})

    def _add(self, value: Any, parents: Iterable[Any]) -> None:
        self.data.add_edges_from((parent, value) for parent in parents if parent in self.data)

    def common_dominator(self, nodes: Iterable[fx.Node]) -> Any:
        """Return the nearest value that every path from the inputs to any of the nodes goes through."""
        first, *rest = nodes
        found: Any = first
        for other in rest:
            node: Any = other
            while node is not found:  # a dominator comes before what it dominates
                if self.order[node] > self.order[found]:
                    node = self.above[node]
                else:
                    found = self.above[found]
        return found

    def climb(self, value: Any, is_part: Callable[[fx.Node], bool]) -> Any:
        """Return the nearest dominator that is an input, a mixed operation or no part, with no mix below."""
        while isinstance(value, fx.Node) and value.op != "placeholder" and not is_edge_end(value) and is_part(value):
            higher = self.above[value]
            if higher == _INPUTS or any(is_edge_end(node) for node in self.between(higher, value)):
                break
            value = higher
        return value

    def serves_only(self, node: Any, end: Any) -> bool:
        """Return whether all that is computed from a node goes into ``end``, which then post-dominates it."""
        while self.order[node] < self.order[end]:
            node = self.below[node]
        return bool(node == end)

    def between(self, source: Any, term: Any) -> list[fx.Node]:
        """Return the nodes on the paths from a value, exclusive, to a term, inclusive, in order."""
        if term is source or term not in self.data:
            return [term] if isinstance(term, fx.Node) and term is not source else []
        region = self.upstream(term, {source})
        return sorted((node for node in region - {source} if isinstance(node, fx.Node)), key=self.order.__getitem__)

    def upstream(self, node: fx.Node, boundary: set[Any]) -> set[Any]:
        """Return a node and all that it is computed from, up to a boundary, inclusive."""
        seen, queue = {node}, [node]
        while queue:
            for parent in self.data.pred[queue.pop()]:
                if parent not in seen and parent != _INPUTS:
                    seen.add(parent)
                    queue += [] if parent in boundary else [parent]
        return seen


def _chain(flow: _Flow, mixed: MixedOp, source: Any, term: Any) -> list[fx.Node]:
    """Return the nodes that compute a candidate; what runs whatever is drawn is no part of one."""
    found = flow.between(source, term)
    return [node for node in found if home(node) is not None] if isinstance(mixed, Draw) else found


def _read_by(node: fx.Node) -> list[Any]:
    if node.op == "placeholder":
        return [_INPUTS]
    if node.target in _NO_DATA or not facts(node.target).gives_data:
        return []
    if home(node) is not None or is_draw(node):  # weights of candidates are no data
        return [parent for parent in node.all_input_nodes if not is_number(parent)]
    return [parent for parent in node.all_input_nodes if facts(parent.target).gives_data]


def _find_sources(flow: _Flow, found: list[MixedOp]) -> list[Any]:
    """Return the value that each mixed operation's candidates read.

    That is the nearest common dominator of its terms, but no part of a candidate: a term that only its mixed operation
    reads is the end of one, and what candidates' modules compute may have been shared by several, across edges too.
    """
    nearest = [_nearest_source(flow, mixed) for mixed in found]
    pairs = list(zip(found, nearest, strict=True))
    sums = [(mixed, source) for mixed, source in pairs if not isinstance(mixed, Draw)]
    scopes = {scope for mixed, source in sums for scope in _candidate_scopes(flow, mixed, source)}
    sources: list[Any] = []
    for mixed, source in pairs:
        if isinstance(mixed, Draw):
            sources.append(source)
            continue
        outer = [scope for scope in scopes if not is_under(_scope(mixed), scope)]

        def is_part(value: fx.Node, outer: list[str] = outer) -> bool:
            return any(is_under(place_of(value), scope) for scope in outer)

        sources.append(flow.climb(source, is_part))
    return sources


def _nearest_source(flow: _Flow, mixed: MixedOp) -> Any:
    terms = dict.fromkeys(term for term in mixed.terms if term in flow.data)
    if not terms:
        return _CONSTANT
    source, scope = flow.common_dominator(terms), _scope(mixed)
    if isinstance(mixed, Draw):
        return flow.climb(source, lambda value: home(value) is not None)
    if source not in terms:
        return source
    others = {_branch(term, scope) for term in terms if term is not source} - {""}
    branches = {_branch(source, scope)} if len(terms) == 1 else others
    end = mixed.node, mixed.edge
    return flow.climb(source, lambda value: _branch(value, scope) in branches and flow.serves_only(value, end))


def _candidate_scopes(flow: _Flow, mixed: MixedOp, source: Any) -> list[str]:
    """Return, for each candidate with nodes of its own, the innermost module that they all run in or are."""
    chains = {term: flow.between(source, term) for term in mixed.terms if term in flow.data}
    counts = Counter(node for chain in chains.values() for node in chain)
    owned = [[place_of(node) for node in chain if counts[node] == 1] for chain in chains.values()]
    scopes = [common_path(places) for places in owned if places]
    inside = [scope for scope in scopes if scope != _scope(mixed) and is_under(scope, _scope(mixed))]
    return [s for s in inside if sum(is_under(s, other) or is_under(other, s) for other in scopes) == 1]


def _scope(mixed: MixedOp) -> str:
    return str(mixed.node.meta.get("scope", ""))


def _branch(node: fx.Node, scope: str) -> str:
    """Return the first name below ``scope`` on the way to where a node runs; empty where it runs elsewhere."""
    place = place_of(node)
    return place[len(scope) :].lstrip(".").split(".")[0] if is_under(place, scope) else ""


def _add_value(graph: nx.MultiDiGraph, gm: fx.GraphModule, value: Any) -> str:
    if not isinstance(value, fx.Node):
        graph.add_node(value, type="", op=value)
        return str(value)
    graph.add_node(value.name, type=str(value.meta.get("type", "")), op=label_of(gm, value))
    return value.name


def _candidate(gm: fx.GraphModule, term: Any, chain: list[fx.Node]) -> dict[str, Any]:
    labels = tuple(label_of(gm, node) for node in chain) or (
        ("identity",) if isinstance(term, fx.Node) else (_CONSTANT,)
    )
    origins = dict.fromkeys(name for node in chain for name in node.meta.get("origin", (node.name,)))
    return {
        "ops": ("zero",) if is_zero(term) else labels,
        "nodes": tuple(node.name for node in chain),
        "modules": tuple(str(node.target) for node in chain if node.op == "call_module"),
        "origins": tuple(origins),
    }


def _connect(graph: nx.MultiDiGraph, flow: _Flow, values: dict[str, fx.Node]) -> None:
    """Add the plain edges: what sources, and sums within candidates, are computed from."""
    known = set(values.values())
    for name, value in values.items():
        if value not in flow.data:
            continue
        region = flow.upstream(value, known - {value})
        for start in sorted(region & known - {value}, key=flow.order.__getitem__):
            if is_edge_end(value) and (not is_edge_end(start) or graph.has_edge(start.name, name)):
                continue
            inner = nx.descendants(flow.data.subgraph(region - known | {start}), start)
            between = sum(isinstance(node, fx.Node) for node in inner)
            graph.add_edge(start.name, name, kind="plain", between=between)


def _folded_weight(term: Any) -> Any:
    """Return the weight that a term carries itself, or None."""
    scale = facts(getattr(term, "target", None)).scale
    return None if scale is None else term.args[scale]


def _weight_text(weight: Any) -> str:
    """Write a weight as its user would: ``softmax[0][2]``."""
    if not isinstance(weight, fx.Node):
        return f"{weight:g}" if weight is not None else "…"
    if weight.op == "get_attr":
        return str(weight.target)
    if weight.target in RESHAPES:
        return _weight_text(weight.args[0])
    if weight.target is operator.getitem:
        return f"{_weight_text(weight.args[0])}[{str(weight.args[1]).strip('()')}]"
    if weight.target is operator.mul:
        return " * ".join(_weight_text(factor) for factor in weight.args)
    return weight.name
