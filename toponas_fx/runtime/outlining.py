"""Outline the arms of choices: each becomes a function of its own, and only the one that a choice takes runs."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import fx

from toponas_fx.analysis.arms import LAZY, home, selects
from toponas_fx.analysis.module_paths import common_path
from toponas_fx.ops import choices


class Outlined:
    """The target of a node of an outlined graph: it runs functions, each of which has a graph of its own.

    Attributes:
        parts: the graphs.
        names: what each is called.
        functions: compiled, in the same order; each takes the model first.
    """

    def __init__(self, name: str, parts: Sequence[fx.Graph], names: Sequence[str]) -> None:
        """Name it as a function is named."""
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.parts, self.names = list(parts), list(names)
        self.functions: list[Callable[..., Any]] = []


class Switch(Outlined):
    """Runs the arm that a choice takes."""

    def __call__(self, model: Any, choice: Any, values: tuple[int | bool, ...], *operands: Any) -> Any:
        """Return the arm's value.

        Args:
            model: what the program runs for.
            choice: one number, or several.
            values: of the choice, one an arm.
            *operands: what any of the arms reads.
        """
        return self.functions[choices.position(choice, values)](model, *operands)


class Delayed(Outlined):
    """Makes a value that is computed by the first arm that reads it."""

    def __call__(self, model: Any, *operands: Any) -> DelayedValue:
        """Return the value, yet to be computed."""
        return DelayedValue(self.functions[0], (model, *operands))


class DelayedValue:
    """A value, or how to compute it."""

    __slots__ = ("_args", "_function", "_value")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Take the function and its arguments."""
        self._function: Any = function
        self._args: Any = args
        self._value: Any = None


def computed(value: DelayedValue) -> Any:
    """Return a delayed value, computed now unless it was before."""
    if value._args is not None:
        value._value, value._args = value._function(*value._args), None
    return value._value


def outlined(graph: fx.Graph) -> fx.Graph:
    """Return a graph that runs one arm of each choice.

    Args:
        graph: with its arms written out; left as it is.
    """
    return _Outliner(graph).outline() if selects(graph) else graph


class _Outliner:
    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.outer = fx.Graph()
        self._known: dict[fx.Node, fx.Node] = {}
        self._sites: dict[int, list[fx.Node]] = {}
        self._own: dict[Any, list[fx.Node]] = {}
        for node in graph.nodes:
            self._own.setdefault(home(node), []).append(node)
            if node.target is choices.select:
                self._sites.setdefault(node.meta["site"], []).append(node)

    def outline(self) -> fx.Graph:
        for node in self._own[None]:
            self._emit(node)
        return self.outer

    def _emit(self, node: fx.Node) -> fx.Node:
        """Write a node that always runs after all that it reads; a ``Switch`` for a choice."""
        if node in self._known:
            return self._known[node]
        if node.target is choices.select:
            self._switch(node.meta["site"])
        elif home(node) == LAZY:
            operands = [*dict.fromkeys(node.all_input_nodes)]
            title = f"delayed_{node.name}"
            delayed, args = Delayed(title, [_part([node], operands, [node])], [title]), tuple(map(self._emit, operands))
            self._known[node] = self.outer.create_node("call_function", delayed, args, name=node.name)
            self._known[node].meta.update(node.meta)
        else:
            for value in node.all_input_nodes:
                self._emit(value)
            self._known[node] = self.outer.node_copy(node, self._known.__getitem__)
        return self._known[node]

    def _switch(self, site: int) -> None:
        together = self._sites[site]
        choice: Any = together[0].args[0]
        values: Any = together[0].args[1]
        taken: list[list[Any]] = [[select.args[2][arm] for select in together] for arm in range(len(values))]  # type: ignore[index]
        arms = [self._own.get((site, arm), []) for arm in range(len(values))]
        operands = [
            *dict.fromkeys(value for nodes, given in zip(arms, taken, strict=True) for value in _read(nodes, given))
        ]
        parts = [_part(nodes, operands, given) for nodes, given in zip(arms, taken, strict=True)]
        args = (fx.node.map_arg(choice, self._emit), values, *map(self._emit, operands))
        switch, name = _named(site, together[0], parts), together[0].name if len(together) == 1 else f"choice_{site}"
        result = self.outer.create_node("call_function", switch, args, name=name)
        result.meta.update(together[0].meta)
        for number, select in enumerate(together):
            self._known[select] = (
                result if len(together) == 1 else self.outer.call_function(operator.getitem, (result, number))
            )


def outlined_parts(graph: fx.Graph) -> Iterator[tuple[str, fx.Graph]]:
    """Yield the functions that an outlined graph runs, each with its name, in order."""
    for node in graph.nodes:
        if isinstance(node.target, Outlined):
            for name, part in zip(node.target.names, node.target.parts, strict=True):
                yield name, part
                yield from outlined_parts(part)


def _named(site: int, select: fx.Node, parts: Sequence[fx.Graph]) -> Switch:
    """Return what runs one of some parts, named after where the candidates are in the model."""
    paths: Sequence[str] = select.meta.get("candidates", ("",) * len(parts))
    name, *titles = (f"choice_{site}{_suffix(path)}" for path in (common_path(filter(None, paths)), *paths))
    own = [title if titles.count(title) == 1 and title != name else f"{name}_arm_{i}" for i, title in enumerate(titles)]
    return Switch(name, parts, own)


def _suffix(path: str) -> str:
    return "_of_" + re.sub(r"\W+", "_", path) if path else ""


def _read(nodes: Iterable[fx.Node], results: Iterable[Any]) -> list[fx.Node]:
    """Return what an arm reads of the nodes outside of it."""
    inside = set(nodes)
    read = [value for node in nodes for value in node.all_input_nodes]
    return [value for value in (*read, *results) if isinstance(value, fx.Node) and value not in inside]


def _part(nodes: Sequence[fx.Node], operands: Sequence[fx.Node], results: Sequence[Any]) -> fx.Graph:
    """Return the graph of a function of some operands."""
    graph = fx.Graph()
    known = {operand: graph.placeholder(operand.name) for operand in operands}
    inside = set(nodes)
    for operand in dict.fromkeys(_read(nodes, results)):
        if home(operand) == LAZY and operand not in inside:
            args = (known[operand],)
            known[operand] = graph.create_node("call_function", computed, args, name=f"{operand.name}_computed")
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    values = tuple(known[value] if isinstance(value, fx.Node) else value for value in results)
    graph.output(values[0] if len(values) == 1 else values)
    return graph
