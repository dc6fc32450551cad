"""The arithmetic of edges on kernels and weights: which operations differ only in the tensors that they read."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.arms import home
from toponas_fx.analysis.effects import is_pure
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.normalized_kernels import is_normalized


def alike_arithmetic(gm: fx.GraphModule, largest: int) -> list[list[fx.Node]]:
    """Return operations on weights alone that differ in the tensors they read only, each group on one level.

    Operations on the same level, that is with as many such operations above them, never depend on one another.

    Args:
        gm: the model.
        largest: numbers in a kernel, at most.

    Returns:
        Groups of two or more in the graph's order, those of lower levels first.
    """
    groups: dict[Any, list[fx.Node]] = {}
    levels: dict[fx.Node, int] = {}
    barriers: dict[fx.Node, fx.Node | None] = {}
    memory = Memory.of(gm)
    has_gradients = next(iter(gm.graph.nodes)).meta.get("grad", True)
    for node in gm.graph.nodes:
        parents = node.all_input_nodes
        above = max((levels.get(parent, -1) for parent in parents), default=0)
        is_free = node.op != "placeholder" and all(parent in levels for parent in parents)
        is_free = is_free and node.meta.get("grad", True) == has_gradients
        if not is_free or memory.is_written(node) or home(node) is not None:
            continue
        key = _key(node, largest)
        levels[node] = above + (key is not None)
        barriers[node] = _last([barriers[parent] for parent in parents])
        if not is_pure(gm, node):
            barriers[node] = node
        elif key is not None:
            groups.setdefault((levels[node], *key), []).append(node)
    ordered = [nodes for _, nodes in sorted(groups.items(), key=lambda group: group[0][0])]
    able = [[node for node in nodes if _is_before(barriers[node], nodes[0])] for nodes in ordered]
    return [nodes for nodes in able if len(nodes) > 1]


def _last(nodes: Sequence[fx.Node | None]) -> fx.Node | None:
    found = [node for node in nodes if node is not None]
    return max(found) if found else None


def _is_before(node: fx.Node | None, anchor: fx.Node) -> bool:
    return node is None or node < anchor


def _key(node: fx.Node, largest: int) -> tuple[Any, ...] | None:
    """Return what alike operations agree in, the function first; None for other operations."""
    args: Any = node.args
    if math.prod(getattr(_type_of(node), "shape", ())) > largest:
        return None
    if node.target is operator.mul:
        return (operator.mul, args[1].args[1], _type_of(args[0])) if _normalizes(node) else None
    if node.target in (ops.group_weight, ops.group_shares):
        kinds = tuple(map(_type_of, args[0]))
        is_plain = None not in kinds and len(set(kinds)) == 1 and _is_read_by_items(node)
        return (node.target, *kinds) if is_plain else None
    if node.target is ops.merge_kernels:
        kernels, weights, *places = args
        kinds = tuple(map(_type_of, (*kernels, *weights)))
        dtypes = {kind.dtype for kind in kinds if kind is not None}
        return (node.target, kinds, str(places)) if None not in kinds[: len(kernels)] and len(dtypes) == 1 else None
    return None


def _normalizes(node: fx.Node) -> bool:
    """Return whether a product is that of a kernel and its own scale, which nothing else reads."""
    args: Any = node.args
    return is_normalized(node) and list(args[1].users) == [node] and _type_of(args[0]) is not None


def _is_read_by_items(node: fx.Node) -> bool:
    """Return whether shares are read one by one only: as a batch they are no tensor."""
    vectors = [node] if node.target is ops.group_shares else [user for user in node.users if user.args[1] == 1]
    users = [*node.users, *(user for vector in vectors for user in vector.users)]
    return all(user.target is operator.getitem and isinstance(user.args[1], int) for user in users)


def _type_of(value: Any) -> Any:
    return value.meta.get("type") if isinstance(value, fx.Node) else None
