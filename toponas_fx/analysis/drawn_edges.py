"""Edges that draw one of their candidates at each step: the arms of a choice, each as a candidate and its weight.

An arm gives ``w * op(x)``, and a code base may add more to it: GDAS adds the weights of all candidates not taken. What
is the candidate's own, what it is weighted by and what else is added is read off the arm.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from toponas_fx.analysis.arms import LAZY, home, homes, selects
from toponas_fx.analysis.mixed_ops import MixedOp, candidate_nodes, is_mixed_sum, mixed_ops
from toponas_fx.analysis.node_kinds import ADDITIONS, PRODUCTS
from toponas_fx.ops import choices

_QUOTIENTS = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
UNKNOWN: Any = None
"""The weight of a candidate that is multiplied by several numbers, or divided by one."""


@dataclass(frozen=True)
class Arm:
    """What one arm of a choice gives.

    Attributes:
        value: as the ``select`` reads it.
        term: the candidate's own part of it; all of it where that is no candidate times its weight.
        weight: what that is multiplied by, a node or a number; ``UNKNOWN`` where it is several.
        rest: what is added, each a number or a node of one element, with its factors.
    """

    value: Any
    term: Any
    weight: Any = 1.0
    rest: tuple[tuple[Any, tuple[Any, ...]], ...] = ()


@dataclass(frozen=True)
class Draw(MixedOp):
    """An edge of which a step runs one candidate: a ``select``, with a position for each of its arms.

    Attributes:
        arms: what they give.
    """

    arms: tuple[Arm, ...] = ()

    @property
    def terms(self) -> list[Any]:
        """The candidates' values."""
        return [arm.term for arm in self.arms]

    @property
    def weights(self) -> list[Any]:
        """Their weights: nodes, numbers or ``UNKNOWN``."""
        return [arm.weight for arm in self.arms]


def drawn_edges(graph: fx.Graph) -> Iterator[Draw]:
    """Yield the edges of a graph that draw, in its order; of the values that one choice takes, the largest is one."""
    sites: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if is_draw(node):
            sites.setdefault(node.meta["site"], []).append(node)
    yield from (draw_of(max(own, key=_size)) for own in sites.values())


def mixing_ops(graph: fx.Graph) -> Iterator[MixedOp]:
    """Yield the mixed operations of which all candidates run, also in a graph that draws others.

    Those of which a step draws one are left out, of one candidate (weights that stand alone are added up so), of what
    is no image, and those that do not lie in one place: an arm, or none.
    """
    if not selects(graph):
        yield from mixed_ops(graph)
        return
    images = _from_inputs(graph)
    for mixed in mixed_ops(graph):
        terms = [term for term in mixed.terms if isinstance(term, fx.Node)]
        if mixed.node not in images or len(terms) < 2:
            continue
        own = [node for term in terms for node in candidate_nodes(term, mixed.node)]
        if not any(map(is_draw, [*terms, *own])) and homes([mixed.node, *own]) == {home(mixed.node)}:
            yield mixed


def edges(graph: fx.Graph) -> Iterator[MixedOp]:
    """Yield the edges of a graph: its mixed operations, but for parts of a candidate, and those that draw."""
    found = [mixed for mixed in mixed_ops(graph) if home(mixed.node) is None]
    drawn = list(drawn_edges(graph))
    if not drawn:
        yield from found
        return
    images = _from_inputs(graph)
    found = [mixed for mixed in found if mixed.node in images]  # how a choice is drawn is no edge
    yield from sorted([*found, *drawn], key=lambda edge: images.get(edge.node, -1))


def _from_inputs(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the places of the nodes that are computed from what the graph is given."""
    found: dict[fx.Node, int] = {}
    for place, node in enumerate(graph.nodes):
        if node.op == "placeholder" or any(value in found for value in node.all_input_nodes):
            found[node] = place
    return found


def is_draw(node: Any) -> bool:
    """Return whether a value is taken of the arms of a choice; some choices only tell what runs."""
    return isinstance(node, fx.Node) and node.target is choices.select and "type" in node.meta


def is_edge_end(node: Any) -> bool:
    """Return whether a value is a sum of candidates, or one of them that was drawn."""
    return is_mixed_sum(node) or is_draw(node)


def draw_of(select: fx.Node) -> Draw:
    """Return the edge that ends in a ``select``."""
    values: Any = select.args[2]
    return Draw(select, 0, tuple(range(len(values))), tuple(map(_arm, values)))


def sum_of(select: fx.Node) -> fx.Node:
    """Return the sum that what was drawn is a summand of, or itself where anything else reads it."""
    total = select
    while len(total.users) == 1 and next(iter(total.users)).target in ADDITIONS:
        total = next(iter(total.users))
    return total


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or a tensor of one element: a weight, no image."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    kind = value.meta.get("type")
    return kind is not None and len(kind.shape) < 2 and all(size == 1 for size in kind.shape)


def _size(node: fx.Node) -> tuple[int, int]:
    shape = node.meta["type"].shape if "type" in node.meta else ()
    return len(shape), torch.Size(shape).numel()


def _arm(value: Any) -> Arm:
    parts = list(_summands(value, ()))
    images = [part for part in parts if not is_number(part[0])]
    if len(images) != 1:
        return Arm(value, value)
    (term, factors), rest = images[0], [part for part in parts if part is not images[0]]
    rest = [part for part in rest if part[0] != 0]
    weight = 1.0 if not factors else factors[0] if len(factors) == 1 else UNKNOWN
    return Arm(value, term, weight, tuple(rest))


def _summands(value: Any, factors: tuple[Any, ...]) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield what an arm adds up, each with its factors; what other places compute is not taken apart."""
    inner: list[Any] = [] if not isinstance(value, fx.Node) or home(value) in (None, LAZY) else list(value.args)
    is_plain = len(inner) == 2 and not value.kwargs
    if inner and is_mixed_sum(value):
        for term, weight in zip(inner[0], inner[1], strict=True):
            yield from _summands(term, factors if weight == 1 else (*factors, weight))
    elif is_plain and value.target in ADDITIONS:
        for part in inner:
            yield from _summands(part, factors)
    elif is_plain and value.target in PRODUCTS and sum(map(is_number, inner)) == 1 and 0 not in inner:
        number, image = sorted(inner, key=is_number, reverse=True)
        yield from _summands(image, (*factors, number))
    elif is_plain and value.target in _QUOTIENTS and is_number(inner[1]) and not is_number(inner[0]):
        yield from _summands(inner[0], (*factors, UNKNOWN, UNKNOWN))
    else:
        yield value, factors
