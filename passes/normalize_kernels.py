"""Normalize every kernel that differs between candidates and feeds a shared norm.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = Conv2d[a.0](%0)
    %4 = getitem(%1, 1)
    %5 = Conv2d[b.0](%0)
    %6 = group_weight([%2, %4])
    %7 = getitem(%6, 0)
    %8 = getitem(%6, 1)
    %9 = getitem(%8, 0)
    %10 = getitem(%8, 1)
    %11 = mixed_sum([%3, %5], [%9, %10], (0, 0))
    %12 = BatchNorm2d[a.1](%11)
    %13 = mixed_sum([%12], [%7], (0,))
    return %13

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = attr a.0.weight
    %4 = kernel_scale(%3, 'kernel')
    %5 = mul(%3, %4)
    %6 = conv2d(%0, %5, None, (1, 1), (0, 0), (1, 1), 1)
    %7 = getitem(%1, 1)
    %8 = attr b.0.weight
    %9 = kernel_scale(%8, 'kernel')
    %10 = mul(%8, %9)
    %11 = conv2d(%0, %10, None, (1, 1), (1, 1), (1, 1), 1)
    %12 = group_weight([%2, %7])
    %13 = getitem(%12, 0)
    %14 = getitem(%12, 1)
    %15 = getitem(%14, 0)
    %16 = getitem(%14, 1)
    %17 = mixed_sum([%6, %11], [%15, %16], (0, 0))
    %18 = BatchNorm2d[a.1](%17)
    %19 = mixed_sum([%18], [%13], (0,))
    return %19

``K * sqrt(C_out) / ||K||`` per kernel, or each filter to norm 1 (TopoNAS, arXiv 2408.01311, kernel normalization; the
constant is this project's), so that the weight, not the kernel's scale, says how much a candidate counts in the shared
norm. A bias scales with its kernel. Per kernel, a candidate alone computes what it did: its norm undoes one scale.

In captures after the deciding one, the kernels already decided are normalized wherever they are read.

Refuses:

1. per filter: a kernel that another kernel follows before the norm, or whose norm mixes channels (such a norm undoes
   one scale, not one a filter); it is normalized per kernel.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.linear_ops import LinearOp
from toponas_fx.analysis.normalized_kernels import (
    decided_operations,
    decided_reads,
    feeding_shared_norms,
    feeds_channel_norm_at_once,
)
from toponas_fx.ir.decisions import sharing_of
from toponas_fx.rewriting.convolutions import convolve
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class OwnKernel:
    """A linear operation whose kernel gets normalized where it is used."""

    operation: LinearOp
    per: str

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The operation."""
        return (self.operation.node,)

    def describe(self) -> str:
        """Say which kernel."""
        return f"`{self.operation.kernel}` normalized per {self.per}"


@dataclass(frozen=True)
class BareRead:
    """A read of a decided kernel, or of its bias, outside a module."""

    node: fx.Node
    kernel: str
    per: str
    is_bias: bool

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The read."""
        return (self.node,)

    def describe(self) -> str:
        """Say which kernel."""
        return f"`{self.node.target}` normalized per {self.per}"


@dataclass(frozen=True)
class NormalizeKernels(Pass):
    """See the module's docstring.

    Attributes:
        per: ``"kernel"`` or ``"filter"``.
    """

    per: str = "kernel"
    name: ClassVar[str] = "normalize-kernels"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    stage: ClassVar[Stage] = Stage.MERGE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find the kernels: by what they feed at first, by what was decided later."""
        if sharing_of(gm).is_decided:
            own = [OwnKernel(operation, decision.per) for operation, decision in decided_operations(gm)]
            reads = [BareRead(*read) for read in decided_reads(gm) if read[0].meta.get("made_by") != self.name]
            return Plan((*own, *reads))
        matches: dict[fx.Node, OwnKernel] = {}
        refusals: list[Refusal] = []
        for operations in feeding_shared_norms(gm):
            for operation in operations:
                if not isinstance(operation.kernel, str):
                    continue
                per = self.per
                if per == "filter" and not feeds_channel_norm_at_once(gm, operation.node):
                    refusals.append(Refusal((operation.node,), f"`{operation.kernel}` normalized per kernel only"))
                    per = "kernel"
                matches[operation.node] = OwnKernel(operation, per)
        return Plan(tuple(matches.values()), tuple(refusals))

    def apply(self, match: OwnKernel | BareRead, rewriter: Rewriter) -> None:
        """Compute the operation with the normalized kernel."""
        if isinstance(match, BareRead):
            _normalize_read(match, rewriter)
            return
        operation = match.operation
        node = operation.node
        assert isinstance(operation.kernel, str)
        with rewriter.before(node):
            kernel = rewriter.parameter(operation.kernel)
            scale = rewriter.call_function(ops.kernel_scale, (kernel, match.per))
            normalized = rewriter.call_function(operator.mul, (kernel, scale), type=kernel.meta["type"])
            bias: Any = operation.bias
            if isinstance(bias, str):
                read = rewriter.parameter(bias)
                bias = rewriter.call_function(ops.scale_bias, (read, scale), type=read.meta["type"])
            new = convolve(rewriter, operation, normalized, bias, operation.padding, operation.dilation)
        sources = [part for part in (operation.kernel, operation.bias) if isinstance(part, str)]
        rewriter.normalize(sources[0], sources[1] if len(sources) > 1 else None, match.per)
        reads = [parent for parent in node.all_input_nodes if parent.op == "get_attr"]
        rewriter.replace(node, new)
        rewriter.erase_unread(reads)


def _normalize_read(match: BareRead, rewriter: Rewriter) -> None:
    node = match.node
    with rewriter.before(node):
        own = rewriter.parameter(str(node.target))
        kernel = rewriter.parameter(match.kernel) if match.is_bias else own
        scale = rewriter.call_function(ops.kernel_scale, (kernel, match.per))
        combine: Any = ops.scale_bias if match.is_bias else operator.mul
        new = rewriter.call_function(combine, (own, scale), type=node.meta.get("type"))
    rewriter.replace(node, new)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to once share-modules has run, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.a = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
            self.b = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
            return total

    return Example(), torch.ones(1, 2, 4, 4)
