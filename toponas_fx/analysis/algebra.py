"""One line of algebra for an edge: ``Σ wᵢ·BNᵢ(convᵢ(relu x))``, then ``W·BN(conv(relu x; Σ pᵢ·K̂ᵢ))``.

Both are read off the graph, before the passes and after. ``x`` is what the edge reads, ``wᵢ`` the architecture weight
of its candidate ``i``, ``pᵢ`` the share of ``wᵢ`` among those that meet in one operation and ``W`` their group weight,
``Kᵢ`` a kernel, ``K̂ᵢ`` one that is normalized, ``dw`` a depthwise convolution. What cannot be told is an ellipsis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import networkx as nx
from torch import fx

from toponas_fx.analysis.algebra_text import Expression, Weight, written
from toponas_fx.analysis.candidate_names import candidate_terms, is_zero
from toponas_fx.analysis.drawn_algebra import written_draw
from toponas_fx.analysis.drawn_edges import Draw, draw_of, edges, is_draw
from toponas_fx.analysis.edge_reader import Edge, EdgeReader
from toponas_fx.analysis.mixed_ops import MixedOp, is_mixed_sum

__all__ = ["ARITHMETIC", "Edge", "edges_of", "with_results"]

ARITHMETIC = (
    "drop-neutral",
    "gather-bare-weights",
    "fold-weights",
    "batch-kernels",
    "lower-depthwise",
    "lower-pooling",
    "convert-layout",
    "recompute",
)
"""Passes by which the same algebra is computed otherwise; it is read before the first of them."""


def edges_of(gm: fx.GraphModule, topology: nx.MultiDiGraph) -> tuple[Edge, ...]:
    """Return the edges of a model in which mixed operations were just detected.

    Args:
        gm: the model.
        topology: what ``build_topology`` returned for it.
    """
    nodes = {node.name: node for node in gm.graph.nodes}
    known = {
        (target, data["mixture"], data["position"]): (source, [nodes[name] for name in data["nodes"]])
        for source, target, data in topology.edges(data=True)
        if data["kind"] == "candidate"
    }
    values = set(topology)
    found: list[Edge] = []
    for mixed in edges(gm.graph):
        parts = [known[mixed.node.name, mixed.edge, position] for position in mixed.positions]
        chains = [chain for _, chain in parts]
        groups = candidate_terms(mixed, chains)
        weights = tuple(_name(mixed.weights[group[0]]) for group in groups)
        tensors = tuple(frozenset(_tensors(gm, [n for i in group for n in chains[i]])) for group in groups)
        places = tuple(tuple(mixed.positions[i] for i in group) for group in groups)
        zeros = frozenset(i for i, group in enumerate(groups) if is_zero(mixed.terms[group[-1]]))
        edge = Edge((mixed.node.name, mixed.edge), parts[0][0], places, weights, tensors, zeros, "")
        reader = EdgeReader.of(gm, edge, nodes, values)
        if isinstance(mixed, Draw):
            text = written_draw(mixed, reader)
        else:
            text = written(reader.sum_of(mixed), len(groups))
        found.append(replace(edge, before=text))
    return tuple(found)


def with_results(gm: fx.GraphModule, known: Sequence[Edge]) -> tuple[Edge, ...]:
    """Add the algebra that each edge came to; an ellipsis for what the graph has no more in the edge's own sum.

    Args:
        gm: the model as the passes left it.
        known: what ``edges_of`` returned before them.
    """
    nodes = {name: node for node in gm.graph.nodes for name in (node.name, *node.meta.get("stands_for", ()))}
    values = {name for edge in known for name in (edge.key[0], edge.source)}
    siblings = Counter(edge.key[0] for edge in known)
    return tuple(replace(edge, after=_after(gm, edge, nodes, values, siblings[edge.key[0]] == 1)) for edge in known)


def _after(gm: fx.GraphModule, edge: Edge, nodes: dict[str, fx.Node], values: set[str], is_alone: bool) -> str:
    node = nodes.get(edge.key[0])
    if node is None or not (is_alone or is_mixed_sum(node)):
        return "…"
    reader = EdgeReader.of(gm, edge, nodes, values)
    if is_draw(node):
        return written_draw(draw_of(node), reader)
    if is_mixed_sum(node):
        total = reader.sum_of(_numbered(node, edge.key[1]))
    else:
        total = Expression("+", (reader.read(node),), (Weight("1"),))
    wanted = [name for i, name in enumerate(edge.weights) if name is not None and i not in edge.zeros]
    if any(nodes.get(name) not in reader.met for name in wanted):
        total = Expression("+", (*total.args, Expression("…")), (*total.weights, Weight("1")))
    return written(total, len(edge.candidates))


def _numbered(node: fx.Node, edge: int) -> MixedOp:
    numbers: Any = node.args[2]
    return MixedOp(node, edge, tuple(i for i, number in enumerate(numbers) if number == edge))


def _name(weight: Any) -> str | None:
    return weight.name if isinstance(weight, fx.Node) else None


def _tensors(gm: fx.GraphModule, chain: Iterable[fx.Node]) -> Iterable[str]:
    for node in chain:
        if node.op == "call_module":
            for name, _ in gm.get_submodule(str(node.target)).named_parameters():
                yield f"{node.target}.{name}"
        yield from (str(parent.target) for parent in node.all_input_nodes if parent.op == "get_attr")
