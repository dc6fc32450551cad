"""Fold the scale of a kernel that is normalized to be merged into its weight.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = attr a.0.weight
    %4 = kernel_scale(%3, 'kernel')
    %5 = mul(%3, %4)
    %6 = getitem(%1, 1)
    %7 = attr b.0.weight
    %8 = kernel_scale(%7, 'kernel')
    %9 = mul(%7, %8)
    %10 = group_weight([%2, %6])
    %11 = getitem(%10, 0)
    %12 = getitem(%10, 1)
    %13 = getitem(%12, 0)
    %14 = getitem(%12, 1)
    %15 = merge_kernels([%9, %5], [%14, %13], [(0,), (1,)], [(1,), (1,)], (3,))
    %16 = conv1d(%0, %15, None, (1,), (1,), (1,), 1)
    %17 = BatchNorm1d[a.1](%16)
    %18 = mixed_sum([%17], [%11], (0,))
    return %18

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = attr a.0.weight
    %4 = kernel_scale(%3, 'kernel')
    %5 = getitem(%1, 1)
    %6 = attr b.0.weight
    %7 = kernel_scale(%6, 'kernel')
    %8 = group_weight([%2, %5])
    %9 = getitem(%8, 0)
    %10 = getitem(%8, 1)
    %11 = getitem(%10, 0)
    %12 = getitem(%10, 1)
    %13 = mul(%4, %11)
    %14 = mul(%7, %12)
    %15 = merge_kernels([%6, %3], [%14, %13], [(0,), (1,)], [(1,), (1,)], (3,))
    %16 = conv1d(%0, %15, None, (1,), (1,), (1,), 1)
    %17 = BatchNorm1d[a.1](%16)
    %18 = mixed_sum([%17], [%9], (0,))
    return %18

``w (s K) = (w s) K``: the normalized kernel is never written out, and the gradient to its scale comes with the one to
its weight. Small kernels are left to *batch-kernels*, which runs before. (Formula: this project.)

Refuses:

1. a normalized kernel that something besides merging reads: it is written out anyway;
2. kernels normalized per filter, whose scale is not one number.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.normalized_kernels import is_normalized
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Scaled:
    """A kernel times its scale, which kernels are merged with."""

    node: fx.Node

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The product, and what merges it."""
        return (self.node, *self.node.users)

    def describe(self) -> str:
        """Name the kernel."""
        kernel: Any = self.node.args[0]
        return f"the scale of `{kernel.target if kernel.op == 'get_attr' else kernel.name}` is folded into its weight"


@dataclass(frozen=True)
class FoldScales(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "fold-scales"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find normalized kernels that are merged."""
        matches: list[Scaled] = []
        refusals: list[Refusal] = []
        for node in gm.graph.nodes:
            merging = [user for user in node.users if user.target is ops.merge_kernels and node in user.args[0]]
            if node.target is not operator.mul or not merging or not is_normalized(node):
                continue
            if node.args[1].args[1] != "kernel":
                refusals.append(Refusal((node,), "its scale is one number for each filter"))
            elif len(merging) < len(node.users):
                refusals.append(Refusal((node,), "something besides merging reads the normalized kernel"))
            else:
                matches.append(Scaled(node))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: Scaled, rewriter: Rewriter) -> None:
        """Merge the kernel as it is, with its scale in the weight."""
        product = match.node
        kernel, scale = product.args[:2]
        for merging in list(product.users):
            kernels: list[Any] = list(merging.args[0])  # type: ignore[arg-type]
            weights: list[Any] = list(merging.args[1])  # type: ignore[arg-type]
            with rewriter.before(merging, product):
                for index, read in enumerate(kernels):
                    if read is product:
                        kernels[index] = kernel
                        weights[index] = _scaled(rewriter, weights[index], scale)
            rewriter.update(merging, (kernels, weights, *merging.args[2:]))
        rewriter.erase_unread([product])


def _scaled(rewriter: Rewriter, weight: Any, scale: Any) -> Any:
    if weight == 1.0:
        return scale
    kind = TensorType(scale.args[0].meta["type"].dtype, ())
    return rewriter.call_function(operator.mul, (scale, weight), type=kind)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.a, self.b = (
                nn.Sequential(nn.Conv1d(1, 1, k, padding=k // 2, bias=False), nn.BatchNorm1d(1)) for k in (1, 3)
            )

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
            return total

    return Example(), torch.ones(3, 1, 4)
