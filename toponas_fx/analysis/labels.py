"""Short names of what nodes compute, for people."""

from __future__ import annotations

from typing import Any

from torch import fx

from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.ops.registry import facts

_SLIDING = ("torch.nn.modules.conv", "torch.nn.modules.pooling")


def label_of(gm: fx.GraphModule, node: fx.Node) -> str:
    """Return a short name of what a node computes: ``Conv2d 3x3 dw d2 s2``, ``relu``."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        name, option = type(module).__name__, vars(module).get
        if not any(base.__module__ in _SLIDING for base in type(module).__mro__):
            return name
        size, channels, groups = option("kernel_size", ()), option("in_channels"), option("groups", 1)
        sizes = size if isinstance(size, tuple) else (size,) * (2 if "2d" in name else 3 if "3d" in name else 1)
        return _geometry(name, sizes, channels, groups, option("dilation", 1), option("stride", 1))
    known = facts(node.target)
    if known.norm is not None:
        norms: Any = node.args[known.norm]
        first = norms[0] if isinstance(norms, list | tuple) else norms
        return type(gm.get_submodule(str(first.target))).__name__
    if known.window is not None:
        size, stride = _pair(node.args[known.window]), _pair(node.args[known.window + 1])
        return _geometry(known.label, size, None, 1, 1, stride)
    operation = linear_op(gm, node)
    if operation is not None:
        name = f"Conv{operation.dims}d" if operation.dims else "Linear"
        shape, groups = operation.kernel_shape, operation.groups
        return _geometry(name, shape[2:], shape[1] * groups, groups, operation.dilation, operation.stride)
    if node.op in ("placeholder", "get_attr"):
        return "input" if node.op == "placeholder" else str(node.target)
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.name))


def _pair(size: Any) -> tuple[Any, ...]:
    return tuple(size) if isinstance(size, list | tuple) else (size, size)


def _geometry(name: str, size: tuple[Any, ...], channels: Any, groups: int, dilation: Any, stride: Any) -> str:
    parts = [name, "x".join(map(str, size))] if size else [name]
    if groups > 1:
        parts.append("dw" if groups == channels else f"g{groups}")
    for letter, option in (("d", dilation), ("s", stride)):
        numbers = dict.fromkeys(option if isinstance(option, tuple) else (option,))
        if not numbers.keys() <= {1, None}:
            parts.append(letter + "x".join(map(str, numbers)))
    return " ".join(parts)
