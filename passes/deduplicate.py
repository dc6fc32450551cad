"""Compute equal pure values once, across candidates and edges.

Before::

    %0 = input x
    %1 = ReLU[a](%0)
    %2 = ReLU[b](%0)
    %3 = cat([%1, %2])
    return %3

After::

    %0 = input x
    %1 = ReLU[a](%0)
    %2 = cat([%1, %1])
    return %2

Two nodes are equal where they call the same function with equal arguments, or modules of equal configuration without
parameters (or one and the same module). ReLU, pooling and reads of one row of weights are what supernets repeat most.

Refuses:

1. random, in-place or differently-stated modules: they are not equal, or not pure;
2. values whose memory, or whose inputs' memory, is written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.memory import written_in_place
from toponas_fx.pass_contract import Pass, Plan, Refusal, Semantics
from toponas_fx.purity import is_pure
from toponas_fx.rewriter import Rewriter
from toponas_fx.signatures import signature


@dataclass(frozen=True)
class EqualNodes:
    """Nodes that compute one value; the first stays."""

    nodes: Sequence[fx.Node]

    def describe(self) -> str:
        """Say how often the value was computed."""
        return f"computed once instead of {len(self.nodes)} times"


@dataclass(frozen=True)
class Deduplicate(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "deduplicate"
    semantics: ClassVar[Semantics] = Semantics.EXACT

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Number the values of the graph; nodes with one number are equal."""
        written = written_in_place(gm.graph)
        first: dict[Any, fx.Node] = {}
        stands_for: dict[fx.Node, fx.Node] = {}
        groups: dict[fx.Node, list[fx.Node]] = {}
        refusals: list[Refusal] = []
        for node in gm.graph.nodes:
            key = _key(gm, node, stands_for)
            if key is None:
                continue
            twin = first.setdefault(key, node)
            if twin is node:
                continue
            if not (is_pure(gm, node) and is_pure(gm, twin)):
                if "type" in node.meta:
                    refusals.append(Refusal((node, twin), "it draws at random, writes in place or has effects"))
                continue
            if _touches(node, written) or _touches(twin, written):
                refusals.append(Refusal((node, twin), "its memory, or what it reads, is written in place"))
                continue
            stands_for[node] = twin
            groups.setdefault(twin, [twin]).append(node)
        return Plan(tuple(EqualNodes(tuple(nodes)) for nodes in groups.values()), tuple(refusals))

    def apply(self, match: EqualNodes, rewriter: Rewriter) -> None:
        """Let all readers read the first node."""
        first, *rest = match.nodes
        for node in rest:
            rewriter.replace(node, first)


def _key(gm: fx.GraphModule, node: fx.Node, stands_for: dict[fx.Node, fx.Node]) -> Any:
    """Return what equal nodes have in common, or None for a node that computes nothing."""
    if node.op in ("placeholder", "output"):
        return None
    target: Any = node.target
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        owns = next(module.parameters(), None) is not None or next(module.buffers(), None) is not None
        target = id(module) if owns else signature(module)

    def stand_in(value: fx.Node) -> fx.Node:
        return stands_for.get(value, value)

    arguments = fx.node.map_arg((node.args, dict(node.kwargs)), stand_in)
    return node.op, target, _comparable(arguments), node.meta.get("grad", True)


def _comparable(value: Any) -> Any:
    """Turn arguments into something hashable in which 1, 1.0 and True differ."""
    if isinstance(value, dict):
        return tuple((key, _comparable(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return type(value).__name__, tuple(_comparable(item) for item in value)
    if isinstance(value, slice):
        return "slice", _comparable((value.start, value.stop, value.step))
    return type(value), repr(value) if isinstance(value, float) else value


def _touches(node: fx.Node, written: set[int]) -> bool:
    return any(part.meta.get("storage") in written for part in (node, *node.all_input_nodes))


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)])

    return Example(), torch.ones(1, 2)
