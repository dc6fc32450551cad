"""Write a graph as text, one line a node, for error messages, logs and tests.

Nodes are numbered by their position, so that the names torch.fx invents cannot matter::

    %0 = input x : f32[2,4,8,8]
    %1 = attr alphas : f32[2]
    %2 = getitem(%1, 0) : f32[]
    %3 = Conv2d[op](%0) : f32[2,4,8,8]
    %4 = .mul(%3, %2) : f32[2,4,8,8]
    return %4

The part after the colon is ``node.meta["type"]``, where it is set. The text is the same in every run: no address, no
hash order. There is no parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from toponas_fx.ir.tensor_type import TensorType

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TORCH_CONSTANTS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def format_graph(
    gm_or_graph: fx.GraphModule | fx.Graph,
    root: nn.Module | None = None,
    around: fx.Node | None = None,
    context: int = 5,
) -> str:
    """Write a graph, or the part of it near one node.

    Args:
        gm_or_graph: The graph, or the module that carries it.
        root: The module tree that paths are looked up in, for the class names of modules. Without it, the graph module
            itself or the graph's owner is used; where there is neither, a module's class reads ``module``.
        around: Print only this node and its neighbours. Its line starts with ``>`` and a space, the others with two
            spaces. A node that is no longer in the graph is not marked, and the whole graph is printed.
        context: How many lines to print on each side of ``around``.

    Returns:
        The lines, joined by newlines, without one at the end.
    """
    graph = gm_or_graph.graph if isinstance(gm_or_graph, fx.GraphModule) else gm_or_graph
    if root is None:
        root = gm_or_graph if isinstance(gm_or_graph, fx.GraphModule) else graph.owning_module
    index = number_nodes(graph)
    if around is None or around not in index:
        return "\n".join(format_node(node, index, root) for node in index)
    centre = index[around]
    near = [node for node, position in index.items() if abs(position - centre) <= context]
    return "\n".join(("> " if node is around else "  ") + format_node(node, index, root) for node in near)


def number_nodes(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the position of each node of ``graph``, in order."""
    return {node: position for position, node in enumerate(graph.nodes)}


def format_node(node: fx.Node, index: Mapping[fx.Node, int], root: nn.Module | None = None) -> str:
    """Write one node as a line of graph text.

    Args:
        node: The node.
        index: The number of each node, from `number_nodes`. A node that is not in it is written ``%?`` and its name.
        root: The module tree that paths are looked up in. A module that is not there reads ``missing[path]``; without
            a tree every module reads ``module[path]``.
    """
    if node.op == "output":
        return f"return {_format_value(node.args[0], index)}"
    kind = node.meta.get("type")
    suffix = "" if kind is None else f" : {_format_value(kind, index)}"
    return f"{_reference(node, index)} = {_format_operation(node, index, root)}{suffix}"


def _format_operation(node: fx.Node, index: Mapping[fx.Node, int], root: nn.Module | None) -> str:
    """Write what stands right of the equals sign."""
    if node.op == "placeholder":
        default = f"={_format_value(node.args[0], index)}" if node.args else ""
        return f"input {node.target}{default}"
    if node.op == "get_attr":
        return f"attr {node.target}"
    arguments = [_format_value(value, index) for value in node.args]
    arguments += [f"{name}={_format_value(value, index)}" for name, value in node.kwargs.items()]
    return f"{_format_callee(node, root)}({', '.join(arguments)})"


def _format_callee(node: fx.Node, root: nn.Module | None) -> str:
    """Write what a call node calls."""
    if node.op == "call_method":
        return f".{node.target}"
    if callable(node.target):
        return _function_name(node.target)
    return f"{_module_class(str(node.target), root)}[{node.target}]"


def _module_class(path: str, root: nn.Module | None) -> str:
    if root is None:
        return "module"
    try:
        return type(root.get_submodule(path)).__name__
    except AttributeError:
        return "missing"


def _function_name(function: Callable[..., Any]) -> str:
    """Return a function's short public name.

    Underscores that only hide a name go (``_softmax``, ``__getitem__``, and the last one of ``operator.and_``); the
    one at the end of an in-place function stays, for it changes the meaning.
    """
    name: str = getattr(function, "__name__", type(function).__name__)
    owner = getattr(function, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return f"{owner.__name__}.{name}"
    if name.startswith("__") or getattr(function, "__module__", None) == "_operator":
        return name.strip("_")
    return name.lstrip("_")


def _reference(node: fx.Node, index: Mapping[fx.Node, int]) -> str:
    return f"%{index[node]}" if node in index else f"%?{node.name}"


def _format_value(value: object, index: Mapping[fx.Node, int]) -> str:
    """Write an argument or a result, nested structures as Python structures."""
    match value:
        case fx.Node():
            return _reference(value, index)
        case TensorType():
            return str(value)
        case torch.Tensor():
            return f"tensor {TensorType.of(value)}"
        case str():
            return repr(value)
        case slice():
            return _format_slice(value, index)
        case tuple():
            items = [_format_value(item, index) for item in value]
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        case list():
            return f"[{', '.join(_format_value(item, index) for item in value)}]"
        case set() | frozenset():
            items = sorted(_format_value(item, index) for item in value)
            return f"{{{', '.join(items)}}}" if items else "set()"
        case dict():
            pairs = [f"{_format_value(key, index)}: {_format_value(item, index)}" for key, item in value.items()]
            return f"{{{', '.join(pairs)}}}"
    if isinstance(value, _TORCH_CONSTANTS):
        return str(value).removeprefix("torch.")
    if hasattr(value, "__name__") and callable(value):
        return _function_name(value)
    if value is ...:
        return "..."
    return " ".join(_ADDRESS.sub("", repr(value)).split())


def _format_slice(value: slice, index: Mapping[fx.Node, int]) -> str:
    """Write a slice as between brackets: ``1:2``, ``:``, ``::2``."""
    bounds = [value.start, value.stop] if value.step is None else [value.start, value.stop, value.step]
    return ":".join("" if bound is None else _format_value(bound, index) for bound in bounds)
