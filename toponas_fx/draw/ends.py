"""Between which values an edge is drawn: those that a reader thinks of, where the code puts others in between.

A part of a value's channels is drawn as the value. A sum that another edge only weights, as PC-DARTS
weights the sums of partial channels, is drawn as that edge. What a step takes of several candidates is drawn as the sum
that it goes into.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from toponas_fx.draw.drawing import Key

_PARTS = ("getitem", "narrow", "select", "chunk", "split")


@dataclass(frozen=True)
class Ends:
    """Where the edges that are drawn begin and end.

    Attributes:
        ends: of each edge that is drawn, the names of two values.
        around: of an edge that is drawn, the one that weights it as a whole.
    """

    ends: dict[Key, tuple[str, str]]
    around: dict[Key, Key]


def drawn_ends(
    topology: nx.MultiDiGraph, sources: Mapping[Key, str], bare: Collection[Key], reads: Mapping[Key, str]
) -> Ends:
    """Return between which values edges are drawn.

    Args:
        topology: as the user wrote the model.
        sources: the value that each edge reads.
        bare: edges of one candidate that calls no module: they only weight what they read.
        reads: the value that each edge reads now: parts of one value that were cut several times are one by then.
    """
    sums = {key[0] for key in sources}
    outer: dict[str, Key] = {}
    for key, source in sources.items():
        inner = _only_sum(topology, source, key, sums)
        if key in bare and inner is not None and list(sources.values()).count(source) == 1:
            outer[inner] = key
    first: dict[str, str] = {}
    for key, read in reads.items():
        if _is_part(topology, sources[key]):
            first.setdefault(read, sources[key])
    ends: dict[Key, tuple[str, str]] = {}
    around: dict[Key, Key] = {}
    hidden = set(outer.values())
    for key, source in sources.items():
        if key in hidden:
            continue
        target = key[0]
        while target in outer:
            around[key] = outer[target]
            target = outer[target][0]
        target = topology.nodes[target].get("sum", target)
        start = first.get(reads.get(key, ""), source) if _is_part(topology, source) else source
        ends[key] = _whole(topology, start), target
    return Ends(ends, around)


def _only_sum(topology: nx.MultiDiGraph, source: str, key: Key, sums: set[str]) -> str | None:
    """Return the sum that is read by nothing but an edge, directly or as a part of the value that the edge reads."""
    if source in sums:
        return source if set(topology.successors(source)) == {key[0]} else None
    if set(topology.successors(source)) != {key[0]}:
        return None
    found = [name for name in topology.predecessors(source) if name in sums]
    own = [name for name in found if set(topology.successors(name)) == {source}]
    return own[0] if len(own) == 1 else None


def _is_part(topology: nx.MultiDiGraph, name: str) -> bool:
    return topology.nodes[name]["op"] in _PARTS


def _whole(topology: nx.MultiDiGraph, name: str) -> str:
    """Return the value that a value is a part of, where that is known."""
    while _is_part(topology, name):
        above = set(topology.predecessors(name))
        if len(above) != 1:
            return name
        name = above.pop()
    return name
