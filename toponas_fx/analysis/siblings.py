"""Sibling convolutions, which read one input: what they must agree in to become one, and where they can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked, is_pure
from toponas_fx.analysis.linear_ops import LinearOp
from toponas_fx.analysis.model_reads import ModelReads, inputs_from
from toponas_fx.analysis.parts import why_not_a_part
from toponas_fx.analysis.stacked_terms import shape_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.ops.stacked_norm import is_cumulative, options_of

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


def sibling_of(gm: fx.GraphModule, operation: LinearOp | None) -> Sibling | None:
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


def kind_of(gm: fx.GraphModule, sibling: Sibling) -> tuple[Any, ...]:
    """Return what siblings must agree in."""
    operation = sibling.operation
    geometry = operation.kernel_shape[1:], operation.stride, operation.padding, operation.dilation
    has_gradients = operation.node.meta.get("grad", True)
    dtype = tensor_type(gm, operation.kernel).dtype
    return *geometry, operation.bias is None, dtype, has_gradients, options_of(gm.get_submodule(sibling.path))


def tensor_type(gm: fx.GraphModule, kernel: str | fx.Node) -> TensorType:
    """Return the type of a kernel, a path or a node."""
    found: TensorType = TensorType.of(gm.get_parameter(kernel)) if isinstance(kernel, str) else kernel.meta["type"]
    return found


def why_never(gm: fx.GraphModule, operation: LinearOp, sibling: Sibling | None, reads: ModelReads) -> str | None:
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
class Places:
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
