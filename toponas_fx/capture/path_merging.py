"""Merge recorded runs that took one candidate everywhere each into one graph with a choice wherever they part.

Each run is cut where it is decided which way it goes. Between two such places all runs begin with what is the
candidate's own, and end with what is common: a common end, cut where the fewest values pass from the one to the other.
What is common is written once; the candidates' own parts are the arms of a ``select`` of each value that passes. Where
one decision is not enough (``if hard[0] > 0``, ``if hard[1] > 0``, ...), it is taken together with those that follow.

Whether a run that takes other candidates in other places is one of this graph, ``path_replay`` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.arms import candidate_paths
from toponas_fx.capture.path_sections import (
    Merged,
    Run,
    Site,
    UnlikePathsError,
    inputs_of,
    is_decision,
    is_same_call,
    is_same_type,
)
from toponas_fx.ops import choices

MOST_TOGETHER = 16
"""Decisions that are taken together at most."""
_READING = frozenset(
    "getitem select unbind squeeze item __bool__ abs "
    "eq ne lt le gt ge __eq__ __ne__ __gt__ __ge__ __lt__ __le__".split()
)
"""Names of calls that give what is read of a draw; they may be made before they are in the recorded run."""


def merge_paths(graphs: Sequence[fx.Graph]) -> Merged:
    """Merge runs.

    Args:
        graphs: recorded runs with forced draws, each of one candidate everywhere; left as they are. One has no choice.

    Raises:
        UnlikePathsError: they cannot be merged.
    """
    values = [[(type(node.args[1]), node.args[1]) for node in graph.nodes if is_decision(node)] for graph in graphs]
    if len({len(row) for row in values}) > 1:
        raise UnlikePathsError("how many choices are made depends on a choice")
    settled = frozenset(i for i, column in enumerate(zip(*values, strict=True)) if len(set(column)) == 1)
    if len(graphs) > 1 and len(settled) == len(values[0]):
        raise UnlikePathsError("what parts them was not seen")
    return _Merger([Run(graph, settled) for graph in graphs], settled).merge()


_Slot = tuple[fx.Node, ...]
"""A value of each run, in the order of the arms, that passes from the arms to what is common."""


class _Merger:
    def __init__(self, runs: list[Run], settled: frozenset[int]) -> None:
        self.runs = runs
        self.merged = Merged(fx.Graph(), [], settled)
        self._memory = _Memory(runs)
        self._sites = 0

    def merge(self) -> Merged:
        self._common([run.sections[0] for run in self.runs], [[run] for run in self.runs], {})
        number, count = 1, len(self.runs[0].sections)
        while number < count:
            number = self._choose(number, count) + 1
        self._memory.settle(self.merged.graph)
        return self.merged

    # -- one choice ----------------------------------------------------------------------------------------------------

    def _choose(self, first: int, count: int) -> int:
        """Write a choice with what is common after it; return its last section."""
        reason: UnlikePathsError | None = None
        for last in range(first, min(first + MOST_TOGETHER, count)):
            members = self._members(first, last)
            rows = [runs[0].joined(first, last) for runs in members]
            try:
                chosen = tuple(map(self._hoisted, self._reads(first, last)))
                end, slots = self._cut([runs[0] for runs in members], rows, last)
            except UnlikePathsError as error:
                reason = reason or error
                continue
            site = Site(chosen, [runs[0].read(first, last) for runs in members])
            self._write(site, members, rows, first, last, end, slots)
            return last
        assert reason is not None
        raise reason

    def _members(self, first: int, last: int) -> list[list[Run]]:
        """Return the runs that went each way."""
        groups: dict[Any, list[Run]] = {}
        for run in self.runs:
            groups.setdefault(tuple((type(value), value) for value in run.read(first, last)), []).append(run)
        return list(groups.values())

    def _reads(self, first: int, last: int) -> list[list[Any]]:
        """Return what each of some decisions reads in each run."""
        decisions: list[list[Any]] = [[run.decisions[number] for run in self.runs] for number in range(first, last + 1)]
        return [[decision.args[0] for decision in row] for row in decisions]

    def _hoisted(self, reads: Sequence[fx.Node]) -> fx.Node:
        """Return the node that gives what is read of each run; one that only reads is written before the choice."""
        known = {run.known.get(read) for run, read in zip(self.runs, reads, strict=True)}
        if len(known) == 1 and None not in known:
            return known.pop()  # type: ignore[return-value]
        name = getattr(reads[0].target, "__name__", reads[0].target)
        if name not in _READING or not all(is_same_call(reads[0], read) for read in reads):
            raise UnlikePathsError("which choice is made depends on a choice")
        inputs = iter([self._hoisted(slot) for slot in zip(*map(inputs_of, reads), strict=True)])
        args, kwargs = fx.node.map_arg((reads[0].args, dict(reads[0].kwargs)), lambda _: next(inputs))
        node = self.merged.graph.create_node(reads[0].op, reads[0].target, args, kwargs)
        node.meta.update(reads[0].meta)
        node.meta.pop("storage", None)
        return node

    def _write(
        self,
        site: Site,
        members: list[list[Run]],
        rows: list[list[fx.Node]],
        first: int,
        last: int,
        end: int,
        slots: list[_Slot],
    ) -> None:
        for arm, (runs, row) in enumerate(zip(members, rows, strict=True)):
            own = row[: len(row) - end]
            if any(len(run.joined(first, last)) != len(row) for run in runs):
                raise UnlikePathsError("what is computed for a candidate depends on another choice")
            site.arms.append([self._copy([node], runs[:1], {}) for node in own])
            for node in site.arms[-1]:
                node.meta["arm"] = (self._sites, arm)
            for run in runs[1:]:
                others = run.joined(first, last)[: len(own)]
                run.known.update((other, runs[0].known[node]) for node, other in zip(own, others, strict=True))
        self.merged.parts.append(site)
        firsts = [runs[0] for runs in members]
        taken = {slot: self._select(site, firsts, slot) for slot in slots}
        if not slots:  # nothing is read of the candidates, and they run
            self._select(site, firsts, ())
        self._sites += 1
        for slot, select in taken.items():
            for runs, row, value in zip(members, rows, slot, strict=True):
                if value in row[: len(row) - end]:
                    for run in runs:
                        run.known[run.joined(first, last)[row.index(value)]] = select
        tails = [row[len(row) - end :] for row in (run.joined(first, last) for runs in members for run in runs)]
        self._common(tails, members, taken)

    def _common(self, rows: Sequence[list[fx.Node]], members: list[list[Run]], taken: dict[_Slot, fx.Node]) -> None:
        """Write what all runs have in common once."""
        runs = [run for together in members for run in together]
        firsts = [runs.index(together[0]) for together in members]
        is_common = len({len(row) for row in rows}) == 1
        for nodes in zip(*rows, strict=False):
            if not is_common or not all(is_same_call(nodes[0], node) for node in nodes):
                raise UnlikePathsError("what comes before the first choice differs from run to run")
            self.merged.parts.append(self._copy(nodes, runs, taken, firsts))

    def _copy(
        self, nodes: Sequence[fx.Node], runs: Sequence[Run], taken: dict[_Slot, fx.Node], firsts: Sequence[int] = (0,)
    ) -> fx.Node:
        """Write a node that stands for one of each run."""
        slots = iter(zip(*(inputs_of(nodes[first]) for first in firsts), strict=True))

        def value(inner: fx.Node) -> fx.Node:
            slot = next(slots)
            return taken[slot] if slot in taken else runs[0].known[inner]

        node = nodes[0]
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), value)
        target: Any = ops.guard if is_decision(node) else node.target
        new = self.merged.graph.create_node(node.op, target, args, kwargs, name=node.name)
        new.meta.update({**node.meta, "origin": (new.name,), "decides": is_decision(node)})  # runs name alike
        self._memory.note(new, runs, nodes)
        for run, own in zip(runs, nodes, strict=True):
            run.known[own] = new
        return new

    def _select(self, site: Site, firsts: Sequence[Run], slot: _Slot) -> fx.Node:
        arms = tuple(run.known[value] for run, value in zip(firsts, slot, strict=False)) or (None,) * len(firsts)
        choice: Any = site.choices[0] if len(site.choices) == 1 else site.choices
        values = tuple(value[0] if len(value) == 1 else value for value in site.values)
        node = self.merged.graph.call_function(choices.select, (choice, values, arms))
        first, own = (slot[0].meta, ("type",)) if slot else (site.choices[0].meta, ())
        node.meta.update({key: first[key] for key in (*own, "grad", "scope", "where") if key in first})
        node.meta["origin"], node.meta["mutates"], node.meta["site"] = (node.name,), (), self._sites
        node.meta["candidates"] = candidate_paths(site.arms)
        self._memory.join(node, [arm for arm in arms if arm is not None])
        site.selects.append(node)
        return node

    # -- where arms end ------------------------------------------------------------------------------------------------

    def _cut(self, runs: Sequence[Run], rows: Sequence[list[fx.Node]], last: int) -> tuple[int, list[_Slot]]:
        """Return how many nodes at the end of some runs' sections are common, and what passes from the arms to them."""
        longest = 0
        for nodes in zip(*(reversed(row) for row in rows), strict=False):
            if not all(is_same_call(nodes[0], node) for node in nodes):
                break
            longest += 1
        best: tuple[int, list[_Slot]] | None = None
        shortest = int(any(node.op == "output" for node in rows[0][-1:]))  # which all runs have
        for end in range(longest, shortest - 1, -1):
            slots = _slots(runs, rows, end, last)
            if slots is not None and (best is None or len(slots) < len(best[1])):
                best = end, slots
        if best is None:
            raise UnlikePathsError("its candidates give values of unlike shape or number")
        return best


