"""Merge recorded runs that took one candidate everywhere each into one graph with a choice wherever they part.

Each run is cut where it is decided which way it goes. Between two such places all runs begin with what is the
candidate's own, and end with what is common: a common end, cut where the fewest values pass from the one to the other.
What is common is written once; the candidates' own parts are the arms of a ``select`` of each value that passes.

Whether a run that takes other candidates in other places is one of this graph, ``path_replay`` tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.ops import choices


class UnlikePathsError(Exception):
    """Runs are not the paths of one graph; the text says why, as the end of a sentence."""


@dataclass
class Site:
    """A place where a graph goes one of several ways.

    Attributes:
        choice: the node that Python reads.
        values: of the choice, one an arm.
        arms: the nodes of each arm.
        selects: the nodes that take the arms' values.
    """

    choice: fx.Node
    values: tuple[int | bool, ...]
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


def is_decision(node: fx.Node) -> bool:
    """Tell whether a node of a recorded run marks that it goes one of several ways."""
    return node.target is choices.decide


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


def merge_paths(graphs: Sequence[fx.Graph]) -> Merged:
    """Merge runs.

    Args:
        graphs: recorded runs with forced draws, each of which took one candidate everywhere; left as they are.

    Raises:
        UnlikePathsError: they cannot be merged.
    """
    values = [[node.args[1] for node in graph.nodes if is_decision(node)] for graph in graphs]
    if len({len(row) for row in values}) > 1:
        raise UnlikePathsError("how many choices are made depends on a choice")
    settled = frozenset(i for i, column in enumerate(zip(*values, strict=True)) if len(set(column)) == 1)
    if len(settled) == len(values[0]):
        raise UnlikePathsError("what parts them was not seen")
    return _Merger([_Run(graph, settled) for graph in graphs], settled).merge()


class _Run:
    """A recorded run: its sections, the section of each node, and the nodes of the merged graph that stand for its own.

    Attributes:
        decisions: the node before each section; None before the first.
        sections: the nodes of each.
        known: for its nodes, those of the merged graph.
    """

    def __init__(self, graph: fx.Graph, settled: frozenset[int]) -> None:
        self.decisions, self.sections = zip(*sections(graph, settled), strict=True)
        self.known: dict[fx.Node, fx.Node] = {}
        self._section = {node: number for number, nodes in enumerate(self.sections) for node in nodes}
        self._section |= {decision: number for number, decision in enumerate(self.decisions) if decision is not None}

    def outlives(self, node: fx.Node) -> bool:
        """Tell whether a later section reads a node."""
        own = self._section[node]
        return any(self._section[user] > own for user in node.users)


_Slot = tuple[fx.Node, ...]
"""A value of each run, in the order of the arms, that passes from the arms to what is common."""


class _Merger:
    def __init__(self, runs: list[_Run], settled: frozenset[int]) -> None:
        self.runs = runs
        self.merged = Merged(fx.Graph(), [], settled)
        self._places: dict[tuple[int, int], int] = {}
        self._parents: list[int] = []
        self._sites = 0

    def merge(self) -> Merged:
        for number in range(len(self.runs[0].sections)):
            decisions = [run.decisions[number] for run in self.runs]
            if number == 0:
                self._common([run.sections[0] for run in self.runs], self.runs, {})
            else:
                self._choose(number, decisions)
        for node in self.merged.graph.nodes:
            if "storage" in node.meta:
                node.meta["storage"] = self._root(node.meta["storage"])
            node.meta["mutates"] = tuple(map(self._root, node.meta.get("mutates", ())))
        self._check_writes()
        return self.merged

    # -- one section -------------------------------------------------------------------------------------------------

    def _choose(self, number: int, decisions: Sequence[Any]) -> None:
        groups: dict[Any, list[_Run]] = {}
        for run, decision in zip(self.runs, decisions, strict=True):
            groups.setdefault((type(decision.args[1]), decision.args[1]), []).append(run)
        read = {run.known.get(decision.args[0]) for run, decision in zip(self.runs, decisions, strict=True)}
        if len(read) > 1 or None in read:
            raise UnlikePathsError("which choice is made depends on a choice")
        (choice,) = read
        members = list(groups.values())
        firsts = [runs[0] for runs in members]
        rows = [run.sections[number] for run in firsts]
        end, slots = self._cut(firsts, rows)
        site = Site(choice, tuple(value for _, value in groups))  # type: ignore[arg-type]
        for arm, (runs, row) in enumerate(zip(members, rows, strict=True)):
            own = row[: len(row) - end]
            if any(len(run.sections[number]) != len(row) for run in runs):
                raise UnlikePathsError("what is computed for a candidate depends on another choice")
            site.arms.append([self._copy(node, [runs[0]], [node], {}) for node in own])
            for run in runs[1:]:
                run.known.update(zip(run.sections[number], (runs[0].known.get(node) for node in own)))  # noqa: B905
            for node in site.arms[-1]:
                node.meta["arm"] = (self._sites, arm)
        self.merged.parts.append(site)
        taken = {slot: self._select(site, firsts, slot) for slot in slots}
        self._sites += 1
        for slot, select in taken.items():
            for runs, row, value in zip(members, rows, slot, strict=True):
                if value in row[: len(row) - end]:
                    for run in runs:
                        run.known[run.sections[number][row.index(value)]] = select
        tails = [run.sections[number][len(run.sections[number]) - end :] for runs in members for run in runs]
        self._common(tails, [run for runs in members for run in runs], taken, [len(runs) for runs in members])

    def _common(
        self, rows: Sequence[list[fx.Node]], runs: Sequence[_Run], taken: dict[_Slot, fx.Node], sizes: Any = None
    ) -> None:
        """Write what all runs have in common once."""
        if len({len(row) for row in rows}) > 1:
            raise UnlikePathsError("what comes before the first choice differs from run to run")
        firsts = [0] if sizes is None else [sum(sizes[:i]) for i in range(len(sizes))]
        for nodes in zip(*rows, strict=True):
            if not all(_is_same_call(nodes[0], node) for node in nodes):
                raise UnlikePathsError("what comes before the first choice differs from run to run")
            merged = self._copy(nodes[0], runs, nodes, taken, firsts)
            self.merged.parts.append(merged)

    def _copy(
        self, node: fx.Node, runs: Sequence[_Run], nodes: Sequence[fx.Node], taken: dict[_Slot, fx.Node], firsts: Any = (0,)
    ) -> fx.Node:
        """Write a node that stands for one of each run."""
        slots = iter(zip(*(_inputs(nodes[first]) for first in firsts), strict=True))

        def value(inner: fx.Node) -> fx.Node:
            slot = next(slots)
            return taken[slot] if slot in taken else runs[0].known[inner]

        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), value)
        target: Any = node.target
        if is_decision(node):
            target = ops.guard
        new = self.merged.graph.create_node(node.op, target, args, kwargs, name=node.name)
        new.meta.update(node.meta)
        places = [self._place(run, own.meta["storage"]) for run, own in zip(runs, nodes, strict=True) if "storage" in own.meta]
        if places:
            new.meta["storage"] = self._join(places)
        written = zip(*(own.meta.get("mutates", ()) for own in nodes), strict=True)
        new.meta["mutates"] = tuple(
            self._join([self._place(run, number) for run, number in zip(runs, column, strict=True)]) for column in written
        )
        for run, own in zip(runs, nodes, strict=True):
            run.known[own] = new
        return new

    def _select(self, site: Site, firsts: Sequence[_Run], slot: _Slot) -> fx.Node:
        arms = tuple(run.known[value] for run, value in zip(firsts, slot, strict=True))
        node = self.merged.graph.call_function(choices.select, (site.choice, site.values, arms))
        first = slot[0].meta
        node.meta.update({key: first[key] for key in ("type", "grad", "scope", "where") if key in first})
        node.meta["origin"], node.meta["mutates"], node.meta["site"] = (node.name,), (), self._sites
        places = [arm.meta["storage"] for arm in arms if "storage" in arm.meta]
        if places:
            node.meta["storage"] = self._join(places)
        site.selects.append(node)
        return node

    # -- where arms end ----------------------------------------------------------------------------------------------

    def _cut(self, runs: Sequence[_Run], rows: Sequence[list[fx.Node]]) -> tuple[int, list[_Slot]]:
        """Return how many nodes at the end of some runs' sections are common, and what passes from the arms to them."""
        longest = 0
        for nodes in zip(*(reversed(row) for row in rows), strict=False):
            if not all(_is_same_call(nodes[0], node) for node in nodes):
                break
            longest += 1
        best: tuple[int, list[_Slot]] | None = None
        shortest = sum(rows[0][-1:] == [node] for node in rows[0] if node.op == "output")  # which all runs have
        for end in range(longest, shortest - 1, -1):
            slots = self._slots(runs, rows, end)
            if slots is not None and (best is None or len(slots) < len(best[1])):
                best = end, slots
        if best is None:
            raise UnlikePathsError("its candidates give values of unlike shape or number")
        return best

    def _slots(self, runs: Sequence[_Run], rows: Sequence[list[fx.Node]], end: int) -> list[_Slot] | None:
        """Return what passes to a common end of some length; None where that cannot be one."""
        tails = [{node: at for at, node in enumerate(row[len(row) - end :])} for row in rows]
        found: dict[_Slot, None] = {}
        for nodes in zip(*tails, strict=True):
            for slot in zip(*map(_inputs, nodes), strict=True):
                places = {tail.get(value, -1) for tail, value in zip(tails, slot, strict=True)}
                if len(places) > 1:
                    return None
                known = {run.known.get(value) for run, value in zip(runs, slot, strict=True)}
                if places == {-1} and (len(known) > 1 or None in known):
                    found[slot] = None
        passed = [{slot[i] for slot in found} for i in range(len(runs))]
        later = [
            [node for node in row[: len(row) - end] if run.outlives(node) and node not in own]
            for run, row, own in zip(runs, rows, passed, strict=True)
        ]
        if len({len(nodes) for nodes in later}) > 1:
            return None
        found.update(dict.fromkeys(zip(*later, strict=True)))
        slots = list(found)
        return slots if all(_is_same_type(slot) for slot in slots) else None

    # -- memory ------------------------------------------------------------------------------------------------------

    def _place(self, run: _Run, storage: int) -> int:
        """Return the number, in the merged graph, of memory of a run."""
        key = self.runs.index(run), storage
        if key not in self._places:
            self._places[key] = len(self._parents)
            self._parents.append(len(self._parents))
        return self._places[key]

    def _root(self, place: int) -> int:
        while self._parents[place] != place:
            place = self._parents[place]
        return place

    def _join(self, places: Sequence[int]) -> int:
        roots = [self._root(place) for place in places]
        for root in roots:
            self._parents[root] = min(roots)
        return min(roots)

    def _check_writes(self) -> None:
        """An arm writes to nothing but what it made."""
        made: dict[int, Any] = {}
        for node in self.merged.graph.nodes:
            arm, place = node.meta.get("arm"), node.meta.get("storage")
            if place is not None and node.target is not choices.select:
                made.setdefault(place, arm)
            if any(made.get(written) != arm for written in node.meta["mutates"] if arm is not None):
                raise UnlikePathsError("a candidate writes to what another reads")


