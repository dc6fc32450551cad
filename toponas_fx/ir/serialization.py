"""Write a graph as plain data and read it back; functions go by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from torch import fx


@dataclass(frozen=True)
class _Reference:
    """Stands for the node at a position."""

    position: int


@dataclass(frozen=True)
class _Function:
    """Stands for a function that its module knows under its name."""

    module: str
    name: str


def dump_graph(graph: fx.Graph) -> list[tuple[Any, ...]]:
    """Return a picklable copy of a graph: op, name, target, args, kwargs and meta of each node."""
    positions: Any = {node: _Reference(index) for index, node in enumerate(graph.nodes)}
    rows: list[tuple[Any, ...]] = []
    for node in graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), positions.__getitem__)
        rows.append((node.op, node.name, _pack(node.target), _plain(args), _plain(kwargs), dict(node.meta)))
    return rows


def load_graph(rows: list[tuple[Any, ...]]) -> fx.Graph:
    """Rebuild the graph that ``dump_graph`` wrote."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, _Reference):
            return nodes[value.position]
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(resolve, value))
        if isinstance(value, tuple | list):
            return type(value)(map(resolve, value))
        if isinstance(value, slice):
            return slice(resolve(value.start), resolve(value.stop), resolve(value.step))
        return value

    for op, name, target, args, kwargs, meta in rows:
        node = graph.create_node(op, _unpack(target), resolve(args), resolve(kwargs), name=name)
        node.meta.update(meta)
        nodes.append(node)
    return graph


def _plain(value: Any) -> Any:
    """Turn fx's immutable containers into Python's own."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(item) for item in value)
    return value


def _pack(target: Any) -> Any:
    module, name = getattr(target, "__module__", None), getattr(target, "__name__", None)
    if module in sys.modules and name and getattr(sys.modules[module], name, None) is target:
        return _Function(module, name)
    return target


def _unpack(target: Any) -> Any:
    if isinstance(target, _Function):
        __import__(target.module)
        return getattr(sys.modules[target.module], target.name)
    return target
