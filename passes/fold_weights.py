"""Fold the weight of a term into the norm or the kernel that computes it.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = BatchNorm1d[norm](%0)
    %4 = getitem(%1, 1)
    %5 = mixed_sum([%3, %0], [%2, %4], (0, 0))
    return %5

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = getitem(%1, 1)
    %4 = attr norm
    %5 = scaled_norm(%0, %4, %2)
    %6 = mixed_sum([%5, %0], [1.0, %3], (0, 0))
    return %6

``w * norm(u)`` is the norm with the affine weights ``w * gamma`` and ``w * beta``; ``w * conv(u, K)`` is the
convolution with the kernel ``w * K`` and the bias ``w * b``. The product is a few numbers instead of a tensor as large
as the term, and the term itself need not be kept for the gradient to the weight. In an arm of a choice bare weights of
the same sum, those of candidates that were not taken, become part of the norm's own bias. An average pooling that
carries its weight keeps its input alone, which a skip keeps anyway; pooled again for each sum that reads it, it still
costs less than the storage. (Formula: this project.)

Refuses:

1. a term that something else reads, unless it is pooled, or that counts twice, or whose input is written in place
   before the sum, or whose norm runs again, or is asked what it counted, before it;
2. norms other than BatchNorm and GroupNorm, and modules with hooks;
3. weights that are plain numbers, those of terms that nothing linear ends, and of poolings of small images.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.costs import USUAL_BATCH
from toponas_fx.analysis.effects import is_scalable_norm
from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.pooling_ops import avg_pool
from toponas_fx.ops import average_pooling
from toponas_fx.rewriting.convolutions import convolve
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms

LARGE = 65536
"""Numbers in pooled images whose storage is worth pooling anew."""


@dataclass(frozen=True)
class WeightedTerm:
    """A term of a sum whose last operation can carry its weight."""

    sum_node: fx.Node
    term: fx.Node

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The term's last operation, and the sum."""
        return self.term, self.sum_node

    def describe(self) -> str:
        """Name the operation."""
        return f"the weight of `{self.term.target if self.term.op == 'call_module' else self.term.name}` is folded in"


@dataclass(frozen=True)
class FoldWeights(Pass):
    """See the module's docstring.

    Attributes:
        pools: whether average poolings carry their weights, pooled anew for each; it saves memory, not time.
    """

    pools: bool = True
    name: ClassVar[str] = "fold-weights"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find all terms whose last operation can carry their weight."""
        matches: list[WeightedTerm] = []
        refusals: list[Refusal] = []
        memory = Memory.of(gm)
        for node in gm.graph.nodes:
            if not is_mixed_sum(node):
                continue
            for term, weight in zip(node.args[0], node.args[1], strict=True):
                if not isinstance(weight, fx.Node) or not isinstance(term, fx.Node) or not self._carries(gm, term):
                    continue
                reason = _why_not(memory, node, term, avg_pool(gm, term) is not None)
                if reason is None:
                    matches.append(WeightedTerm(node, term))
                else:
                    refusals.append(Refusal((term,), reason))
        return Plan(tuple(matches), tuple(refusals))

    def _carries(self, gm: fx.GraphModule, term: fx.Node) -> bool:
        is_linear = is_scalable_norm(gm, term) or linear_op(gm, term) is not None
        return is_linear or (self.pools and avg_pool(gm, term) is not None and _is_large(term))

    def apply(self, match: WeightedTerm, rewriter: Rewriter) -> None:
        """Put the operation with other weights in the place of the term."""
        sum_node, term = match.sum_node, match.term
        found = SumTerms(sum_node)
        position = found.terms.index(term)
        bare = _bare(found) if home(term) is not None and is_scalable_norm(rewriter.gm, term) else []
        with rewriter.before(sum_node, term):
            scaled = _scaled(rewriter, term, found.weights[position], _shift(rewriter, found, bare))
        found.put(position, scaled, 1.0)
        found.drop(bare)
        found.write(rewriter, is_kept=not bare)
        rewriter.erase_unread([term])


def _why_not(memory: Memory, sum_node: fx.Node, term: fx.Node, is_pool: bool) -> str | None:
    terms: Any = sum_node.args[0]
    if (list(term.users) != [sum_node] and not is_pool) or terms.count(term) > 1:
        return "something else reads the term, without the weight"
    passed = memory.passed(term, sum_node)
    if passed & memory.writes.get(term, frozenset()):
        return "the norm runs again before the sum, or something reads what it counts, which depends on the order"
    return "what the term reads is written in place before the sum" if passed else None


def _is_large(term: fx.Node) -> bool:
    batch, *sizes = term.meta["type"].shape
    return bool(max(batch, USUAL_BATCH) * math.prod(sizes) >= LARGE)


def _bare(found: SumTerms) -> list[int]:
    """Return the positions of weights that are added to each element; a norm adds them up with its own."""
    pairs = enumerate(zip(found.terms, found.weights, strict=True))
    bare = [i for i, (term, weight) in pairs if not isinstance(term, fx.Node) and isinstance(weight, fx.Node)]
    return bare if any(isinstance(term, fx.Node) for term in found.terms) else []


def _shift(rewriter: Rewriter, found: SumTerms, bare: Sequence[int]) -> tuple[fx.Node, ...]:
    """Return the sum of bare weights, as what is given to a norm; nothing where there are none."""
    if not bare:
        return ()
    terms, weights, edges = ([row[i] for i in bare] for row in (found.terms, found.weights, found.edges))
    if terms == [1.0]:
        return (weights[0],)
    return (rewriter.call_function(ops.mixed_sum, (terms, weights, tuple(edges)), type=weights[0].meta["type"]),)


def _scaled(rewriter: Rewriter, term: fx.Node, weight: fx.Node, shift: tuple[fx.Node, ...]) -> fx.Node:
    if is_scalable_norm(rewriter.gm, term):
        norm = rewriter.read(str(term.target))
        return rewriter.call_function(ops.scaled_norm, (term.args[0], norm, weight, *shift), type=term.meta["type"])
    pool = avg_pool(rewriter.gm, term)
    if pool is not None:
        args = (pool.value, weight, *pool.window)
        return rewriter.call_function(average_pooling.scaled_avg_pool2d, args, type=term.meta["type"])
    operation = linear_op(rewriter.gm, term)
    assert operation is not None
    kernel = _product(rewriter, operation.kernel, weight)
    bias = None if operation.bias is None else _product(rewriter, operation.bias, weight)
    return convolve(rewriter, operation, kernel, bias, operation.padding, operation.dilation)


def _product(rewriter: Rewriter, factor: str | fx.Node, weight: fx.Node) -> fx.Node:
    read = rewriter.tensor(factor)
    return rewriter.call_function(operator.mul, (read, weight), type=read.meta["type"])


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * self.norm(x) + self.alphas[1] * x
            return total

    return Example(), torch.ones(3, 2)
