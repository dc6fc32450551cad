"""Weighted sums, however they are written: reading additions, differences and products with scalars."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.stacked_terms import inputs_of


@dataclass(frozen=True)
class Term:
    """One addend: ``number * product(factors) * value``; a value of 1 is a bare weight."""

    value: fx.Node | float
    factors: tuple[fx.Node, ...]
    number: float


def read_sum(root: fx.Node) -> tuple[tuple[Term, ...], tuple[fx.Node, ...]]:
    """Take a sum apart, from its root.

    Returns:
        Its terms in order, and the nodes that compute it, root first.
    """
    return _Reader(root).read()


@dataclass
class _Reader:
    """Takes a sum apart, from its root."""

    root: fx.Node
    terms: list[Term] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)

    def read(self) -> tuple[tuple[Term, ...], tuple[fx.Node, ...]]:
        self._split(self.root, (), 1.0)
        return tuple(self.terms), tuple(self.nodes)

    def _visit(self, value: Any, factors: tuple[fx.Node, ...], number: float) -> None:
        """Take ``number * factors * value`` apart further, or add it as a term."""
        if not isinstance(value, fx.Node):
            if value != 0:
                self.terms.append(Term(1.0, factors, number * value))
        elif _is_scalar(value) and not _is_scalar(self.root):
            self.terms.append(Term(1.0, (*factors, value), number))
        elif _is_zeros(value):
            return
        elif len(value.users) == 1 and self._may_split(value):
            self._split(value, factors, number)
        else:
            self.terms.append(Term(value, factors, number))

    def _may_split(self, node: fx.Node) -> bool:
        if is_addition(node) or is_mixed_sum(node):
            return True
        scaled = _scaled(node)
        if scaled is None:
            return False
        inner, scale = scaled
        if isinstance(scale, fx.Node):
            return True
        return isinstance(inner, fx.Node) and len(inner.users) == 1 and self._may_split(inner)

    def _split(self, node: fx.Node, factors: tuple[fx.Node, ...], number: float) -> None:
        self.nodes.append(node)
        if is_mixed_sum(node):
            for term, weight in zip(node.args[0], node.args[1], strict=True):  # type: ignore[arg-type]
                self._add_weighted(term, weight, factors, number)
            return
        scaled = _scaled(node)
        if scaled is not None:
            inner, scale = scaled
            if isinstance(scale, fx.Node):
                self._visit(inner, (*factors, scale), number)
            else:
                self._visit(inner, factors, number * scale)
            return
        left, right = node.args[:2]
        self._visit(left, factors, number)
        self._visit(right, factors, number * _sign(node))

    def _add_weighted(self, term: Any, weight: Any, factors: tuple[fx.Node, ...], number: float) -> None:
        if isinstance(weight, fx.Node):
            self.terms.append(Term(term, (*factors, weight), number))
        else:
            self.terms.append(Term(term, factors, number * float(weight)))


def is_addition(node: fx.Node) -> bool:
    """Return whether a node adds or subtracts two values of known type, by a number times the second at most."""
    if len(node.args) != 2 or "type" not in node.meta or not isinstance(_sign(node), int | float):
        return False
    return node.target in _ADDITIONS and set(node.kwargs) <= {"alpha"}


def _sign(node: fx.Node) -> Any:
    """Return what the second operand of an addition is multiplied by: ``alpha``, negative in a difference."""
    alpha: Any = node.kwargs.get("alpha", 1)
    return -alpha if node.target in _DIFFERENCES and isinstance(alpha, int | float) else alpha


_DIFFERENCES = (operator.sub, torch.sub, "sub", "sub_")
_ADDITIONS = (operator.add, torch.add, "add", "add_", *_DIFFERENCES)


def _scaled(node: fx.Node) -> tuple[Any, fx.Node | float] | None:
    """Read ``value * scale`` in either order, ``value / number`` or ``-value``; None for anything else."""
    if node.target is operator.neg:
        return node.args[0], -1.0
    if node.target not in (operator.mul, operator.truediv) or len(node.args) != 2:
        return None
    left, right = node.args
    if isinstance(right, int | float) and not isinstance(right, bool):
        return left, float(right) if node.target is operator.mul else 1.0 / right if right else math.inf
    if node.target is operator.truediv:
        return None
    if isinstance(left, int | float):
        return right, float(left)
    if _is_scalar(left) and not _is_scalar(right):
        return right, left  # type: ignore[return-value]
    if _is_scalar(right) and not _is_scalar(left):
        return left, right  # type: ignore[return-value]
    return None


def _is_scalar(node: Any) -> bool:
    """Return whether a node is one number that multiplies every element alike, whatever the batch size."""
    known = node.meta.get("type") if isinstance(node, fx.Node) else None
    if known is None or math.prod(known.shape) != 1 or not known.dtype.is_floating_point:
        return False
    return not known.shape or next(inputs_of(node), None) is None


def _is_zeros(node: fx.Node) -> bool:
    made = node.target in (torch.zeros, torch.zeros_like) or node.target == "new_zeros"
    return made and len(node.users) == 1 and "requires_grad" not in node.kwargs
