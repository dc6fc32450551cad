"""Merge weighted convolutions of one input into one convolution.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = Conv2d[a](%0)
    %4 = getitem(%1, 1)
    %5 = Conv2d[b](%0)
    %6 = mixed_sum([%3, %5], [%2, %4], (0, 0))
    return %6

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = getitem(%1, 1)
    %4 = attr b.weight
    %5 = attr a.weight
    %6 = merge_kernels([%4, %5], [%3, %2], [(0, 0), (1, 1)], [(1, 1), (1, 1)], (3, 3))
    %7 = conv2d(%0, %6, None, (1, 1), (1, 1), (1, 1), 1)
    return %7

``sum_i w_i conv(u, K_i) = conv(u, sum_i w_i embed(K_i))`` (convolution is linear in its kernel), for one input, equal
stride and groups and the same centre: a 1x1 goes into the middle of a 3x3, a dilated kernel into its footprint, on the
coarsest grid that holds the taps of all. Linear layers merge alike.

Refuses:

1. an operation whose taps would cost more merged than apart: merged taps are at most ``slack`` times those apart;
2. operations of unlike input, stride, groups or centre;
3. an operation whose result something else reads, or whose input or kernel is written in place before the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.merge_cost import Grid, cheapest_sets
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.convolutions import convolve
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class Mergeable:
    """Operations of one sum that become one."""

    sum_node: fx.Node
    operations: tuple[LinearOp, ...]
    grid: Grid

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The operations' nodes."""
        return tuple(operation.node for operation in self.operations)

    def describe(self) -> str:
        """Say which kernel sizes merge into which."""
        return f"{', '.join(_size(op) for op in self.operations)} merged into {_by(self.grid.size) or 'one'}"


@dataclass(frozen=True)
class MergeKernels(Pass):
    """See the module's docstring.

    Attributes:
        slack: how many times the taps apart a merged kernel may have; 0 merges nothing, infinity all it can.
    """

    slack: float = 1.0
    name: ClassVar[str] = "merge-kernels"
    semantics: ClassVar[Semantics] = Semantics.ROUNDING
    stage: ClassVar[Stage] = Stage.MERGE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find, in each sum, the sets of operations that are cheaper as one."""
        matches: list[Mergeable] = []
        refusals: list[Refusal] = []
        memory = Memory.of(gm)
        for node in gm.graph.nodes:
            if not is_mixed_sum(node):
                continue
            inputs: set[fx.Node] = set()
            for operations in _alike(gm, node):
                alone = [operation for operation in operations if list(operation.node.users) == [node]]
                own = [operation for operation in alone if not memory.passed(operation.node, node)]
                if operations[0].value in inputs:
                    reason = "it has another stride, centre or number of groups or channels than its siblings"
                    refusals.append(Refusal(tuple(operation.node for operation in operations), reason))
                inputs.add(operations[0].value)
                read = tuple(operation.node for operation in operations if operation not in alone)
                late = tuple(operation.node for operation in alone if operation not in own)
                if late:
                    refusals.append(Refusal(late, "what it reads is written in place before the sum"))
                if read and len(operations) > 1:
                    refusals.append(Refusal(read, "something besides the sum reads its result"))
                for cluster in cheapest_sets(own, self.slack):
                    if len(cluster) > 1:
                        matches.append(Mergeable(node, tuple(cluster), Grid.of(cluster)))
                    elif len(own) > 1:
                        reason = f"{_size(cluster[0])} costs more merged with its siblings than apart"
                        refusals.append(Refusal((cluster[0].node,), reason))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: Mergeable, rewriter: Rewriter) -> None:
        """Sum the kernels, then convolve once."""
        sum_node, operations, grid = match.sum_node, match.operations, match.grid
        found = SumTerms(sum_node)
        first, *rest = positions = [found.terms.index(operation.node) for operation in operations]
        chosen = [found.weights[i] for i in positions]
        befores = [_before(operation, grid) for operation in operations]
        dilations = [_spacing(operation, grid) for operation in operations]
        with rewriter.before(sum_node, *match.nodes):
            kernels = [rewriter.tensor(operation.kernel) for operation in operations]
            shape = (*operations[0].kernel_shape[:2], *grid.size)
            kind = TensorType(kernels[0].meta["type"].dtype, shape)
            merged = rewriter.call_function(
                ops.merge_kernels, (kernels, chosen, befores, dilations, grid.size), type=kind
            )
            bias = _merge_biases(rewriter, operations, chosen)
            new = convolve(rewriter, operations[0], merged, bias, grid.padding, grid.dilation)
        found.put(first, new, 1.0)
        found.drop(rest)
        found.write(rewriter)
        rewriter.erase_unread(match.nodes)


def _alike(gm: fx.GraphModule, sum_node: fx.Node) -> Iterator[list[LinearOp]]:
    """Yield the operations among a sum's terms that could merge by their geometry."""
    groups: dict[Any, list[LinearOp]] = {}
    for term in dict.fromkeys(sum_node.args[0]):  # type: ignore[arg-type]
        operation = linear_op(gm, term)
        if operation is None or sum_node.args[0].count(term) > 1:  # type: ignore[union-attr]
            continue
        excess = tuple(2 * pad - size for pad, size in zip(operation.padding, operation.footprint, strict=True))
        key = (operation.value, operation.dims, operation.stride, operation.groups, excess)
        groups.setdefault((*key, operation.kernel_shape[:2]), []).append(operation)
    yield from groups.values()


def _before(operation: LinearOp, grid: Grid) -> tuple[int, ...]:
    parts = zip(grid.padding, operation.padding, grid.dilation, strict=True)
    return tuple((whole - own) // spacing for whole, own, spacing in parts)


def _spacing(operation: LinearOp, grid: Grid) -> tuple[int, ...]:
    parts = zip(operation.dilation, grid.dilation, operation.kernel_shape[2:], strict=True)
    return tuple(step // spacing if size > 1 else 1 for step, spacing, size in parts)


def _merge_biases(rewriter: Rewriter, operations: Sequence[LinearOp], weights: list[Any]) -> fx.Node | None:
    pairs = [(op.bias, weight) for op, weight in zip(operations, weights, strict=True) if op.bias is not None]
    if not pairs:
        return None
    biases = [rewriter.tensor(bias) for bias, _ in pairs]
    return rewriter.call_function(
        ops.merge_biases, (biases, [weight for _, weight in pairs]), type=biases[0].meta["type"]
    )


def _size(operation: LinearOp) -> str:
    dilated = f" dilated by {_by(operation.dilation)}" if any(step > 1 for step in operation.dilation) else ""
    return (_by(operation.kernel_shape[2:]) or "linear") + dilated


def _by(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.a = nn.Conv2d(2, 2, 1, bias=False)
            self.b = nn.Conv2d(2, 2, 3, padding=1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
            return total

    return Example(), torch.ones(1, 2, 4, 4)