def _slots(runs: Sequence[Run], rows: Sequence[list[fx.Node]], end: int, last: int) -> list[_Slot] | None:
    """Return what passes to a common end of some length; None where that cannot be one."""
    tails = [{node: at for at, node in enumerate(row[len(row) - end :])} for row in rows]
    found: dict[_Slot, None] = {}
    for nodes in zip(*tails, strict=True):
        for slot in zip(*map(inputs_of, nodes), strict=True):
            places = {tail.get(value, -1) for tail, value in zip(tails, slot, strict=True)}
            if len(places) > 1:
                return None
            known = {run.known.get(value) for run, value in zip(runs, slot, strict=True)}
            if places == {-1} and (len(known) > 1 or None in known):
                found[slot] = None
    passed = [{slot[i] for slot in found} for i in range(len(runs))]
    later = [
        [node for node in row[: len(row) - end] if run.outlives(node, last) and node not in own]
        for run, row, own in zip(runs, rows, passed, strict=True)
    ]
    if len({len(nodes) for nodes in later}) > 1:
        return None
    found.update(dict.fromkeys(zip(*later, strict=True)))
    return list(found) if all(map(is_same_type, found)) else None


class _Memory:
    """Which memory of which run is the same memory of the merged graph."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._places: dict[tuple[int, int], int] = {}
        self._parents: list[int] = []

    def note(self, new: fx.Node, runs: Sequence[Run], nodes: Sequence[fx.Node]) -> None:
        """Give a node of the merged graph the numbers of what it stands for."""
        pairs = list(zip(runs, nodes, strict=True))
        if "storage" in new.meta:
            new.meta["storage"] = self._join([self._place(run, own.meta["storage"]) for run, own in pairs])
        written = [[self._place(run, number) for number in own.meta.get("mutates", ())] for run, own in pairs]
        new.meta["mutates"] = tuple(map(self._join, zip(*written, strict=True)))

    def join(self, node: fx.Node, others: Sequence[fx.Node]) -> None:
        """Let a node lie where any of others does."""
        places = [other.meta["storage"] for other in others if "storage" in other.meta]
        if places:
            node.meta["storage"] = self._join(places)

    def settle(self, graph: fx.Graph) -> None:
        """Number the memory of a graph once all is known.

        Raises:
            UnlikePathsError: an arm writes to what it did not make.
        """
        made: dict[int, Any] = {}
        for node in graph.nodes:
            node.meta["mutates"] = tuple(map(self._root, node.meta.get("mutates", ())))
            arm = node.meta.get("arm")
            if "storage" in node.meta:
                node.meta["storage"] = self._root(node.meta["storage"])
                if node.target is not choices.select:
                    made.setdefault(node.meta["storage"], arm)
            if arm is not None and any(made.get(written) != arm for written in node.meta["mutates"]):
                raise UnlikePathsError("a candidate writes to what another reads")

    def _place(self, run: Run, storage: int) -> int:
        key = self._runs.index(run), storage
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
