"""One view of every convolution and linear layer, whether a module or a function of its own parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from toponas_fx.analysis.effects import is_hooked
from toponas_fx.ops.custom_autograd import depthwise_conv2d

FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DIMS: dict[Any, int] = {
    depthwise_conv2d: 2,
    F.conv1d: 1,
    F.conv2d: 2,
    F.conv3d: 3,
    torch.conv1d: 1,
    torch.conv2d: 2,
    torch.conv3d: 3,
}
_MODULES: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}


@dataclass(frozen=True)
class LinearOp:
    """A convolution (``dims`` 1 to 3) or a linear layer (``dims`` 0) at one node.

    Attributes:
        node: where it is computed.
        value: the node that it reads.
        kernel: path of its kernel parameter, or the node that computes its kernel.
        bias: likewise, or None.
        kernel_shape: the kernel's shape, ``[O,I,k...]``.
        stride: one number for each spatial dimension, as all that follow.
        padding: zeros on each side.
        dilation: the distance of taps.
        groups: the number of groups.
    """

    node: fx.Node
    value: fx.Node
    kernel: str | fx.Node
    bias: str | fx.Node | None
    kernel_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return len(self.stride)

    @property
    def footprint(self) -> tuple[int, ...]:
        """The extent of the kernel in input pixels: ``dilation * (k - 1) + 1``."""
        sizes = self.kernel_shape[2:]
        return tuple(step * (size - 1) + 1 for step, size in zip(self.dilation, sizes, strict=True))


def linear_op(gm: fx.GraphModule, node: Any) -> LinearOp | None:
    """Read a node as a linear operation, or return None where it is none (or pads otherwise than with zeros)."""
    if not isinstance(node, fx.Node) or node.kwargs.get("padding_mode", "zeros") != "zeros":
        return None
    if node.op == "call_module":
        return _of_module(node, gm.get_submodule(str(node.target)))
    if node.op == "call_function" and (node.target in _DIMS or node.target in (F.linear, torch._C._nn.linear)):
        return _of_function(gm, node)
    return None


def _of_module(node: fx.Node, module: nn.Module) -> LinearOp | None:
    if len(node.args) != 1 or node.kwargs:
        return None
    path, value = str(node.target), node.args[0]
    dims = _MODULES.get(type(module), 0)
    if not isinstance(value, fx.Node) or not (dims or type(module) is nn.Linear):
        return None
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None or "weight" in vars(module) or is_hooked(module):
        return None
    bias_path = None if bias is None else f"{path}.bias"
    if isinstance(module, nn.Linear):
        return LinearOp(node, value, f"{path}.weight", bias_path, tuple(weight.shape), (), (), (), 1)
    if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) or module.padding_mode != "zeros":
        return None
    stride, dilation = _tuple(module.stride, dims), _tuple(module.dilation, dims)
    if stride is None or dilation is None:
        return None
    padding = _padding(module.padding, weight.shape[2:], dilation)
    if padding is None:
        return None
    geometry = (stride, padding, dilation, module.groups)
    return LinearOp(node, value, f"{path}.weight", bias_path, tuple(weight.shape), *geometry)


def _of_function(gm: fx.GraphModule, node: fx.Node) -> LinearOp | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    value, weight, bias = given["input"], given["weight"], given.get("bias")
    if not isinstance(value, fx.Node) or not isinstance(weight, fx.Node) or "type" not in weight.meta:
        return None
    shape = weight.meta["type"].shape
    kernel, offset = _path_or_node(gm, weight), None if bias is None else _path_or_node(gm, bias)
    dims = _DIMS.get(node.target, 0)
    if not dims:
        return LinearOp(node, value, kernel, offset, shape, (), (), (), 1)
    stride, dilation = _tuple(given.get("stride", 1), dims), _tuple(given.get("dilation", 1), dims)
    groups = shape[0] if node.target is depthwise_conv2d else given.get("groups", 1)
    if stride is None or dilation is None or not isinstance(groups, int):
        return None
    padding = _padding(given.get("padding", 0), shape[2:], dilation)
    if padding is None:
        return None
    return LinearOp(node, value, kernel, offset, shape, stride, padding, dilation, groups)


def _path_or_node(gm: fx.GraphModule, node: Any) -> str | fx.Node:
    if node.op == "get_attr":
        owner, _, name = str(node.target).rpartition(".")
        if isinstance(gm.get_submodule(owner)._parameters.get(name), Tensor):
            return str(node.target)
    found: fx.Node = node
    return found


def _tuple(value: Any, dims: int) -> tuple[int, ...] | None:
    if isinstance(value, int):
        return (value,) * dims
    if isinstance(value, tuple | list) and all(isinstance(item, int) for item in value):
        return tuple(value) if len(value) == dims else tuple(value) * dims
    return None


def _padding(padding: Any, sizes: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...] | None:
    if padding == "valid":
        return (0,) * len(sizes)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, sizes, strict=True)]
        return None if any(total % 2 for total in totals) else tuple(total // 2 for total in totals)
    return _tuple(padding, len(sizes))
