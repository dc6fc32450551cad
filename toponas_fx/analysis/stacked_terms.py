"""Tensors stacked along an axis: reading ``stack``, a ``cat`` that a view splits again, and products with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True)
class Stacked:
    """Terms side by side along one axis, and what they are multiplied by.

    Attributes:
        terms: the candidates.
        axis: the axis that they are stacked along.
        factors: tensors of one number for each term.
        nodes: the nodes that stack and multiply, last one first.
    """

    terms: tuple[fx.Node, ...]
    axis: int
    factors: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]


def read_stacked(node: fx.Node) -> Stacked | None:
    """Read a stack, a split ``cat``, or the product of one with numbers along its axis."""
    if node.target is torch.stack:
        return _joined(node)
    if node.target in ("view", "reshape"):
        return _split(node)
    if node.target is not operator.mul:
        return None
    for inner, factor in (node.args[:2], node.args[1::-1]):
        if not isinstance(inner, fx.Node) or not isinstance(factor, fx.Node):
            continue
        found = read_stacked(inner)
        if found is not None and _is_along(factor, found, len(shape_of(inner))):
            return Stacked(found.terms, found.axis, (*found.factors, factor), (node, *found.nodes))
    return None


def _joined(node: fx.Node) -> Stacked | None:
    """Read the terms and the axis of ``stack`` or ``cat``."""
    terms = node.args[0] if node.args else None
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    is_plain = isinstance(terms, tuple | list) and all(isinstance(term, fx.Node) for term in terms)
    if not is_plain or not isinstance(axis, int) or set(node.kwargs) - {"dim"}:
        return None
    return Stacked(tuple(terms), axis % max(1, len(shape_of(node))), (), (node,))  # type: ignore[arg-type]


def _split(view: fx.Node) -> Stacked | None:
    """Read a view that splits the axis of a ``cat`` into its terms again."""
    joined, *sizes = view.args
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = list(sizes[0])
    if not isinstance(joined, fx.Node) or joined.target is not torch.cat:
        return None
    found = _joined(joined)
    if found is None or not found.terms:
        return None
    shape = shape_of(found.terms[0])
    parts = (*shape[: found.axis], len(found.terms), *shape[found.axis :])
    is_split = shape_of(view) == parts and sizes[found.axis] == len(found.terms)
    is_even = all(shape_of(term) == shape for term in found.terms)
    return Stacked(found.terms, found.axis, (), (view, *found.nodes)) if is_split and is_even else None


def is_axis(axis: Any, found: Stacked, node: fx.Node) -> bool:
    """Return whether a number, negative ones too, is the axis that ``node`` is stacked along."""
    return type(axis) is int and axis % max(1, len(shape_of(node))) == found.axis


def _is_along(factor: fx.Node, found: Stacked, rank: int) -> bool:
    """Return whether a factor has one number for each term, the same for all else, whatever the batch size."""
    own = shape_of(unexpanded(factor))
    sizes = (1,) * (rank - len(own)) + own
    if len(sizes) != rank or not sizes[found.axis] == len(found.terms) == math.prod(sizes):
        return False
    return len(own) == 1 or all(1 not in shape_of(given) for given in inputs_of(factor))


def inputs_of(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the inputs of the graph that a node is computed from."""
    seen, queue = {node}, [node]
    while queue:
        current = queue.pop()
        if current.op == "placeholder":
            yield current
        fresh = [parent for parent in current.all_input_nodes if parent not in seen]
        seen.update(fresh)
        queue += fresh


def unexpanded(node: fx.Node) -> fx.Node:
    """Look through ``expand``."""
    while node.target in ("expand", "expand_as") and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's tensor; that of a scalar where it is unknown."""
    known = node.meta.get("type")
    return () if known is None else tuple(known.shape)
