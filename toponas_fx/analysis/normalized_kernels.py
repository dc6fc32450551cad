"""Kernels that are normalized: those that feed shared norms, and where those are read that were decided on before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from toponas_fx import ops
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.linear_ops import LinearOp, linear_op
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.module_signature import is_norm
from toponas_fx.analysis.norm_inputs import differing_drawn_kernels, differing_kernels
from toponas_fx.errors import PreconditionError
from toponas_fx.ir.decisions import NormalizedKernel, sharing_of


def is_normalized(product: fx.Node) -> bool:
    """Return whether a product is that of a kernel and its own scale, as *normalize-kernels* writes it."""
    kernel, scale = product.args[:2]
    return isinstance(scale, fx.Node) and scale.target is ops.kernel_scale and scale.args[0] is kernel


def feeding_shared_norms(gm: fx.GraphModule) -> Iterator[list[LinearOp]]:
    """Yield what differs between candidates before each shared norm."""
    drawn: dict[Any, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        if _is_shared_norm(gm, node):
            if home(node) is None:
                yield differing_kernels(gm, node.args[0])
            else:
                drawn.setdefault(node.target, []).append(node)
    for calls in drawn.values():
        yield differing_drawn_kernels(gm, calls)


def _is_shared_norm(gm: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module" or node.target not in sharing_of(gm).ties.values():
        return False
    return is_norm(gm.get_submodule(str(node.target)))


def feeds_channel_norm_at_once(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether nothing but mixed sums lies between a kernel and norms that normalize each channel by itself."""
    for user in node.users:
        if is_mixed_sum(user):
            if not feeds_channel_norm_at_once(gm, user):
                return False
        elif user.op != "call_module" or not _is_channel_norm(gm.get_submodule(str(user.target))):
            return False
    return True


def _is_channel_norm(module: nn.Module) -> bool:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, nn.modules.batchnorm._NormBase)


def decided_operations(gm: fx.GraphModule) -> Iterator[tuple[LinearOp, NormalizedKernel]]:
    """Yield the modules whose own kernel was decided to be normalized, as the operations that they are.

    Raises:
        PreconditionError: such a kernel is read within a module that runs whole.
    """
    kernels = {id(gm.get_parameter(path)): decision for path, decision in sharing_of(gm).kernels.items()}
    for node in gm.graph.nodes:
        if node.op != "call_module":
            continue
        operation = linear_op(gm, node)
        if operation is not None and isinstance(operation.kernel, str):
            decision = kernels.get(id(gm.get_parameter(operation.kernel)))
            if decision is not None:
                yield operation, decision
        elif any(id(parameter) in kernels for parameter in gm.get_submodule(str(node.target)).parameters()):
            raise PreconditionError(f"`{node.target}` runs whole and reads a kernel that is normalized")


def decided_reads(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, str, str, bool]]:
    """Yield every read, outside a module, of what was decided to be normalized.

    Yields:
        The node, the path of the kernel that it scales with, how that is normalized, and whether the node reads a bias.
    """
    found: dict[int, tuple[str, str, bool]] = {}
    for path, decision in sharing_of(gm).kernels.items():
        found[id(gm.get_parameter(path))] = path, decision.per, False
        if decision.bias is not None:
            found[id(gm.get_parameter(decision.bias))] = path, decision.per, True
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            read = found.get(id(gm.get_submodule(owner)._parameters.get(name)))
            if read is not None:
                yield node, *read
