"""Outline the arms of choices: each becomes a function of its own, and only the one that a choice takes runs.

In a graph all arms of a choice stand before the ``select`` that takes one of their values, as if all were computed, so
that passes see plain graphs. ``meta["arm"]`` of a node says whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from toponas_fx.ops import choices

Arm = tuple[int, int]
"""The number of a choice, and that of the arm."""


class Switch:
    """Runs one of several functions, by what a choice is; the target of a node in outlined graphs."""

    def __init__(self, name: str, arms: Sequence[fx.Graph]) -> None:
        """Name it; ``arms`` are the graphs of the functions."""
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.arms = list(arms)
        self.functions: list[Callable[..., Any]] = []

    def __call__(self, model: Any, choice: Any, values: tuple[int | bool, ...], *operands: Any) -> Any:
        """Run the arm that a choice takes.

        Args:
            model: what the program runs for.
            choice: one number.
            values: of the choice, one an arm.
            *operands: what any of the arms reads.
        """
        return self.functions[choices.position(choice, values)](model, *operands)


def selects(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that take one of several arms."""
    return [node for node in graph.nodes if node.target is choices.select]


@dataclass
class _Outliner:
    graph: fx.Graph
    outer: fx.Graph
    owners: dict[fx.Node, Arm | None]
    sites: dict[int, list[fx.Node]]
    known: dict[fx.Node, fx.Node]

    def outline(self) -> fx.Graph:
        for node in self.graph.nodes:
            if self.owners[node] is None:
                self._emit(node)
        return self.outer

    def _emit(self, node: fx.Node) -> fx.Node:
        """Write a node that always runs, after all that it reads; a choice for its ``select``."""
        if node in self.known:
            return self.known[node]
        if node.target is choices.select:
            self._switch(node.meta["site"])
            return self.known[node]
        for value in node.all_input_nodes:
            self._emit(value)
        self.known[node] = self.outer.node_copy(node, self.known.__getitem__)
        return self.known[node]

    def _switch(self, site: int) -> None:
        together = self.sites[site]
        choice, values = together[0].args[:2]
        count = len(values)  # type: ignore[arg-type]
        own: list[list[fx.Node]] = [[] for _ in range(count)]
        for node in self.graph.nodes:
            owner = self.owners[node]
            if owner is not None and owner[0] == site:
                own[owner[1]].append(node)
        results: list[list[Any]] = [[select.args[2][arm] for select in together] for arm in range(count)]  # type: ignore[index]
        operands: dict[fx.Node, None] = {}
        for nodes, values_of in zip(own, results, strict=True):
            inside = set(nodes)
            read = [value for node in nodes for value in node.all_input_nodes]
            operands.update(dict.fromkeys(v for v in (*read, *values_of) if isinstance(v, fx.Node) and v not in inside))
        arms = [_arm(nodes, list(operands), given) for nodes, given in zip(own, results, strict=True)]
        args = [self._emit(node) for node in (choice, *operands)]  # type: ignore[arg-type]
        switch = Switch(f"choice_{site}", arms)
        taken = self.outer.call_function(switch, (args[0], values, *args[1:]))
        if len(together) == 1:
            self.known[together[0]] = taken
        else:
            for number, select in enumerate(together):
                self.known[select] = self.outer.call_function(_item, (taken, number))


def _item(values: tuple[Any, ...], number: int) -> Any:
    return values[number]


def _arm(nodes: Sequence[fx.Node], operands: Sequence[fx.Node], results: Sequence[Any]) -> fx.Graph:
    graph = fx.Graph()
    known = {operand: graph.placeholder(operand.name) for operand in operands}
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    values = tuple(known[value] if isinstance(value, fx.Node) else value for value in results)
    graph.output(values[0] if len(values) == 1 else values)
    return graph


def outlined(graph: fx.Graph) -> fx.Graph:
    """Return a graph that runs one arm of each choice, with a ``Switch`` for each.

    Args:
        graph: with its arms written out; left as it is.
    """
    sites: dict[int, list[fx.Node]] = {}
    for select in selects(graph):
        sites.setdefault(select.meta["site"], []).append(select)
    return _Outliner(graph, fx.Graph(), owners(graph), sites, {}).outline()


def owners(graph: fx.Graph) -> dict[fx.Node, Arm | None]:
    """Return the arm that each node runs in; None for those that always run."""
    found: dict[fx.Node, Arm | None] = {}
    for node in reversed(graph.nodes):
        arm = node.meta.get("arm")
        readers: set[Any] = set()
        for user in node.users:
            readers |= _reads_as(user, node) if user.target is choices.select else {found[user]}
        found[node] = arm if readers <= {arm} else None
    return found


def _reads_as(select: fx.Node, node: fx.Node) -> set[Any]:
    """Return the arms of a choice that a node is a value of; it may be what is chosen by, too."""
    arms: Any = select.args[2]
    return {(select.meta["site"], i) for i, arm in enumerate(arms) if arm is node} | (
        {None} if select.args[0] is node else set()
    )
