"""Memory that is written in place: what may not move past such a write, nor go with it."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from torch import fx


def written_in_place(graph: fx.Graph) -> set[int]:
    """Return the numbers of all memory that some node writes in place."""
    return {storage for node in graph.nodes for storage in node.meta.get("mutates", ())}


def why_not_gathered(graph: fx.Graph, nodes: Sequence[fx.Node]) -> str | None:
    """Return why a sum may not be computed all at once, at its root, or None where it may.

    Nothing else may read the memory that its additions write, and nothing may write what they have read.

    Args:
        graph: the graph.
        nodes: the additions and multiplications of one sum, its root first.
    """
    root, inside = nodes[0], set(nodes)
    written = {storage for node in nodes for storage in node.meta.get("mutates", ())}
    read: set[int] = set()
    seen_root = False
    for node in graph.nodes:
        mutates = set(node.meta.get("mutates", ()))
        if node in inside:
            seen_root = seen_root or node is root
            read.update(parent.meta.get("storage", -1) for parent in node.all_input_nodes if parent not in inside)
            continue
        if written & mutates:
            return "something else writes the memory of the sum in place"
        if read & mutates and not seen_root:
            return "a term is written in place before the last one is added"
        is_read_before = not seen_root and node.meta.get("storage", -2) in written
        if is_read_before and (_outlives_run(node) or not set(node.users) <= inside):
            return "the sum is built in place, in memory that something else reads"
    return None


def _outlives_run(node: fx.Node) -> bool:
    """Tell whether a node reads memory of the model's or the caller's, a list's item too."""
    is_item = node.target in (operator.getitem, getattr) and not any("type" in n.meta for n in node.all_input_nodes)
    return node.op in ("placeholder", "get_attr") or is_item
