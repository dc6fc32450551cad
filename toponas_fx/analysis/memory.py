"""Memory that changes while a graph runs: what may not move past such a write, nor be merged across it."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.analysis.effects import is_counting_function, is_hooked, is_pure_module
from toponas_fx.ir import known_facts

_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Memory:
    """Which memory the nodes of a graph lie in, touch and write, by number.

    A norm counts in its buffers, though torch notes no write and the graph does not show that it reads them. So a node
    touches all tensors of a module that it runs or is given, and writes those that the module may change.

    Attributes:
        places: for each node, where its value may lie; a read of a module lies in all of the module's tensors.
        touched: for each node, what it reads or writes of all memory that is written.
        writes: for each node that writes, what it writes.
        touching: for all memory that is written, the nodes that touch it, in the graph's order.
    """

    places: Mapping[fx.Node, frozenset[int]]
    touched: Mapping[fx.Node, frozenset[int]]
    writes: Mapping[fx.Node, frozenset[int]]
    touching: Mapping[int, Sequence[fx.Node]]

    @classmethod
    def of(cls, gm: fx.GraphModule) -> Memory:
        """Look at all nodes of a graph."""
        found: Memory = _memory_of(gm)
        return found

    def is_written(self, node: fx.Node) -> bool:
        """Return whether some node writes where a node's value lies."""
        return any(number in self.touching for number in self.places[node])

    def is_steady(self, node: fx.Node) -> bool:
        """Return whether no node besides itself writes what a node touches, and none touches what it writes."""
        return all(self.touching[number] == [node] for number in self.touched[node])

    def passed(self, node: fx.Node, place: fx.Node) -> frozenset[int]:
        """Return what would be read or written in another order if a node ran right before ``place`` instead."""
        own = self.writes.get(node, _NONE)
        found = set()
        for number in self.touched[node]:
            between = (other for other in self.touching[number] if node < other < place or place <= other < node)
            if any(number in own or number in self.writes.get(other, _NONE) for other in between):
                found.add(number)
        return frozenset(found)


@known_facts.of_graph
def _memory_of(gm: fx.GraphModule) -> Memory:
    values = model_values(gm)
    numbers = _Numbers(values)
    places: dict[fx.Node, frozenset[int]] = {}
    near: dict[fx.Node, list[Iterable[int]]] = {}
    writes: dict[fx.Node, frozenset[int]] = {}
    for node in gm.graph.nodes:
        inputs = node.all_input_nodes
        places[node] = numbers.of(values[node]) if node in values else _place(node, places)
        near[node] = [places[node], *[places[value] for value in inputs]]
        modules = [values[value] for value in inputs if value in values and isinstance(values[value], nn.Module)]
        if node.op == "call_module":
            modules.append(gm.get_submodule(str(node.target)))
        written = _NONE.union(node.meta["mutates"]) if "mutates" in node.meta else _NONE
        for module in modules:
            written |= numbers.changed_by(module)
            near[node].append(numbers.of_module(module))
        if is_counting_function(node):
            written = written.union(*(places[value] for value in inputs[1:]))
        if written:
            writes[node] = written
    touching: dict[int, list[fx.Node]] = {number: [] for written in writes.values() for number in written}
    touched: dict[fx.Node, frozenset[int]] = {}
    for node, parts in near.items():
        found = [number for number in chain.from_iterable(parts) if number in touching]
        touched[node] = writes.get(node, _NONE).union(found) if found else writes.get(node, _NONE)
        for number in touched[node]:
            touching[number].append(node)
    return Memory(places, touched, writes, touching)


@known_facts.of_graph
def model_values(gm: fx.GraphModule) -> dict[fx.Node, Any]:
    """Return the modules and tensors of the model, and lists and dicts of them, that nodes read."""
    values: dict[fx.Node, Any] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            values[node] = getattr(gm.get_submodule(owner), name)
        elif node.target in (operator.getitem, getattr) and node.args[0] in values:
            parent, key = values[node.args[0]], node.args[1]
            if not isinstance(parent, Tensor) and not isinstance(key, fx.Node):
                values[node] = node.target(parent, key)  # an item of a list or dict of the model's
    return values


