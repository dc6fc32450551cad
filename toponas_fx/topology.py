"""The topology of a supernet: a multigraph whose nodes are values and whose edges are candidates.

An analysis over the normal form: it reads ``mixed_sum`` nodes, before or after the other rewrites, and changes nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

import networkx as nx
import torch
from torch import fx

from toponas_fx import ops
from toponas_fx.linear_ops import linear_op
from toponas_fx.mixtures import Mixture, is_mixed_sum, mixtures

_INPUTS, _EXIT = "inputs", "exit"
_CONSTANT = "constant"
_NO_DATA = ("size", "numel", "dim", ops.guard)
_TRANSPARENT = ("unbind", "view", "reshape", "squeeze", "unsqueeze", "contiguous", "detach", torch.reshape)


def build_topology(gm: fx.GraphModule) -> nx.MultiDiGraph:
    """Return the values and candidates of a model in which mixed sums were detected.

    Graph nodes are the results of mixed sums and the values that their candidates start from, keyed by the name of
    the fx node (``"inputs"`` where candidates start from several inputs, ``"constant"`` for bare numbers), with the
    attributes ``type``, such as ``f32[2,4,8,8]``, and ``op``.

    An edge of ``kind="candidate"`` leads from the value that a candidate reads to its mixed sum: ``mixture`` (the edge
    number within the sum), ``position`` (of the term), ``nodes`` (the fx nodes between, in order, the term last),
    ``ops`` (a label for each of them; ``("identity",)`` for the value itself, ``("zero",)`` for a term that is always
    zero), ``modules`` (paths of the modules called), ``weight`` (a short text), ``origins`` (the captured nodes that
    it was made from). An edge of ``kind="plain"`` connects a value with one that is computed from it otherwise;
    ``between`` is the number of fx nodes in between.
    """
    flow = _Flow(gm.graph)
    found = list(mixtures(gm.graph))
    sources = _find_sources(flow, found)
    graph = nx.MultiDiGraph()
    for mixture, source in zip(found, sources, strict=True):
        _add_value(graph, gm, mixture.node)
        for position, term, weight in zip(mixture.positions, mixture.terms, mixture.weights, strict=True):
            start = source if not isinstance(term, fx.Node) or term in flow.data else term
            key = _add_value(graph, gm, start)
            candidate = _candidate(gm, flow.between(start, term))
            place = {"kind": "candidate", "mixture": mixture.edge, "position": position}
            if candidate["ops"] == ("identity",) and not isinstance(term, fx.Node):
                candidate["ops"] = ("zero",) if term == 0 else (_CONSTANT,)
            graph.add_edge(key, mixture.node.name, **place, **candidate, weight=_weight_text(weight))
    _connect(graph, flow, {node.name: node for node in gm.graph.nodes if node.name in graph})
    return graph


class _Flow:
    """The flow of data from inputs to outputs: without what only reads parameters, weights of sums, and sizes."""

    def __init__(self, graph: fx.Graph) -> None:
        """Order the nodes of a graph and find their dominators and post-dominators."""
        self.order: dict[Any, int] = {node: index for index, node in enumerate(graph.nodes)}
        self.data = nx.DiGraph()
        self.data.add_nodes_from([_INPUTS, _EXIT])
        for node in graph.nodes:
            parents = [_INPUTS] if node.op == "placeholder" else [p for p in _read_by(node) if p in self.data]
            self.data.add_edges_from((parent, node) for parent in parents)
        ends = [node for node, degree in self.data.out_degree if degree == 0 and node != _EXIT]
        self.data.add_edges_from((end, _EXIT) for end in ends)
        self.above: dict[Any, Any] = nx.immediate_dominators(self.data, _INPUTS)
        self.below: dict[Any, Any] = nx.immediate_dominators(self.data.reverse(copy=False), _EXIT)
        self.order.update({_INPUTS: -1, _EXIT: len(self.order)})

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

    def up(self, node: Any) -> Any:
        """Return the nearest dominator above; the node itself where mixtures lie between."""
        dominator = self.above[node]
        inside = [part for part in self.between(dominator, node) if part is not node]
        return node if dominator == _INPUTS or any(is_mixed_sum(part) for part in inside) else dominator

    def serves_only(self, node: Any, end: fx.Node) -> bool:
        """Tell whether all that is computed from a node goes into ``end``, which then post-dominates it."""
        while self.order[node] < self.order[end]:
            node = self.below[node]
        return node is end

    def between(self, source: Any, term: Any) -> list[fx.Node]:
        """Return the nodes on the paths from a value, exclusive, to a term, inclusive, in order."""
        if term is source or not isinstance(term, fx.Node):
            return []
        region = self.upstream(term, {source})
        return sorted((node for node in region if node is not source), key=self.order.__getitem__)

    def upstream(self, node: fx.Node, boundary: set[Any]) -> set[Any]:
        """Return a node and all that it is computed from, up to a boundary, inclusive."""
        seen, queue = {node}, [node]
        while queue:
            for parent in self.data.pred[queue.pop()]:
                if parent not in seen and parent != _INPUTS:
                    seen.add(parent)
                    queue += [] if parent in boundary else [parent]
        return seen


def _read_by(node: fx.Node) -> Iterator[fx.Node]:
    if node.target in _NO_DATA:
        return
    terms: Any = node.args[0] if is_mixed_sum(node) else node.all_input_nodes
    yield from (term for term in terms if isinstance(term, fx.Node))


def _find_sources(flow: _Flow, found: list[Mixture]) -> list[Any]:
    """Return the value that each mixture's candidates read.

    That is the nearest common dominator of its terms, but no part of a candidate: a term that only its mixture reads
    is the end of one, and what candidates' modules compute may have been shared by several, across mixtures too.
    """
    nearest = [_nearest_source(flow, mixture) for mixture in found]
    scopes = {
        scope
        for mixture, source in zip(found, nearest, strict=True)
        if source != _CONSTANT
        for scope in _candidate_scopes(flow, mixture, source)
    }
    sources: list[Any] = []
    for mixture, source in zip(found, nearest, strict=True):
        home = _home(mixture)
        outer = {scope for scope in scopes if not _is_under(home, scope)}
        while _is_inner(source) and any(_is_under(_place(source), scope) for scope in outer):
            higher = flow.up(source)
            if higher is source:
                break
            source = higher
        sources.append(source)
    return sources


def _nearest_source(flow: _Flow, mixture: Mixture) -> Any:
    terms = dict.fromkeys(term for term in mixture.terms if isinstance(term, fx.Node) and term in flow.data)
    if not terms:
        return _CONSTANT
    source = flow.common_dominator(terms)
    if source not in terms:
        return source
    home = _home(mixture)
    branches = {_branch(term, home) for term in terms if len(terms) == 1 or term is not source}
    while _is_inner(source) and flow.serves_only(source, mixture.node) and _branch(source, home) in branches:
        higher = flow.up(source)
        if higher is source:
            break
        source = higher
    return source


def _candidate_scopes(flow: _Flow, mixture: Mixture, source: Any) -> list[str]:
    """Return, for each candidate with nodes of its own, the innermost module that they all run in or are."""
    chains = {term: set(flow.between(source, term)) for term in mixture.terms if term in flow.data}
    scopes: list[str] = []
    for term, chain in chains.items():
        own = chain.difference(*(other for key, other in chains.items() if key is not term))
        if own:
            scopes.append(_common_path([_place(node) for node in own]))
    home = _home(mixture)
    return [
        scope
        for scope in scopes
        if scope != home
        and _is_under(scope, home)
        and sum(_is_under(scope, other) or _is_under(other, scope) for other in scopes) == 1
    ]


def _is_inner(value: Any) -> bool:
    """Tell whether a value may be a part of a candidate."""
    return isinstance(value, fx.Node) and value.op != "placeholder" and not is_mixed_sum(value)


def _home(mixture: Mixture) -> str:
    return str(mixture.node.meta.get("scope", ""))


def _place(node: fx.Node) -> str:
    """Return the path of the module that a node is, or runs in."""
    return str(node.target if node.op == "call_module" else node.meta.get("scope", ""))


def _branch(node: fx.Node, home: str) -> str | None:
    """Return the first name below ``home`` on the way to where a node runs; None where it runs elsewhere."""
    place = _place(node)
    if place == home or not _is_under(place, home):
        return None
    return place[len(home) :].lstrip(".").split(".")[0]


def _is_under(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(root + ".")


def _common_path(paths: Iterable[str]) -> str:
    levels = zip(*(path.split(".") for path in paths), strict=False)
    common: list[str] = []
    for level in levels:
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)


def _add_value(graph: nx.MultiDiGraph, gm: fx.GraphModule, value: Any) -> str:
    if not isinstance(value, fx.Node):
        graph.add_node(value, type="", op=value)
        return str(value)
    graph.add_node(value.name, type=str(value.meta.get("type", "")), op=_label(gm, value))
    return value.name


def _candidate(gm: fx.GraphModule, chain: list[fx.Node]) -> dict[str, Any]:
    labels = tuple(_label(gm, node) for node in chain) or ("identity",)
    origins = dict.fromkeys(name for node in chain for name in node.meta.get("origin", (node.name,)))
    return {
        "ops": ("zero",) if chain and _is_zero(chain[-1]) else labels,
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
            if is_mixed_sum(value) and (not is_mixed_sum(start) or graph.has_edge(start.name, name)):
                continue
            inner = flow.data.subgraph(region - known | {start})
            graph.add_edge(start.name, name, kind="plain", between=len(nx.descendants(inner, start)))


def _label(gm: fx.GraphModule, node: fx.Node) -> str:
    """Return a short name of what a node computes: ``Conv2d 3x3 dw d2 s2``, ``relu``."""
    operation = linear_op(gm, node)
    if operation is not None and node.op == "call_function":
        name = f"Conv{operation.dims}d" if operation.dims else "Linear"
        shape, groups = operation.kernel_shape, operation.groups
        return _geometry(name, shape[2:], shape[1] * groups, groups, operation.dilation, operation.stride)
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        get = vars(module).get
        size, stride = get("kernel_size", ()), get("stride", 1)
        sizes = size if isinstance(size, tuple) else (size, size)
        channels, groups = get("in_channels", 0), get("groups", 1)
        return _geometry(type(module).__name__, sizes, channels, groups, get("dilation", 1), stride)
    if node.op in ("placeholder", "get_attr"):
        return "input" if node.op == "placeholder" else str(node.target)
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name))


def _geometry(name: str, size: tuple[Any, ...], channels: int, groups: int, dilation: Any, stride: Any) -> str:
    parts = [name]
    if size:
        parts.append("x".join(map(str, size)))
    if groups > 1:
        parts.append("dw" if groups == channels else f"g{groups}")
    for letter, option in (("d", dilation), ("s", stride)):
        numbers = dict.fromkeys(option if isinstance(option, tuple) else (option,))
        if any(number != 1 for number in numbers):
            parts.append(letter + "x".join(map(str, numbers)))
    return " ".join(parts)


def _is_zero(node: fx.Node) -> bool:
    if node.target is operator.mul:
        return any(isinstance(factor, int | float) and factor == 0 for factor in node.args)
    if node.target is torch.cat:
        return all(_is_zero(part) for part in node.args[0])  # type: ignore[union-attr, arg-type]
    return node.target in (torch.zeros, torch.zeros_like, "new_zeros")


def _weight_text(weight: Any) -> str:
    """Write a weight as its user would: ``softmax[0][2]``."""
    if not isinstance(weight, fx.Node):
        return f"{weight:g}" if isinstance(weight, int | float) else str(weight)
    if weight.op == "get_attr":
        return str(weight.target)
    if weight.target in _TRANSPARENT:
        return _weight_text(weight.args[0])
    if weight.target is operator.getitem:
        return f"{_weight_text(weight.args[0])}[{_index_text(weight.args[1])}]"
    if weight.target is operator.mul:
        return " * ".join(_weight_text(factor) for factor in weight.args)
    return weight.name


def _index_text(index: Any) -> str:
    if isinstance(index, tuple):
        return ", ".join(map(_index_text, index))
    if isinstance(index, slice):
        return ":".join("" if part is None else str(part) for part in (index.start, index.stop))
    return str(index)
