"""What in a graph depends on how images lie in memory, or takes their layout over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked, is_random
from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.memory import Memory, model_values
from toponas_fx.analysis.stacked_terms import shape_of
from toponas_fx.ops.layouts import takes_layout
from toponas_fx.ops.registry import facts

BLOCK = 16
"""Channels that a CPU convolves at once, at most."""
_READS_LAYOUT = ("as_strided", "stride", "is_contiguous", "data_ptr", "storage", "untyped_storage", "storage_offset")


def why_not(gm: fx.GraphModule, node: fx.Node) -> str | None:
    """Return why a node would notice another layout of images, or None."""
    if is_random(gm, node) and all(
        any(_is_image(shape_of(n)) for n in part) for part in ([node], node.all_input_nodes)
    ):
        return "numbers are drawn for an image in the order in which it lies in memory"
    if torch.channels_last in (*node.args, *node.kwargs.values()):
        return f"`{node.target}` chooses how images lie in memory"
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        is_known = type(module).__module__.startswith("torch.nn.modules") and not is_hooked(module)
        return None if is_known else f"`{node.target}` may depend on how images lie in memory"
    if node.op == "call_function" and isinstance(node.target, ops.ApplyFunction):
        return f"`{node.target.__name__}` may depend on how images lie in memory"
    if node.op != "call_method":
        return None
    if node.target in _READS_LAYOUT:
        return f"`{node.target}` depends on how images lie in memory"
    return "a view of an image depends on how it lies in memory" if _is_fragile_view(node) else None


def _is_fragile_view(node: fx.Node) -> bool:
    """Return whether a view could fail on channels-last images: it may split channels, not merge what lies apart."""
    if node.target not in ("view", "view_as"):
        return False
    viewed: Any = node.args[0]
    before, after = shape_of(viewed), shape_of(node)
    splits_channels = after[:1] == before[:1] and len(after) > 3 and after[-2:] == before[-2:] and len(before) == 4
    return _is_image(before) and not splits_channels and viewed.target != "contiguous"


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) > 3 and any(size > 1 for size in shape[2:])


def given_tensors(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the inputs and the reads of the model whose gradients may take the layout of images over.

    Arithmetic on the kernels of many edges at once gives them gradients in their own.
    """
    values = model_values(gm)
    given = [n for n in gm.graph.nodes if n.op == "placeholder" or isinstance(values.get(n), Tensor)]
    given = [node for node in given if takes_layout(shape_of(node))]
    return [node for node in given if not all(facts(user.target).keeps_layouts for user in node.users)]


def own_kernels(gm: fx.GraphModule) -> list[LinearOp]:
    """Return the convolutions, as modules, whose kernels' gradients may take the layout of images over."""
    found = [linear_op(gm, node) for node in gm.graph.nodes if node.op == "call_module"]
    return [op for op in found if op is not None and op.dims and takes_layout(op.kernel_shape)]


def is_overrun(operation: LinearOp | None) -> TypeGuard[LinearOp]:
    """Return whether an operation is a narrow 1x1 convolution with a stride.

    For channels-last images oneDNN's gradient to such a kernel writes past the end of its memory (oneDNN issue 6035).
    """
    if operation is None or operation.dims != 2 or operation.groups != 1:
        return False
    return max(operation.kernel_shape[2:]) == 1 < max(operation.stride) and operation.kernel_shape[1] < BLOCK


def kept_as_they_are(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the calls that are left in the usual layout: overrun ones, and modules that read kernels their own way."""
    found = []
    for node in gm.graph.nodes:
        operation = linear_op(gm, node)
        is_kept = is_overrun(operation)
        if operation is None and node.op == "call_module":
            own = gm.get_submodule(str(node.target)).parameters()
            is_kept = any(takes_layout(tuple(parameter.shape)) for parameter in own)
        if is_kept and len(shape_of(node)) == 4:
            found.append(node)
    return found


def averaged(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the calls that take the mean over all pixels, whose gradient comes in the usual layout."""
    found = []
    for node in gm.graph.nodes:
        is_pool = node.op == "call_module" and type(gm.get_submodule(str(node.target))) is nn.AdaptiveAvgPool2d
        is_call = node.target in (F.adaptive_avg_pool2d, torch.mean, "mean")
        read = node.all_input_nodes
        if (is_pool or is_call) and len(read) == 1 and _is_image(shape_of(read[0])) and not _is_image(shape_of(node)):
            found.append(node)
    return found


def exits(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that return values: the output, and what builds containers that code cannot write down."""
    found = [node for node in graph.nodes if node.op == "output"]
    for node in found:
        found += [value for value in node.all_input_nodes if isinstance(value.target, type)]
    return list(dict.fromkeys(found))


def returned(gm: fx.GraphModule, exits: Sequence[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """Return the tensors that a graph computes and returns and that may lie otherwise, and where they are returned."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for reader in exits:
        for node in reader.all_input_nodes:
            operation = linear_op(gm, node)
            is_linear = operation is not None and not operation.dims  # its result is a new matrix
            is_wide = sum(size > 1 for size in shape_of(node)) > 1
            if node.op.startswith("call_") and is_wide and not is_linear and node.meta.get("order") != ():
                found.setdefault(node, []).append(reader)
    return found


def convolved_inputs(gm: fx.GraphModule) -> Iterator[fx.Node]:
    """Yield the inputs that are images and that a convolution reads, unless converted already, or written in place."""
    memory = Memory.of(gm)
    for node in gm.graph.nodes:
        if node.op == "placeholder" and len(shape_of(node)) == 4 and not memory.is_written(node):
            found = [linear_op(gm, user) for user in node.users]
            if any(operation is not None and operation.dims == 2 for operation in found):
                yield node
