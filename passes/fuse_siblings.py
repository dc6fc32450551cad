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

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked, is_pure
from toponas_fx.analysis.linear_ops import FUNCTIONS, LinearOp, linear_op
from toponas_fx.analysis.model_reads import ModelReads, inputs_from
from toponas_fx.analysis.parts import why_not_a_part
from toponas_fx.analysis.stacked_terms import shape_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.ops.stacked_norm import is_cumulative, options_of, stacked_norm
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # by type: a subclass may do more


@dataclass(frozen=True)
class Sibling:
    """A convolution and the norm that alone reads it.

    Attributes:
        operation: the convolution.
        norm: where the norm runs.
        path: of the norm's module.
        scale: the node of the weight that the norm carries, or None.
    """

    operation: LinearOp
    norm: fx.Node
    path: str
    scale: fx.Node | None

    @property
    def computed(self) -> list[fx.Node]:
        """What it reads besides the input and the model."""
        parts = self.operation.kernel, self.operation.bias, self.scale
        return [part for part in parts if isinstance(part, fx.Node)]


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
        found = {operation.node: _sibling(gm, operation) for operations in families for operation in operations}
        moving = {node for sibling in found.values() if sibling for node in (sibling.operation.node, sibling.norm)}
        places = _Places(gm, ModelReads.of(gm), frozenset(moving))
        matches: list[Siblings] = []
        refusals: list[Refusal] = []
        for operations in families:
            groups: dict[Any, list[list[Sibling]]] = {}
            for operation in operations:
                sibling = found[operation.node]
                reason = _why_never(gm, operation, sibling, places.reads)
                if sibling is not None and reason is None:
                    reason = places.join(groups.setdefault(_kind(gm, sibling), []), sibling)
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
        kernel_kinds = [_type(gm, member.operation.kernel) for member in members]
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


def _sibling(gm: fx.GraphModule, operation: LinearOp | None) -> Sibling | None:
    """Read a convolution and its reader; None where that is not one BatchNorm."""
    if operation is None or len(operation.node.users) != 1:
        return None
    (norm,) = operation.node.users
    path: Any = norm.target
    scale: Any = None
    if norm.target is ops.scaled_norm:
        _, read, scale = norm.args
        path = read.target  # type: ignore[union-attr]
    elif norm.op != "call_module" or len(norm.args) != 1 or norm.kwargs:
        return None
    module = gm.get_submodule(path)
    is_plain = type(module) in _NORMS and not is_hooked(module) and norm.args[0] is operation.node
    return Sibling(operation, norm, path, scale) if is_plain else None


def _kind(gm: fx.GraphModule, sibling: Sibling) -> tuple[Any, ...]:
    """Return what siblings must agree in."""
    operation = sibling.operation
    geometry = operation.kernel_shape[1:], operation.stride, operation.padding, operation.dilation
    has_gradients = operation.node.meta.get("grad", True)
    dtype = _type(gm, operation.kernel).dtype
    return *geometry, operation.bias is None, dtype, has_gradients, options_of(gm.get_submodule(sibling.path))


def _type(gm: fx.GraphModule, kernel: str | fx.Node) -> TensorType:
    found: TensorType = TensorType.of(gm.get_parameter(kernel)) if isinstance(kernel, str) else kernel.meta["type"]
    return found


def _why_never(gm: fx.GraphModule, operation: LinearOp, sibling: Sibling | None, reads: ModelReads) -> str | None:
    """Return why a convolution fuses with no sibling, or None."""
    if operation.groups != 1:
        return "it convolves in groups"
    if sibling is None:
        return "its result is not read by one BatchNorm alone"
    if len(shape_of(operation.node)) != operation.dims + 2:
        return "its input has no batch axis"
    if operation.node.meta.get("grad", True) != sibling.norm.meta.get("grad", True):
        return "its norm runs in another grad mode"
    module: Any = gm.get_submodule(sibling.path)
    if is_cumulative(module):
        return "its norm averages over all batches, with a momentum of its own count"
    if any(reads.uses[id(own)] > 1 for own in (module, *module.buffers())):
        return "its norm runs elsewhere too, or something else reads what it counts"
    if any(reads.uses[id(parameter)] for parameter in module.parameters()):
        return "something else reads the weights of its norm"
    return why_not_a_part(gm, sibling.norm)


@dataclass(frozen=True)
class _Places:
    """Where siblings can run.

    Attributes:
        gm: the model.
        reads: what its graph reads and writes of it.
        moving: all convolutions and norms that may be fused.
    """

    gm: fx.GraphModule
    reads: ModelReads
    moving: frozenset[fx.Node]

    def join(self, groups: list[list[Sibling]], sibling: Sibling) -> str | None:
        """Put a sibling into a group that it can join, else one of its own; return why it could join none."""
        reason = self.why_not(sibling.operation.node, sibling)
        if reason is not None:
            return reason
        for group in groups:
            reason = self.why_not(group[0].operation.node, sibling)
            if reason is None:
                group.append(sibling)
                return None
        groups.append([sibling])
        return reason

    def why_not(self, anchor: fx.Node, sibling: Sibling) -> str | None:
        """Return why a sibling cannot run where ``anchor`` does, or None."""
        node, memory = anchor, sibling.operation.value.meta.get("storage")
        while node is not sibling.operation.node:
            written = node.meta.get("mutates")
            if written and (memory is None or memory in written):
                return "its input is written in place between its first sibling and itself"
            node = node.next
        late = inputs_from(sibling.computed, anchor)
        if late & self.moving:
            return "its kernel, bias or weight depends on a convolution that may be fused itself"
        if not all(is_pure(self.gm, node) for node in late):
            return "its kernel, bias or weight depends on a draw, a write, a guard or the like after its first sibling"
        if any(node.meta.get("grad", True) != anchor.meta.get("grad", True) for node in late):
            return "its kernel, bias or weight is computed in another grad mode"
        read = {*late, *sibling.computed, *(parent for node in late for parent in node.all_input_nodes)}
        paths = [part for part in (sibling.operation.kernel, sibling.operation.bias) if isinstance(part, str)]
        is_unsteady = any(self.reads.memory.is_written(node) for node in read)
        if is_unsteady or any(id(self.gm.get_parameter(path)) in self.reads.written for path in paths):
            return "its kernel, bias or weight lies in memory that changes while the graph runs"
        return None


def _stacked(rewriter: Rewriter, parts: Sequence[Any], kind: TensorType) -> fx.Node:
    """Emit the concatenation of kernels, or of biases, along output channels."""
    parameters = {part: rewriter.gm.get_parameter(part) for part in parts if isinstance(part, str)}
    nodes = [
        rewriter.read(part, type=TensorType.of(parameters[part])) if part in parameters else part for part in parts
    ]
    return rewriter.call_function(torch.cat, (nodes,), type=kind)


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
