"""Batch the arithmetic on kernels and weights over all edges.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = attr edges.0.0.0.weight
    %4 = kernel_scale(%3, 'kernel')
    %5 = mul(%3, %4)
    %6 = getitem(%1, 1)
    %7 = attr edges.0.1.0.weight
    %8 = kernel_scale(%7, 'kernel')
    %9 = mul(%7, %8)
    %10 = group_weight([%2, %6])
    %11 = getitem(%10, 0)
    %12 = getitem(%10, 1)
    %13 = getitem(%12, 0)
    %14 = getitem(%12, 1)
    %15 = merge_kernels([%9, %5], [%14, %13], [(0,), (1,)], [(1,), (1,)], (3,))
    %16 = conv1d(%0, %15, None, (1,), (1,), (1,), 1)
    %17 = BatchNorm1d[edges.0.0.1](%16)
    %18 = mixed_sum([%17], [%11], (0,))
    %19 = getitem(%1, 0)
    %20 = attr edges.1.0.0.weight
    %21 = kernel_scale(%20, 'kernel')
    %22 = mul(%20, %21)
    %23 = getitem(%1, 1)
    %24 = attr edges.1.1.0.weight
    %25 = kernel_scale(%24, 'kernel')
    %26 = mul(%24, %25)
    %27 = group_weight([%19, %23])
    %28 = getitem(%27, 0)
    %29 = getitem(%27, 1)
    %30 = getitem(%29, 0)
    %31 = getitem(%29, 1)
    %32 = merge_kernels([%26, %22], [%31, %30], [(0,), (1,)], [(1,), (1,)], (3,))
    %33 = conv1d(%18, %32, None, (1,), (1,), (1,), 1)
    %34 = BatchNorm1d[edges.1.0.1](%33)
    %35 = mixed_sum([%34], [%28], (0,))
    return %35

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = attr edges.0.0.0.weight
    %4 = attr edges.1.0.0.weight
    %5 = normalize_all([%3, %4], 'kernel')
    %6 = getitem(%5, 0)
    %7 = getitem(%5, 1)
    %8 = getitem(%1, 1)
    %9 = attr edges.0.1.0.weight
    %10 = attr edges.1.1.0.weight
    %11 = normalize_all([%9, %10], 'kernel')
    %12 = getitem(%11, 0)
    %13 = getitem(%11, 1)
    %14 = getitem(%1, 0)
    %15 = getitem(%1, 1)
    %16 = group_all([[%2, %8], [%14, %15]])
    %17 = getitem(%16, 0)
    %18 = getitem(%16, 1)
    %19 = getitem(%17, 0)
    %20 = getitem(%17, 1)
    %21 = getitem(%20, 0)
    %22 = getitem(%20, 1)
    %23 = getitem(%18, 1)
    %24 = getitem(%23, 0)
    %25 = getitem(%23, 1)
    %26 = merge_all([[%12, %6], [%13, %7]], [[%22, %21], [%25, %24]], [(0,), (1,)], [(1,), (1,)], (3,))
    %27 = getitem(%26, 0)
    %28 = getitem(%26, 1)
    %29 = conv1d(%0, %27, None, (1,), (1,), (1,), 1)
    %30 = BatchNorm1d[edges.0.0.1](%29)
    %31 = mixed_sum([%30], [%19], (0,))
    %32 = getitem(%18, 0)
    %33 = conv1d(%31, %28, None, (1,), (1,), (1,), 1)
    %34 = BatchNorm1d[edges.1.0.1](%33)
    %35 = mixed_sum([%34], [%32], (0,))
    return %35

Kernels of one shape are normalized together, weights of groups of one size divided together, kernels of one set of
shapes merged together: a few operations at the head of the graph instead of many small ones for each edge, whose calls
cost more than their arithmetic. Operations on the same level, that is with as many batchable ones above them, never
depend on one another.

Refuses:

1. kernels of more than 16384 numbers, which cost more to gather than their calls do;
2. operations that depend on the input, or on a random draw or an in-place write that comes after the first of them;
3. operations in a part of forward that switches gradients off, or on.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.weight_arithmetic import alike_arithmetic
from toponas_fx.ops import batched
from toponas_fx.rewriting.pass_base import Pass, Plan, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

LARGEST = 16384
"""Numbers in a kernel that is worth gathering."""


@dataclass(frozen=True)
class Alike:
    """Operations that differ in the tensors they read only, in the graph's order."""

    nodes: tuple[fx.Node, ...]
    batched: Callable[..., Any]

    def describe(self) -> str:
        """Name the operation."""
        return f"{len(self.nodes)} operations become one `{self.batched.__name__}`"


@dataclass(frozen=True)
class BatchKernels(Pass):
    """See the module's docstring.

    Attributes:
        largest: numbers in a kernel that is worth gathering; 0 gathers none.
    """

    largest: int = LARGEST
    name: ClassVar[str] = "batch-kernels"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find operations on weights alone that are alike and on one level."""
        found = alike_arithmetic(gm, self.largest)
        return Plan(tuple(Alike(tuple(nodes), _BATCHED[nodes[0].target]) for nodes in found))

    def apply(self, match: Alike, rewriter: Rewriter) -> None:
        """Put one operation before the first of them, and its results in their places."""
        first = match.nodes[0]
        rewriter.hoist([parent for node in match.nodes for parent in node.all_input_nodes], first)
        with rewriter.before(first, *match.nodes):
            batched = rewriter.call_function(match.batched, _arguments(match.nodes))
            items = [
                rewriter.item(batched, index, type=node.meta.get("type")) for index, node in enumerate(match.nodes)
            ]
        scales = [node.args[1] for node in match.nodes if node.target is operator.mul]
        for node, item in zip(match.nodes, items, strict=True):
            rewriter.replace(node, item)
        rewriter.erase_unread([scale for scale in scales if isinstance(scale, fx.Node)])


_BATCHED: dict[Any, Callable[..., Any]] = {
    operator.mul: batched.normalize_all,
    ops.group_weight: batched.group_all,
    ops.group_shares: batched.share_all,
    ops.merge_kernels: batched.merge_all,
}


def _arguments(nodes: Sequence[fx.Node]) -> tuple[Any, ...]:
    args: Any = nodes[0].args
    if nodes[0].target is operator.mul:
        return [node.args[0] for node in nodes], args[1].args[1]
    if nodes[0].target is ops.merge_kernels:
        return [node.args[0] for node in nodes], [node.args[1] for node in nodes], *args[2:]
    return ([node.args[0] for node in nodes],)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.edges = nn.ModuleList(
                nn.ModuleList(
                    nn.Sequential(nn.Conv1d(1, 1, k, padding=k // 2, bias=False), nn.BatchNorm1d(1)) for k in (1, 3)
                )
                for _ in range(2)
            )

        def forward(self, x: Tensor) -> Tensor:
            for ops_of_edge in self.edges:
                x = self.alphas[0] * ops_of_edge[0](x) + self.alphas[1] * ops_of_edge[1](x)  # type: ignore[index]
            return x

    return Example(), torch.ones(3, 1, 4)
