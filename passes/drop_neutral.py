"""Take away arithmetic that changes nothing: additions of 0, and products of a zero that must stay.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = mul(%0, 0.0)
    %4 = getitem(%1, 1)
    %5 = mixed_sum([%3, 1.0], [%2, %4], (0, 0))
    %6 = relu(%5)
    %7 = add(%6, 0)
    %8 = tanh(%7)
    return %8

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = getitem(%1, 1)
    %4 = zeros_of(%0)
    %5 = mixed_sum([%4, 0.0, 1.0], [1.0, %2, %3], (0, 0, 0))
    %6 = relu(%5)
    %7 = tanh(%6)
    return %7

Python's ``sum`` begins with 0, and a node of a cell is such a sum. A zero candidate that gives its sum a shape, or
gives a gradient, of zeros, to what nothing else reads, cannot be dropped; but its product with the weight need not be
computed, and the gradient to the weight is the number 0.

Refuses:

1. additions whose result, or what is added to, is written in place, or may be one with what is returned;
2. zeros that are not a product with the number 0 of a tensor of their shape, or whose tensor is written in place.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.image_layouts import exits
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.zero_terms import is_zero
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class Addition:
    """An addition of the number 0 to a value."""

    node: fx.Node
    value: fx.Node

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The addition."""
        return (self.node,)

    def describe(self) -> str:
        """Say that it goes."""
        return "an addition of 0 goes"


@dataclass(frozen=True)
class Product:
    """A zero term of a sum that stays, by position."""

    sum_node: fx.Node
    position: int

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The sum, and the zero."""
        terms: Any = self.sum_node.args[0]
        return self.sum_node, terms[self.position]

    def describe(self) -> str:
        """Say that it is not multiplied."""
        return "a zero that must stay is not multiplied by its weight"


@dataclass(frozen=True)
class DropNeutral(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "drop-neutral"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find additions of 0, and zero terms of sums."""
        matches: list[Addition | Product] = []
        refusals: list[Refusal] = []
        memory = Memory.of(gm)
        leaving = {value.meta.get("storage") for reader in exits(gm.graph) for value in reader.all_input_nodes}
        for node in gm.graph.nodes:
            value = _added_to(node)
            if value is not None:
                reason = _why_kept(memory, node, value, leaving)
                if reason is None:
                    matches.append(Addition(node, value))
                else:
                    refusals.append(Refusal((node,), reason))
            if not is_mixed_sum(node):
                continue
            terms: Any = node.args[0]
            weights: Any = node.args[1]
            zeros = [i for i, term in enumerate(terms) if is_zero(term, memory) and isinstance(weights[i], fx.Node)]
            products = [Product(node, i) for i in zeros if _is_product(terms[i], memory)][:1]
            matches += products
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: Addition | Product, rewriter: Rewriter) -> None:
        """Read the value itself, or a zero that nothing was computed for."""
        if isinstance(match, Addition):
            rewriter.replace(match.node, match.value)
        else:
            _leave_zero(match, rewriter)


def _leave_zero(match: Product, rewriter: Rewriter) -> None:
    found, at = SumTerms(match.sum_node), match.position
    zero, weight = found.terms[at], found.weights[at]
    with rewriter.before(match.sum_node, zero):
        fresh = rewriter.call_function(ops.zeros_of, (_source(zero),), type=zero.meta["type"])
    found.put(at, fresh, 1.0)
    found.insert(at + 1, 0.0, weight, found.edges[at])
    found.write(rewriter, is_kept=True)
    rewriter.erase_unread([zero])


def _added_to(node: fx.Node) -> fx.Node | None:
    """Return what the number 0 is added to, if that is all that a node does."""
    kind = node.meta.get("type")
    if node.target is not operator.add or len(node.args) != 2 or node.kwargs or kind is None:
        return None
    for value, other in (node.args, node.args[::-1]):
        if type(other) in (int, float) and other == 0 and isinstance(value, fx.Node) and value.meta.get("type") == kind:
            return value
    return None


def _why_kept(memory: Memory, node: fx.Node, value: fx.Node, leaving: set[Any]) -> str | None:
    if not memory.is_steady(node):
        return "its memory, or what it reads, is written in place"
    if node.meta.get("storage") in leaving or value.meta.get("storage") in leaving or not value.op.startswith("call_"):
        return "the sum and what it is of may both be returned, or belong to the caller"
    if node.meta.get("grad", True) != value.meta.get("grad", True):
        return "it reaches across a switch of grad mode"
    return None


def _is_product(zero: fx.Node, memory: Memory) -> bool:
    return _source(zero) is not None and memory.is_steady(zero)


def _source(zero: fx.Node) -> fx.Node | None:
    """Return what a zero is a product of, of the same type; None for other zeros."""
    if zero.target is not operator.mul:
        return None
    nodes = [arg for arg in zero.args if isinstance(arg, fx.Node)]
    return nodes[0] if len(nodes) == 1 and nodes[0].meta.get("type") == zero.meta.get("type") else None


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * x.mul(0.0) + self.alphas[1]
            return torch.tanh(torch.relu(total) + 0)

    return Example(), torch.ones(1, 2)
