"""The structure of a recorded run: two runs with equal fingerprints took the same path with the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from toponas_fx.module_tree.index import TreeIndex


@dataclass(frozen=True)
class Fingerprint:
    """What two runs must agree in.

    Attributes:
        structure: a digest of all nodes, apart from where modules and tensors are in the tree, and of all decisions.
        targets: the paths of those, in the order of the nodes.
    """

    structure: str
    targets: tuple[str, ...]

    @classmethod
    def of(cls, graph: fx.Graph, decisions: Sequence[str]) -> Fingerprint:
        """Look at a graph as it was recorded; ``decisions`` are what it read from data."""
        numbers: dict[fx.Node, str] = {}
        targets: list[str] = []
        digest = hashlib.sha256()
        for index, node in enumerate(graph.nodes):
            numbers[node] = f"%{index}"
            target: Any = node.target
            if node.op in ("call_module", "get_attr"):
                targets.append(target)
                target = ""
            elif not isinstance(target, str):
                target = id(target)
            digest.update(f"{node.op} {target} {_text(node.args, numbers)} {_text(node.kwargs, numbers)}\n".encode())
        digest.update("\n".join(decisions).encode())
        return cls(digest.hexdigest(), tuple(targets))

    def is_of(self, other: Fingerprint, tree: TreeIndex) -> bool:
        """Return whether another run took this path in a tree, where modules may have been tied since."""
        if self.structure != other.structure:
            return False
        return self.targets == other.targets or [*map(tree.first_path, self.targets)] == [
            *map(tree.first_path, other.targets)
        ]


def _text(value: Any, numbers: dict[fx.Node, str]) -> str:
    """Return a value as text, nodes by their numbers: their names come from the paths."""
    if isinstance(value, fx.Node):
        return numbers[value]
    if isinstance(value, tuple | list):
        inner = ",".join([_text(item, numbers) for item in value])
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key!r}:{_text(item, numbers)}' for key, item in value.items())}}}"
    if isinstance(value, slice):
        return f"slice{_text((value.start, value.stop, value.step), numbers)}"
    return repr(value)
