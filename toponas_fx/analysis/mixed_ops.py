"""Mixed operations: reading the normal form ``mixed_sum(terms, weights, edges)``, and grouping terms into edges."""

from __future__ import annotations

import heapq
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.weight_elements import Elements

_SIZES = ("size", "numel")


@dataclass(frozen=True)
class MixedOp:
    """The candidates of one edge: those terms of a ``mixed_sum`` that bear one edge number.

    Attributes:
        node: the ``mixed_sum``.
        edge: the edge number.
        positions: where its terms stand in the sum.
    """

    node: fx.Node
    edge: int
    positions: tuple[int, ...]

    @property
    def terms(self) -> list[Any]:
        """Its terms: nodes, or plain numbers."""
        return [self.node.args[0][i] for i in self.positions]  # type: ignore[index]

    @property
    def weights(self) -> list[Any]:
        """Its weights: nodes, or plain numbers."""
        return [self.node.args[1][i] for i in self.positions]  # type: ignore[index]


def is_mixed_sum(node: Any) -> bool:
    """Return whether a value is a ``mixed_sum`` node."""
    return isinstance(node, fx.Node) and node.target is ops.mixed_sum


def is_negated(weight: fx.Node) -> bool:
    """Return whether a weight is the product of a tensor and a negative number: its term is subtracted."""
    number = weight.args[1] if weight.target is operator.mul else None
    return isinstance(number, int | float) and number < 0


def mixed_ops(graph: fx.Graph) -> Iterator[MixedOp]:
    """Yield the mixed operations of a graph, in its order."""
    for node in graph.nodes:
        if is_mixed_sum(node):
            edges: tuple[int, ...] = node.args[2]
            for edge in dict.fromkeys(edges):
                yield MixedOp(node, edge, tuple(i for i, number in enumerate(edges) if number == edge))


def edge_numbers(
    terms: Sequence[Any], factors: Sequence[Sequence[fx.Node]], inside: Collection[fx.Node]
) -> tuple[int, ...]:
    """Number the edges that the terms of one sum belong to.

    Terms belong together where they read the same tensor and their weights come from the same row, whatever the order
    of the additions.

    Args:
        terms: n terms, nodes or numbers.
        factors: for each term, the nodes whose product is its weight.
        inside: the nodes of the sum itself.

    Returns:
        n edge numbers, from 0 in order of appearance.
    """
    numbers: dict[Any, int] = {}
    elements = Elements()
    found = [[element for element in map(elements.find, nodes) if element is not None] for nodes in factors]
    rows = [tuple(element.row for element in row) for row in found]
    others = {term for term in terms if isinstance(term, fx.Node)}
    sources = [source_of(term, inside, others) if isinstance(term, fx.Node) else None for term in terms]
    known = {row: source for row, source in zip(rows, sources, strict=True) if source is not None}
    keys = [(row, known.get(row) if source is None else source) for row, source in zip(rows, sources, strict=True)]
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)


def source_of(term: fx.Node, inside: Collection[fx.Node], terms: Collection[fx.Node] = ()) -> Any:
    """Return the tensor that a candidate reads: what lies above the nodes that serve nothing but this term.

    Args:
        term: the candidate's last node.
        inside: the nodes of the sum that it is a term of.
        terms: all terms of the sum; a candidate that reads another one reads it as its input.

    Returns:
        A node; a tuple of nodes where there are several; None where the candidate reads no tensor computed before.
    """
    _, boundary = _split_above(term, inside, terms)
    values = [node for node in boundary if node.op != "get_attr" and "type" in node.meta and node.meta["type"].shape]
    if len(values) == 1:
        return values[0]
    return tuple(values) or None


def candidate_nodes(term: fx.Node, sum_node: fx.Node) -> list[fx.Node]:
    """Return the nodes that serve nothing but one term of a sum, in the graph's order."""
    terms = {other for other in sum_node.args[0] if isinstance(other, fx.Node)}  # type: ignore[union-attr]
    own, _ = _split_above(term, {sum_node}, terms)
    return own


def _split_above(
    term: fx.Node, inside: Collection[fx.Node], terms: Collection[fx.Node]
) -> tuple[list[fx.Node], list[fx.Node]]:
    """Split what lies above a term into the nodes that only it needs and those just above them."""
    region = set(inside)
    own: list[fx.Node] = []
    boundary: list[fx.Node] = []
    queue: list[_Latest] = [_Latest(term)]
    seen = {term}
    while queue:
        node = heapq.heappop(queue).node
        is_other_term = node is not term and node in terms
        if node.op == "placeholder" or is_other_term or not all(user in region for user in node.users):
            boundary.append(node)
            continue
        region.add(node)
        own.append(node)
        for parent in node.all_input_nodes:
            if parent not in seen and parent.target not in _SIZES:
                seen.add(parent)
                heapq.heappush(queue, _Latest(parent))
    return own[::-1], boundary


@dataclass(frozen=True)
class _Latest:
    """Orders nodes in a heap: those that come last in the graph first."""

    node: fx.Node

    def __lt__(self, other: _Latest) -> bool:
        return self.node > other.node
