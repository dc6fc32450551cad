"""Whether a recorded run is a path of a merged graph: its nodes are the graph's, in order, for what it decides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from torch import fx

from toponas_fx import ops
from toponas_fx.capture.path_sections import (
    Merged,
    Site,
    UnlikePathsError,
    inputs_of,
    is_decision,
    is_same_but_sizes,
    is_same_call,
)
from toponas_fx.ops import choices

_REASON = "what is computed for a candidate depends on other choices"
_READ_AHEAD = (
    "choices are read before what they decide runs, and which decides what is not seen: "
    "take each candidate out of its nn.ModuleList by the index, or use the index where the candidate runs"
)


class _OtherCallError(Exception):
    """A run calls what the graph does not."""


def replay(merged: Merged, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Follow a recorded run through a merged graph.

    Args:
        merged: the graph.
        graph: of the run.

    Returns:
        For each node of the merged graph that the run goes through, the run's own.

    Raises:
        UnlikePathsError: the run leaves the graph.
    """
    try:
        return _followed(merged, graph)
    except _OtherCallError:
        raise UnlikePathsError(_READ_AHEAD if _reads_ahead(merged) else _REASON) from None


def _reads_ahead(merged: Merged) -> bool:
    """Return whether a choice is read where nothing follows from it, and nowhere else."""
    sites = [part for part in merged.parts if isinstance(part, Site)]
    deciding = {choice for site in sites if any(site.arms) for choice in site.choices}
    return any(not deciding.issuperset(site.choices) for site in sites)


def _followed(merged: Merged, graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    decided = [node.args[1] for node in graph.nodes if is_decision(node)]
    values = iter([value for number, value in enumerate(decided) if number not in merged.settled])
    own = iter(graph.nodes)
    found: dict[fx.Node, fx.Node] = {}
    taken: dict[fx.Node, fx.Node] = {}
    for part in merged.parts:
        if isinstance(part, Site):
            arm = _arm(part, next(own, None), values, found)
            for node in part.arms[arm]:
                _follow(node, next(own, None), found, taken)
            taken.update((select, select.args[2][arm]) for select in part.selects)  # type: ignore[index,misc]
        else:
            _follow(part, next(own, None), found, taken)
    if next(own, None) is not None:
        raise _OtherCallError
    return found


def is_same_run(graph: fx.Graph, other: fx.Graph) -> bool:
    """Return whether two recorded runs compute the same, whatever they saw of choices."""
    found: dict[fx.Node, fx.Node] = {}
    for node, own in zip_longest(_computing(graph), _computing(other)):
        if node is None or own is None or not is_same_call(node, own):
            return False
        if [found.get(value) for value in inputs_of(node)] != inputs_of(own):
            return False
        found[node] = own
    return True


def _computing(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes but for decisions and the integers that these alone read."""
    nodes = [node for node in graph.nodes if not is_decision(node)]
    return [node for node in nodes if node.op != "placeholder" or not all(map(is_decision, node.users))]


def _arm(site: Site, decision: fx.Node | None, values: Iterator[Any], found: dict[fx.Node, fx.Node]) -> int:
    """Return the arm that a run takes; the decisions inside of it are nodes of the arm."""
    if decision is None or not is_decision(decision) or found.get(site.choices[0]) is not decision.args[0]:
        raise UnlikePathsError(_REASON)
    read = [(type(value), value) for value in (next(values, None) for _ in site.choices)]
    for arm, known in enumerate(site.values):
        if [(type(value), value) for value in known] == read:
            return arm
    raise UnlikePathsError("a choice is another number than in the runs that took one candidate everywhere")


def _follow(node: fx.Node, own: fx.Node | None, found: dict[fx.Node, fx.Node], taken: dict[fx.Node, fx.Node]) -> None:
    """Note that a node of the graph is one of the run's, if it is."""

    def resolved(value: fx.Node) -> fx.Node:
        while value.target is choices.select:
            value = taken[value]
        return value

    if own is None or not (_is_guard(node, own) or is_same_but_sizes(node, own)):
        raise _OtherCallError
    for value, read in zip(inputs_of(node), inputs_of(own), strict=True):
        if found.get(resolved(value)) is not read:
            raise UnlikePathsError(_REASON)
    found[node] = own


def _is_guard(node: fx.Node, own: fx.Node) -> bool:
    """Return whether a run decides what a graph holds it to."""
    return node.target is ops.guard and is_decision(own) and repr(node.args[1:]) == repr(own.args[1:])