def _inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that a node reads, one for each place where it reads one."""
    found: list[fx.Node] = []
    fx.node.map_arg((node.args, dict(node.kwargs)), lambda inner: found.append(inner) or inner)
    return found


def _is_same_type(slot: _Slot) -> bool:
    kinds = [value.meta.get("type") for value in slot]
    return kinds[0] is not None and all(kind == kinds[0] for kind in kinds)


def _is_same_call(node: fx.Node, other: fx.Node) -> bool:
    """Tell whether two nodes are the same but for the nodes that they read."""
    return is_same_but_inputs(node, other) and node.meta.get("type") == other.meta.get("type")


def is_same_but_inputs(node: fx.Node, other: fx.Node) -> bool:
    """Tell whether nodes of two runs are the same but for the nodes that they read, and for sizes of tensors."""
    if (node.op, node.meta.get("grad"), len(node.meta.get("mutates", ()))) != (
        other.op,
        other.meta.get("grad"),
        len(other.meta.get("mutates", ())),
    ):
        return False
    if node.target is not other.target and node.target != other.target:
        return False
    return repr(_blank(node)) == repr(_blank(other))


def _blank(node: fx.Node) -> Any:
    return fx.node.map_arg((node.args, dict(node.kwargs)), lambda inner: _ANY)


_ANY: Any = type("Any", (), {"__repr__": lambda self: "%"})()
