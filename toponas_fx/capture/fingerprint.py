"""The structure of a recorded run: two runs with equal fingerprints took the same path with the same numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import fx

from toponas_fx.ir.targets import target_name
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.ops import choices, guard

_READING = (guard, choices.decide)


class Step(NamedTuple):
    """One node of a recorded run, as text.

    Attributes:
        text: what it calls and with what, other nodes by their numbers; paths in the tree apart.
        path: that of the module or tensor; None for other nodes.
        where: ``file:line`` of the user's code.
        reads_data: whether it holds the run to an answer that was read from data.
    """

    text: str
    path: str | None
    where: str
    reads_data: bool


class Difference(NamedTuple):
    """Where a run first did something else than another; ``was`` and ``now`` are the texts of the nodes there."""

    where: str
    was: str
    now: str
    reads_data: bool


@dataclass(frozen=True)
class Fingerprint:
    """What two runs must agree in.

    Attributes:
        structure: a digest of all nodes, apart from where modules and tensors are in the tree, and of all decisions.
        targets: the paths of those, in the order of the nodes.
        steps: the same node by node, in words that outlive the process.
    """

    structure: str
    targets: tuple[str, ...]
    steps: tuple[Step, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, graph: fx.Graph, decisions: Sequence[str]) -> Fingerprint:
        """Look at a graph as it was recorded; ``decisions`` are what it read from data."""
        numbers: dict[fx.Node, str] = {}
        targets: list[str] = []
        steps: list[Step] = []
        places: dict[str, str] = {}
        digest = hashlib.sha256()
        for index, node in enumerate(graph.nodes):
            numbers[node] = f"%{index}"
            target: Any = node.target
            path = None
            if node.op in ("call_module", "get_attr"):
                path = target
                targets.append(target)
                target = ""
            elif not isinstance(target, str):
                target = id(target)
            args, kwargs = _text(node.args, numbers), _text(node.kwargs, numbers)
            digest.update(f"{node.op} {target} {args} {kwargs}\n".encode())
            where = node.meta.get("where", "")
            called = node.op if path is not None else target_name(node.target)
            text = called + args + (kwargs if node.kwargs else "")
            steps.append(Step(text, path, places.setdefault(where, where), node.target in _READING))
        digest.update("\n".join(decisions).encode())
        return cls(digest.hexdigest(), tuple(targets), tuple(steps))

    def is_of(self, other: Fingerprint, tree: TreeIndex) -> bool:
        """Return whether another run took this path in a tree, where modules may have been tied since."""
        if self.structure != other.structure:
            return False
        return self.targets == other.targets or [*map(tree.first_path, self.targets)] == [
            *map(tree.first_path, other.targets)
        ]

    def first_difference(self, other: Fingerprint, tree: TreeIndex) -> Difference | None:
        """Return where another run in a tree, whose modules may have been tied since, left this path, or None."""
        end = Step("nothing more", None, "", False)
        for step, own in zip_longest(self.steps, other.steps, fillvalue=end):
            if step.text == own.text and (step.path == own.path or _first(tree, step.path) == _first(tree, own.path)):
                continue
            reads_data = step.reads_data and own.reads_data
            return Difference(own.where or step.where, _told(step), _told(own), reads_data)
        return None


def _first(tree: TreeIndex, path: str | None) -> str | None:
    return None if path is None else tree.first_path(path)


def _told(step: Step) -> str:
    text = step.text
    if step.path is not None:
        text = f"{step.path}{text.removeprefix('call_module')}" if text.startswith("call") else step.path
    return text if len(text) < 80 else f"{text[:77]}..."


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
