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

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.memory import Memory, why_not_gathered
from toponas_fx.analysis.mixed_ops import edge_numbers, is_mixed_sum
from toponas_fx.analysis.stacked_terms import inputs_of
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Term:
    """One addend: ``number * product(factors) * value``; a value of 1 is a bare weight."""

    value: fx.Node | float
    factors: tuple[fx.Node, ...]
    number: float


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
            if node in taken or not _is_addition(node):
                continue
            found = _Reader(node).read()
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


@dataclass
class _Reader:
    """Takes a sum apart, from its root."""

    root: fx.Node
    terms: list[Term] = field(default_factory=list)
    nodes: list[fx.Node] = field(default_factory=list)

    def read(self) -> FoundSum:
        self._split(self.root, (), 1.0)
        return FoundSum(tuple(self.terms), tuple(self.nodes))

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
        if _is_addition(node) or is_mixed_sum(node):
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


def _is_addition(node: fx.Node) -> bool:
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
    """Tell whether a node is one number that multiplies every element alike, whatever the batch size."""
    known = node.meta.get("type") if isinstance(node, fx.Node) else None
    if known is None or math.prod(known.shape) != 1 or not known.dtype.is_floating_point:
        return False
    return not known.shape or next(inputs_of(node), None) is None


def _is_zeros(node: fx.Node) -> bool:
    made = node.target in (torch.zeros, torch.zeros_like) or node.target == "new_zeros"
    return made and len(node.users) == 1 and "requires_grad" not in node.kwargs


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
