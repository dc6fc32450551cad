"""What kind of layer a node computes, whether as a module, a function or a method: for names and for algebra."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules import activation, conv, dropout, pooling

from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.analysis.module_signature import is_norm
from toponas_fx.ops.registry import facts

_NO_ACTIVATIONS = ("multiheadattention", "softmax", "softmax2d", "softmin", "logsoftmax")
ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
PRODUCTS = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_SLICES = (operator.getitem, "select", "narrow")
_COPIES = ("contiguous", "clone", "detach", torch.clone, torch.detach)


@dataclass(frozen=True)
class Layer:
    """The kind of a node, and the sizes that names tell.

    Attributes:
        kind: ``"conv"``, ``"linear"``, ``"norm"``, ``"activation"``, ``"max_pool"``, ``"avg_pool"``, ``"pool"`` (any
            other), ``"dropout"``, ``"identity"``, ``"add"``, ``"product"``, ``"cat"``, ``"slice"`` or ``"other"``.
        name: of a module's class or a function.
        sizes: of the kernel or window, one number for each spatial dimension.
        dilation: the largest distance of taps.
        stride: the largest stride.
        groups: of a convolution.
        channels: that it reads and makes.
    """

    kind: str
    name: str
    sizes: tuple[int, ...] = ()
    dilation: int = 1
    stride: int = 1
    groups: int = 1
    channels: tuple[int, int] = (0, 0)

    @property
    def is_depthwise(self) -> bool:
        """Whether a convolution filters each channel by itself; of one channel, whether it sees more than a pixel."""
        is_split = self.groups > 1 or (self.channels == (1, 1) and not self.is_pointwise)
        return self.kind == "conv" and is_split and self.groups == self.channels[0]

    @property
    def is_pointwise(self) -> bool:
        """Whether a convolution sees one pixel, and all channels."""
        return self.kind == "conv" and self.groups == 1 and set(self.sizes) <= {1}

    @property
    def by(self) -> str:
        """The sizes as one writes them: ``3x3``."""
        return "x".join(map(str, self.sizes))


def layer_of(gm: fx.GraphModule, node: fx.Node) -> Layer:
    """Return what kind of layer a node computes."""
    if node.op == "call_module":
        return _of_module(gm, node, gm.get_submodule(str(node.target)))
    target: Any = node.target
    name = target if isinstance(target, str) else getattr(target, "__name__", node.name)
    operation = linear_op(gm, node)
    if operation is not None:
        return _linear(operation)
    known = facts(target)
    if known.window is not None:
        return _by_name(known.label, node.args[known.window])
    if known.family == "norm":
        return Layer("norm", name)
    for kind, targets in (("add", ADDITIONS), ("product", PRODUCTS), ("slice", _SLICES), ("identity", _COPIES)):
        if target in targets:
            return Layer(kind, name)
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("kernel_size", ())
    return _by_name(str(name), given)


def _of_module(gm: fx.GraphModule, node: fx.Node, module: nn.Module) -> Layer:
    name, option = type(module).__name__, vars(module).get
    operation = linear_op(gm, node)
    if operation is not None:
        return _linear(operation)
    if isinstance(module, conv._ConvNd) and not module.transposed:
        channels = module.in_channels, module.out_channels
        geometry = max(module.dilation), max(module.stride), module.groups
        return Layer("conv", name, _sizes(module.kernel_size), *geometry, channels)
    if is_norm(module):
        return Layer("norm", name)
    base = next((base for base in type(module).__mro__ if base.__module__.startswith("torch.nn.")), nn.Module)
    found = _by_name(base.__name__, option("kernel_size", ()))
    return Layer(found.kind, name, found.sizes)


def _linear(operation: Any) -> Layer:
    groups, shape = operation.groups, operation.kernel_shape
    channels = shape[1] * groups, shape[0]
    if not operation.dims:
        return Layer("linear", "Linear", channels=channels)
    geometry = max(operation.dilation), max(operation.stride), groups
    return Layer("conv", f"Conv{operation.dims}d", tuple(shape[2:]), *geometry, channels)


def _by_name(name: str, window: Any) -> Layer:
    plain = name.rstrip("_").replace("_", "").lower()
    kind = _KINDS.get(plain.removeprefix("native"), "other")
    if not kind.endswith("pool"):
        return Layer(kind, name)
    rank = int(plain[plain.index("pool") + 4])
    sizes = _sizes(window if isinstance(window, tuple | list) else (window,) * rank)
    return Layer(kind if plain[:7] in ("maxpool", "avgpool") and sizes else "pool", name, sizes)


def _sizes(window: Any) -> tuple[int, ...]:
    return tuple(window) if all(isinstance(size, int) for size in window) else ()


def _known(module: ModuleType, kind: str) -> Iterator[tuple[str, str]]:
    for name in module.__all__:
        yield name.lower(), kind


_KINDS = {
    **dict(_known(activation, "activation")),
    **dict(_known(dropout, "dropout")),
    **{
        name: "max_pool" if name.startswith("max") else "avg_pool" if name.startswith("avg") else "pool"
        for name, _ in _known(pooling, "")
        if "unpool" not in name
    },
    **dict.fromkeys(_NO_ACTIVATIONS, "other"),
    **dict.fromkeys(("batchnorm", "instancenorm", "groupnorm", "layernorm", "rmsnorm"), "norm"),
    **{"identity": "identity", "cat": "cat", "concat": "cat"},
}
