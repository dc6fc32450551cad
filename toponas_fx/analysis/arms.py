"""Arms of choices: which nodes run only where a choice takes them.

In a graph all arms of a choice stand before the ``select`` that takes one of their values, as if all were computed, so
that passes see plain graphs. ``meta["arm"]`` of a node is the arm that it is of, ``LAZY`` where several arms read it
and it is computed by the first that does; without it, a node always runs. ``meta["candidates"]`` of a ``select`` has
the path of the module that each arm's candidate is.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import fx

from toponas_fx.analysis.module_paths import common_path, place_of
from toponas_fx.ir.targets import target_name
from toponas_fx.ops import choices

LAZY = "lazy"
"""The home of a value that arms of several choices read: computed once, by the first of them that runs."""

TAKING = (operator.getitem, "select", "unbind", "squeeze", "long", "view", "reshape")
"""Calls that take an element of a draw."""


def home(node: fx.Node) -> Any:
    """Return the arm that a node runs in, as the numbers of its choice and of the arm; ``LAZY``; or None."""
    return node.meta.get("arm")


def settle(node: fx.Node, place: Any) -> None:
    """Let a node run in an arm, lazily, or always."""
    if place is None:
        node.meta.pop("arm", None)
    else:
        node.meta["arm"] = place


def homes(nodes: Iterable[fx.Node]) -> set[Any]:
    """Return the places where some nodes run."""
    return set(map(home, nodes))


def home_of_new(inputs: Iterable[fx.Node], origins: Iterable[fx.Node]) -> Any:
    """Return where a new node runs: in the arm that it reads a value of, or else where what it stems from runs."""
    read = homes(inputs) - {None, LAZY}
    if read:
        return next(iter(read))
    found = homes(origins)
    return found.pop() if len(found) == 1 else None


def selects(graph: fx.Graph) -> list[fx.Node]:
    """Return the nodes that take one of several arms."""
    return [node for node in graph.nodes if node.target is choices.select]


def readers(node: fx.Node) -> Iterator[Any]:
    """Yield where a node is read; as a value of an arm, in that arm."""
    for user in node.users:
        if user.target is not choices.select:
            yield home(user)
            continue
        values: Any = user.args[2]
        yield from ((user.meta["site"], arm) for arm, value in enumerate(values) if value is node)
        if node in chosen_by(user):
            yield None


def chosen_by(select: fx.Node) -> list[fx.Node]:
    """Return the nodes that say which arm is taken."""
    choice: Any = select.args[0]
    return [choice] if isinstance(choice, fx.Node) else list(choice)


def values_of_inputs(graph: fx.Graph) -> tuple[frozenset[Any] | None, ...]:
    """Return which values each input may have that alone decides a choice; None for other inputs."""
    found: dict[fx.Node, frozenset[Any]] = {}
    for select in selects(graph):
        values: Any = select.args[1]
        if isinstance(select.args[0], fx.Node):
            found[select.args[0]] = frozenset(values)
    return tuple(found.get(node) for node in graph.nodes if node.op == "placeholder")


def may_fail(select: fx.Node) -> bool:
    """Return whether a choice may be none of its values.

    The recorded runs had each index that a draw may give; a program looks at integers that are inputs before it runs.
    """
    choice: Any = select.args[0]
    values: Any = select.args[1]
    if not isinstance(choice, fx.Node):
        return True
    if set(values) == {False, True} and all(type(value) is bool for value in values):
        return False
    taken: Any = None
    while choice.target in TAKING and isinstance(choice.args[0], fx.Node):
        taken, choice = choice, choice.args[0]
    name = target_name(choice.target)
    if name in ("max", "min"):  # whose indices come second, after values that may be any
        return taken is None or taken.target is not operator.getitem or taken.args[1] != 1
    return choice.op != "placeholder" and name not in (*choices.INDICES, choices.randbelow.__name__)


def candidate_paths(arms: Sequence[Sequence[fx.Node]]) -> tuple[str, ...]:
    """Return where the candidate of each arm of a choice is in the model; empty where that cannot be told."""
    places = [list(map(place_of, nodes)) for nodes in arms]
    around = common_path(path for own in places for path in own)
    return tuple(common_path(path for path in own if path != around) for own in places)


def chances(graph: fx.Graph) -> dict[fx.Node, float]:
    """Return how often nodes run in a step on average, where all arms of a choice are equally likely.

    Args:
        graph: the graph.

    Returns:
        A number from 0 to 1 for each node of an arm, and for each that is computed lazily; no other runs sometimes.
    """
    counts: dict[int, int] = {}
    for node in graph.nodes:
        if node.target is choices.select:
            counts[node.meta["site"]] = len(node.args[1])
        elif home(node) not in (None, LAZY):
            site, arm = home(node)
            counts[site] = max(counts.get(site, 0), arm + 1)
    found: dict[fx.Node, float] = {}
    arms: dict[fx.Node, frozenset[Any]] = {}
    for node in reversed(graph.nodes):
        if home(node) == LAZY:
            lazy = (user for user in node.users if home(user) == LAZY)
            arms[node] = frozenset(readers(node)).difference((LAZY, None)).union(*map(arms.__getitem__, lazy))
        elif home(node) is not None:
            arms[node] = frozenset((home(node),))
        if node in arms:
            taken = Counter(site for site, _ in arms[node])
            found[node] = 1 - math.prod(1 - number / counts[site] for site, number in taken.items())
    return found


def why_astray(graph: fx.Graph) -> tuple[fx.Node, str] | None:
    """Return the first node that is read where it may not have run, with a sentence; None where all are well."""
    for node in graph.nodes:
        place = home(node)
        if place is None:
            continue
        outside = [reader for reader in readers(node) if reader != place]
        if place == LAZY and None not in outside:
            continue
        if outside:
            return node, f"`{node.name}` runs in one arm of a choice, or lazily, and is read outside of it"
    return None
