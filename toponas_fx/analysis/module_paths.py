"""Paths of modules: where a node runs, what several paths have in common."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


def place_of(node: fx.Node) -> str:
    """Return the path of the module that a node is, or runs in."""
    return str(node.target if node.op == "call_module" else node.meta.get("scope", ""))


def is_under(path: str, root: str) -> bool:
    """Return whether a path is that of a module or of a part of it; all are parts of the empty one."""
    return not root or path == root or path.startswith(root + ".")


def common_path(paths: Iterable[str]) -> str:
    """Return the innermost module path that leads to all of the paths; empty for the root."""
    common: list[str] = []
    for level in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return ".".join(common)