class _Numbers:
    """The numbers of a model's memory: those that the capture gave it, and new ones for what only modules read."""

    def __init__(self, values: Mapping[fx.Node, Any]) -> None:
        self._known: dict[int, int] = {}
        self._next = 0
        for node, value in values.items():
            if isinstance(value, Tensor) and "storage" in node.meta:
                self._known[value.untyped_storage()._cdata] = node.meta["storage"]

    def of(self, value: Any) -> frozenset[int]:
        """Return where a tensor, or each tensor of a module, lies."""
        if isinstance(value, Tensor):
            return frozenset((self._number(value.untyped_storage()._cdata),))
        return frozenset(self.of_module(value)) if isinstance(value, nn.Module) else _NONE

    def of_module(self, module: nn.Module) -> list[int]:
        """Return where the tensors of a module lie."""
        return list(map(self._number, _storages_of(module)))

    def changed_by(self, module: nn.Module) -> frozenset[int]:
        """Return where a module may write: a norm where it counts, any other that is not pure to all it has."""
        if is_pure_module(module):
            return _NONE
        is_plain_norm = isinstance(module, nn.modules.batchnorm._NormBase) and not is_hooked(module)
        return frozenset(map(self._number, _buffer_storages_of(module))) if is_plain_norm else self.of(module)

    def _number(self, key: int) -> int:
        number = self._known.get(key)
        if number is None:
            number = self._next = self._next - 1  # the capture counts up from 0
            self._known[key] = number
        return number


@known_facts.of_module
def _storages_of(module: nn.Module) -> list[int]:
    return [tensor.untyped_storage()._cdata for tensor in (*module.parameters(), *module.buffers())]


@known_facts.of_module
def _buffer_storages_of(module: nn.Module) -> list[int]:
    return [tensor.untyped_storage()._cdata for tensor in module.buffers()]


def _place(node: fx.Node, places: Mapping[fx.Node, frozenset[int]]) -> frozenset[int]:
    """Return where a value lies; one that a pass made, of which nothing is noted, may be a view of what it reads."""
    if "storage" in node.meta:
        return frozenset((node.meta["storage"],))
    if "made_by" not in node.meta:
        return _NONE
    return _NONE.union(*(places[value] for value in node.all_input_nodes))


def why_not_gathered(memory: Memory, nodes: Sequence[fx.Node]) -> str | None:
    """Return why a sum may not be computed all at once, at its root, or None where it may.

    Nothing else may read the memory that its additions write, and nothing may write what they have read.

    Args:
        memory: of the graph.
        nodes: the additions and multiplications of one sum, its root first.
    """
    root, inside = nodes[0], set(nodes)
    written = _NONE.union(*(memory.writes.get(node, _NONE) for node in nodes))
    read = {number: node for node in sorted(nodes, reverse=True) for number in _read_outside(memory, node, inside)}
    for number in sorted(written | read.keys()):
        for other in memory.touching.get(number, ()):
            if other in inside:
                continue
            is_writing = number in memory.writes.get(other, _NONE)
            if is_writing and number in written:
                return "something else writes the memory of the sum in place"
            if is_writing and read[number] < other < root:
                return "a term is written in place before the last one is added"
            is_read_before = other < root and number in written and number in memory.places[other]
            if is_read_before and (_outlives_run(other) or not set(other.users) <= inside):
                return "the sum is built in place, in memory that something else reads"
    return None


def _read_outside(memory: Memory, node: fx.Node, inside: set[fx.Node]) -> Iterator[int]:
    """Yield the memory that one of the nodes inside reads of the others."""
    for value in node.all_input_nodes:
        if value not in inside:
            yield from memory.places[value]


def _outlives_run(node: fx.Node) -> bool:
    """Return whether a node reads memory of the model's or the caller's, a list's item too."""
    is_item = node.target in (operator.getitem, getattr) and not any("type" in n.meta for n in node.all_input_nodes)
    return node.op in ("placeholder", "get_attr") or is_item
