"""Value numbering: which nodes compute the same value, as far as function and arguments tell."""

from __future__ import annotations

from typing import Any

from torch import fx

from toponas_fx.analysis.effects import is_counting_norm
from toponas_fx.analysis.module_signature import signature


def value_key(gm: fx.GraphModule, node: fx.Node, stands_for: dict[fx.Node, fx.Node]) -> Any:
    """Return what equal nodes have in common, or None for a node that computes nothing."""
    if node.op in ("placeholder", "output"):
        return None
    target: Any = node.target
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        owns = next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
        target = id(module) if owns and not is_counting_norm(module) else signature(module)

    def stand_in(value: fx.Node) -> fx.Node:
        return stands_for.get(value, value)

    arguments = fx.node.map_arg((node.args, dict(node.kwargs)), stand_in)
    return node.op, target, _comparable(arguments), node.meta.get("grad", True)


def _comparable(value: Any) -> Any:
    """Turn arguments into something hashable in which 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return tuple((key, _comparable(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return type(value).__name__, tuple(_comparable(item) for item in value)
    if isinstance(value, slice):
        return "slice", _comparable((value.start, value.stop, value.step))
    return type(value), repr(value) if isinstance(value, float) else value
