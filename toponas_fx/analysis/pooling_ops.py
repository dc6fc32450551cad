"""Poolings: reading a node as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from toponas_fx.analysis.effects import is_hooked
from toponas_fx.ops.average_pooling import Window


@dataclass(frozen=True)
class AvgPool:
    """An average pooling of images at one node.

    Attributes:
        node: where it is computed.
        value: the node that it reads.
        window: its geometry.
    """

    node: fx.Node
    value: fx.Node
    window: Window


def avg_pool(gm: fx.GraphModule, node: Any) -> AvgPool | None:
    """Read a node as an average pooling; None for all else, and for one that rounds sizes up or divides otherwise."""
    if not isinstance(node, fx.Node) or len(node.meta["type"].shape if "type" in node.meta else ()) != 4:
        return None
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        module = gm.get_submodule(str(node.target))
        if type(module) is not nn.AvgPool2d or is_hooked(module):
            return None
        given: dict[str, Any] = {name: getattr(module, name) for name in _NAMES[1:]}
        given["input"] = node.args[0]
    elif node.target is F.avg_pool2d:
        given = {**_DEFAULTS, **dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}
    else:
        return None
    if given["ceil_mode"] or given["divisor_override"] is not None or not isinstance(given["input"], fx.Node):
        return None
    size, padding = _pair(given["kernel_size"]), _pair(given["padding"])
    stride = size if given["stride"] in (None, []) else _pair(given["stride"])
    if size is None or stride is None or padding is None:
        return None
    return AvgPool(node, given["input"], Window(size, stride, padding, bool(given["count_include_pad"])))


def max_pool(gm: fx.GraphModule, node: fx.Node) -> tuple[Any, ...] | None:
    """Read a node as a maximum pooling of images; None for all else, and for one that returns where they were.

    Returns:
        Its input, size, stride, padding, dilation and whether it rounds sizes up, as torch's ``max_pool2d`` takes them.
    """
    if len(node.meta["type"].shape if "type" in node.meta else ()) != 4:
        return None
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        module = gm.get_submodule(str(node.target))
        if type(module) is not nn.MaxPool2d or module.return_indices or is_hooked(module):
            return None
        return (node.args[0], *(getattr(module, name) for name in names))
    if node.target not in (F.max_pool2d, torch.max_pool2d):
        return None
    given: dict[str, Any] = {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False}
    given |= dict(zip(("input", *names), node.args, strict=False)) | node.kwargs
    if given.pop("return_indices", False) or not isinstance(given["input"], fx.Node):
        return None
    return (given["input"], *(given[name] for name in names))


_NAMES = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_DEFAULTS = {"stride": None, "padding": 0, "ceil_mode": False, "count_include_pad": True, "divisor_override": None}


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(item, int) for item in value):
        return value[0], value[1]
    return None
