"""Fuse convolutions of one input, and the norms that follow them, into one of each.

Before::

    %0 = input x
    %1 = Conv2d[a.0](%0)
    %2 = BatchNorm2d[a.1](%1)
    %3 = Conv2d[b.0](%0)
    %4 = BatchNorm2d[b.1](%3)
    %5 = add(%2, %4)
    return %5

After::

    %0 = input x
    %1 = attr a.0.weight
    %2 = attr b.0.weight
    %3 = cat([%1, %2])
    %4 = conv2d(%0, %3, None, (1, 1), (0, 0), (1, 1), 1)
    %5 = attr a.1
    %6 = attr b.1
    %7 = stacked_norm(%4, [%5, %6], [None, None])
    %8 = getitem(%7, 0)
    %9 = getitem(%7, 1)
    %10 = add(%8, %9)
    return %10

``[conv(u, K_1), ..., conv(u, K_m)] = conv(u, [K_1, ..., K_m])``, kernels stacked along output channels, and a norm
looks at each channel by itself: several edges that leave one node of a cell read it once. Kernels, weights of norms and
running statistics are stacked for the call and stay where they are. (Formula: this project.) It pays where the
convolutions are small; not one of the usual passes, for use where it is measured.

Refuses:

1. convolutions in groups, of an input without a batch axis, or read by anything but one BatchNorm; modules with hooks;
2. siblings unlike in kernel size, stride, padding, dilation or bias, and norms unlike in options, dtype or grad mode;
3. norms that average over all batches, as each then counts with another momentum;
4. norms that run elsewhere too or whose numbers something else reads, since they count earlier than they did;
5. results that are written in place or returned, as they are parts of one tensor now, or that something reads which
   depends on how they lie in memory;
6. a sibling that could not run where the first of them does: its input is written in place before it; its kernel,
   bias or weight comes from memory that is, from a random draw, a guard, another grad mode, or from another of these
   convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.linear_ops import FUNCTIONS, LinearOp, linear_op
from toponas_fx.analysis.model_reads import ModelReads
from toponas_fx.analysis.siblings import Places, Sibling, kind_of, sibling_of, tensor_type, why_never
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.ops.stacked_norm import stacked_norm
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Siblings:
    """Convolutions that become one, in the graph's order."""

    members: tuple[Sibling, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The convolutions, and then the norms."""
        return *(member.operation.node for member in self.members), *(member.norm for member in self.members)

    def describe(self) -> str:
        """Count them."""
        return f"{len(self.members)} convolutions of `{self.members[0].operation.value.name}` and their norms are fused"


@dataclass(frozen=True)
class FuseSiblings(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "fuse-siblings"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.LOWER

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find convolutions of one input, and sort them by what they must agree in."""
        by_input: dict[fx.Node, list[LinearOp]] = {}
        for node in gm.graph.nodes:
            operation = linear_op(gm, node)
            if operation is not None and operation.dims:
                by_input.setdefault(operation.value, []).append(operation)
        families = [operations for operations in by_input.values() if len(operations) > 1]
        found = {operation.node: sibling_of(gm, operation) for operations in families for operation in operations}
        moving = {node for sibling in found.values() if sibling for node in (sibling.operation.node, sibling.norm)}
        places = Places(gm, ModelReads.of(gm), frozenset(moving))
        matches: list[Siblings] = []
        refusals: list[Refusal] = []
        for operations in families:
            groups: dict[Any, list[list[Sibling]]] = {}
            for operation in operations:
                sibling = found[operation.node]
                reason = why_never(gm, operation, sibling, places.reads)
                if sibling is not None and reason is None:
                    reason = places.join(groups.setdefault(kind_of(gm, sibling), []), sibling)
                if reason is not None:
                    refusals.append(Refusal((operation.node,), reason))
            for alike in groups.values():
                matches += [Siblings(tuple(group)) for group in alike if len(group) > 1]
                if [len(group) for group in alike] == [1]:
                    refusals.append(Refusal((alike[0][0].operation.node,), "no sibling is like it, with a like norm"))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: Siblings, rewriter: Rewriter) -> None:
        """Put one convolution and one norm where the first convolution stands."""
        gm, members = rewriter.gm, match.members
        first = members[0].operation
        sources = {parent for node in match.nodes for parent in node.all_input_nodes if parent.op == "get_attr"}
        kernel_kinds = [tensor_type(gm, member.operation.kernel) for member in members]
        channels = sum(kind.shape[0] for kind in kernel_kinds)
        dtype, kind = kernel_kinds[0].dtype, first.node.meta["type"]
        rewriter.hoist([node for member in members for node in member.computed], first.node)
        with rewriter.before(first.node, *match.nodes):
            kernels = [member.operation.kernel for member in members]
            kernel = _stacked(rewriter, kernels, TensorType(dtype, (channels, *first.kernel_shape[1:])))
            biases = [member.operation.bias for member in members if member.operation.bias is not None]
            bias = _stacked(rewriter, biases, TensorType(dtype, (channels,))) if biases else None
            args = (first.value, kernel, bias, first.stride, first.padding, first.dilation, 1)
            whole = TensorType(kind.dtype, (kind.shape[0], channels, *kind.shape[2:]))
            convolved = rewriter.call_function(FUNCTIONS[first.dims], args, type=whole)
            norms = [rewriter.read(member.path) for member in members]
            parts = rewriter.call_function(stacked_norm, (convolved, norms, [member.scale for member in members]))
            items = [rewriter.item(parts, i, type=member.norm.meta["type"]) for i, member in enumerate(members)]
        for member, item in zip(members, items, strict=True):
            rewriter.replace(member.norm, item)
        rewriter.erase_unread(sources | {member.operation.node for member in members})


def _stacked(rewriter: Rewriter, parts: Sequence[Any], kind: TensorType) -> fx.Node:
    """Emit the concatenation of kernels, or of biases, along output channels."""
    return rewriter.call_function(torch.cat, ([rewriter.tensor(part) for part in parts],), type=kind)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.a(x) + self.b(x)
            return total

    return Example(), torch.ones(3, 2, 4, 4)
