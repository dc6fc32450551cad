"""Editing a mixed sum: its terms with their weights and edges, read, changed and written back."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx

from toponas_fx.rewriting.rewriter import Rewriter


class SumTerms:
    """The terms of one ``mixed_sum``, by position.

    Attributes:
        node: the sum.
        terms: nodes and numbers, n of them.
        weights: theirs, nodes and numbers.
        edges: the numbers of their edges.
    """

    def __init__(self, node: fx.Node) -> None:
        """Read them off the sum."""
        parts: Any = node.args
        self.node = node
        self.terms, self.weights, self.edges = map(list, parts)

    def put(self, position: int, term: Any, weight: Any) -> None:
        """Let a term with its weight take the place of another."""
        self.terms[position], self.weights[position] = term, weight

    def insert(self, position: int, term: Any, weight: Any, edge: int) -> None:
        """Add a term before another."""
        for row, value in zip((self.terms, self.weights, self.edges), (term, weight, edge), strict=True):
            row.insert(position, value)

    def drop(self, positions: Collection[int]) -> None:
        """Take terms out."""
        rows = self.terms, self.weights, self.edges
        rest = [i for i in range(len(self.terms)) if i not in positions]
        self.terms, self.weights, self.edges = ([row[i] for i in rest] for row in rows)

    def write(self, rewriter: Rewriter, *, is_kept: bool = False) -> None:
        """Give them back to the sum; a value alone, with the weight 1, takes its place, unless the sum is kept."""
        if not is_kept and self.weights == [1.0] and isinstance(self.terms[0], fx.Node):
            rewriter.replace(self.node, self.terms[0])
        else:
            rewriter.update(self.node, (self.terms, self.weights, tuple(self.edges)))
