"""Rewrite every weighted sum over candidates into one ``mixed_sum`` node.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = relu(%0)
    %6 = mul(%3, %5)
    %7 = add(%6, 0)
    %8 = tanh(%0)
    %9 = mul(%4, %8)
    %10 = add(%7, %9)
    return %10

After::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = relu(%0)
    %6 = tanh(%0)
    %7 = mixed_sum([%5, %6], [%3, %4], (0, 0))
    return %7

A sum of sums is flattened where the inner one has a single reader; weights that multiply a whole sum are multiplied
into its weights. Terms are grouped into edges by the tensor they read and the row their weight comes from, never by
the shape of the additions: ``sum()`` starts at 0 and adds from the left, so the first edge of a node is a prefix of
the node's own sum. A sum qualifies where at least two of its terms, or all, carry a weight that is a tensor.

Refuses:

1. terms of unlike types, which the sum broadcasts;
2. a sum that is written in place where something else still reads that memory, or a term that is written in place
   before the last one is added;
3. a sum across a switch of grad mode.

Where a sum is refused, the sums within it are looked at by themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.memory import Memory, why_not_gathered
from toponas_fx.analysis.mixed_ops import edge_numbers
from toponas_fx.analysis.weighted_sums import Term, is_addition, read_sum
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class FoundSum:
    """A weighted sum: its terms in order, and the nodes that compute it, root first."""

    terms: tuple[Term, ...]
    nodes: Sequence[fx.Node]

    def describe(self) -> str:
        """Say how many terms were found."""
        weighted = sum(bool(term.factors) for term in self.terms)
        return f"a sum of {len(self.terms)} terms, {weighted} of them weighted, becomes one mixed_sum"


@dataclass(frozen=True)
class DetectMixedOps(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "detect-mixed-ops"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.DETECT

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find all maximal weighted sums."""
        matches: list[FoundSum] = []
        refusals: list[Refusal] = []
        taken: set[fx.Node] = set()
        memory = Memory.of(gm)
        for node in reversed(gm.graph.nodes):
            if node in taken or not is_addition(node):
                continue
            found = FoundSum(*read_sum(node))
            weighted = sum(bool(term.factors) for term in found.terms)
            if not weighted or (weighted < 2 and weighted < len(found.terms)):
                continue
            reason = _why_not(memory, found)
            if reason is None:
                matches.append(found)
                taken.update(found.nodes)
            else:  # a part of it may still do
                refusals.append(Refusal(tuple(found.nodes), reason))
        return Plan(tuple(matches), tuple(refusals))  # from the end: a term may be the root of an earlier sum

    def apply(self, match: FoundSum, rewriter: Rewriter) -> None:
        """Put one ``mixed_sum`` in the place of the additions."""
        root = match.nodes[0]
        inside = set(match.nodes)
        edges = edge_numbers([term.value for term in match.terms], [term.factors for term in match.terms], inside)
        with rewriter.before(root, *match.nodes):
            weights = [_weight(term, rewriter) for term in match.terms]
            values = [term.value for term in match.terms]
            new = rewriter.call_function(ops.mixed_sum, (values, weights, edges))
        new.meta["storage"] = root.meta.get("storage")
        rewriter.replace(root, new)
        rewriter.erase_unread(match.nodes[1:])


def _why_not(memory: Memory, found: FoundSum) -> str | None:
    root = found.nodes[0]
    kind = root.meta["type"]
    for term in found.terms:
        if isinstance(term.value, fx.Node) and term.value.meta.get("type") != kind:
            return f"its terms have unlike types: {term.value.meta.get('type')} in a sum {kind}"
        if any(factor.meta["type"].dtype != kind.dtype for factor in term.factors):
            return f"its weights are not {kind.dtype}"
    if all(not isinstance(term.value, fx.Node) for term in found.terms):
        return "it adds weights, not candidates"
    if len({node.meta.get("grad", True) for node in found.nodes}) > 1:
        return "it reaches across a switch of grad mode"
    return why_not_gathered(memory, found.nodes)


def _weight(term: Term, rewriter: Rewriter) -> Any:
    """Emit the product of a term's factors as one scalar, or return a plain number."""
    product: Any = None
    for factor in term.factors:
        kind = factor.meta["type"]
        scalar = type(kind)(kind.dtype, ())
        flat = rewriter.call_function(torch.reshape, (factor, ()), type=scalar) if kind.shape else factor
        product = flat if product is None else rewriter.call_function(operator.mul, (product, flat), type=scalar)
    if product is None:
        return term.number
    if term.number == 1.0:
        return product
    return rewriter.call_function(operator.mul, (product, term.number), type=product.meta["type"])


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            candidates = (torch.relu, torch.tanh)
            total: Tensor = sum(w * op(x) for w, op in zip(self.alphas, candidates, strict=True))
            return total

    return Example(), torch.ones(1, 2)
