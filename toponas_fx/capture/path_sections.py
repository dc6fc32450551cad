"""What merging and replaying of recorded runs share: runs cut at decisions, merged graphs with their choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from toponas_fx.capture.inputs import Inputs
from toponas_fx.capture.small_batches import sized
from toponas_fx.ops import choices


class UnlikePathsError(Exception):
    """Runs are not the paths of one graph; the text says why, as the end of a sentence."""


@dataclass
class Site:
    """A place where a graph goes one of several ways.

    Attributes:
        choices: the nodes that Python reads; several where one decision after another tells which candidates run.
        values: what was read, a tuple for each arm.
        arms: the nodes of each arm.
        selects: the nodes that take the arms' values.
    """

    choices: tuple[fx.Node, ...]
    values: list[tuple[Any, ...]]
    arms: list[list[fx.Node]] = field(default_factory=list)
    selects: list[fx.Node] = field(default_factory=list)


@dataclass(frozen=True)
class Merged:
    """One graph of several runs.

    Attributes:
        graph: it; ``meta["arm"]`` of a node of an arm is the number of its site and that of the arm.
        parts: its nodes and its sites, in order.
        settled: the numbers of the decisions that all runs made alike.
    """

    graph: fx.Graph
    parts: list[fx.Node | Site]
    settled: frozenset[int]

    def sized(self, larger: Mapping[fx.Node, fx.Node], inputs: Inputs) -> None:
        """Give its values the shapes of the call's own batch, see ``small_batches``; a choice has that of its arms."""
        sized(larger, inputs)
        for select in (select for part in self.parts if isinstance(part, Site) for select in part.selects):
            arms: Any = select.args[2]
            if arms[0] is not None:
                select.meta["type"] = arms[0].meta.get("type")


def is_decision(node: fx.Node) -> bool:
    """Return whether a node of a recorded run marks that it goes one of several ways."""
    return node.target is choices.decide


def forget_picks(graph: fx.Graph) -> bool:
    """Take out of a recorded run the decisions where a module runs that was picked before; were there any?"""
    picks = [node for node in graph.nodes if is_decision(node) and node.meta["was_picked"]]
    for node in picks:
        graph.erase_node(node)
    return bool(picks)


def sections(graph: fx.Graph, settled: frozenset[int]) -> Iterator[tuple[fx.Node | None, list[fx.Node]]]:
    """Yield the parts of a recorded run between decisions that are not settled, each with the decision before it."""
    decision: fx.Node | None = None
    nodes: list[fx.Node] = []
    count = 0
    for node in graph.nodes:
        if is_decision(node):
            count += 1
            if count - 1 not in settled:
                yield decision, nodes
                decision, nodes = node, []
                continue
        nodes.append(node)
    yield decision, nodes


class Run:
    """A recorded run: its sections, the section of each node, and the nodes of the merged graph that stand for its own.

    Attributes:
        decisions: the node before each section; None before the first.
        sections: the nodes of each.
        known: for its nodes, those of the merged graph.
    """

    def __init__(self, graph: fx.Graph, settled: frozenset[int]) -> None:
        """Cut the run at its decisions but for those that are settled."""
        self.decisions, self.sections = zip(*sections(graph, settled), strict=True)
        self.known: dict[fx.Node, fx.Node] = {}
        self._section = {node: number for number, nodes in enumerate(self.sections) for node in nodes}
        self._section |= {decision: number for number, decision in enumerate(self.decisions) if decision is not None}

    def joined(self, first: int, last: int) -> list[fx.Node]:
        """Return the nodes of some sections in turn, with the decisions between them."""
        nodes = list(self.sections[first])
        for number in range(first + 1, last + 1):
            decision: Any = self.decisions[number]
            nodes += [decision, *self.sections[number]]
        return nodes

    def read(self, first: int, last: int) -> tuple[Any, ...]:
        """Return what the decisions before some sections read."""
        read: list[Any] = [self.decisions[number] for number in range(first, last + 1)]
        return tuple(decision.args[1] for decision in read)

    def outlives(self, node: fx.Node, last: int) -> bool:
        """Return whether a node is read after a section."""
        return any(self._section[user] > last for user in node.users)


def inputs_of(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that a node reads, one for each place where it reads one."""
    found: list[fx.Node] = []

    def note(inner: fx.Node) -> fx.Node:
        found.append(inner)
        return inner

    fx.node.map_arg((node.args, dict(node.kwargs)), note)
    return found


def is_same_call(node: fx.Node, other: fx.Node) -> bool:
    """Return whether two nodes are the same but for the nodes that they read."""
    return is_same_but_sizes(node, other) and node.meta.get("type") == other.meta.get("type")


def is_same_but_sizes(node: fx.Node, other: fx.Node) -> bool:
    """Return whether nodes of two runs are the same but for the nodes that they read, and for sizes of tensors."""
    if node.op != other.op or not (node.target is other.target or node.target == other.target):
        return False
    if node.meta.get("grad") != other.meta.get("grad") or _writes(node) != _writes(other):
        return False
    return node.meta.get("order") == other.meta.get("order") and repr(_blank(node)) == repr(_blank(other))


def _writes(node: fx.Node) -> int:
    return len(node.meta.get("mutates", ()))


def _blank(node: fx.Node) -> Any:
    """Return a node's arguments with one thing in the places of all nodes; numbers tell 1 and True apart as text."""
    return fx.node.map_arg((node.args, dict(node.kwargs)), lambda inner: _ANY)


class _Any:
    def __repr__(self) -> str:
        return "%"


_ANY: Any = _Any()


def is_same_type(values: Sequence[fx.Node]) -> bool:
    """Return whether some nodes give tensors of one type, known to be so."""
    kinds = [value.meta.get("type") for value in values]
    return kinds[0] is not None and all(kind == kinds[0] for kind in kinds)
