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
A ``BatchNorm(affine=False)`` in training is equal to another with equal statistics on the same input; the modules stay
apart, but what one counted is written to the other's statistics, so that the user's own forward finds them right.

Refuses:

1. random, in-place or differently-stated modules: they are not equal, or not pure; norms in eval mode, whose
   statistics a checkpoint may set apart, and those without a momentum, whose count of batches matters;
2. values whose memory, or that of what they read, is written in place or counted in;
3. two that are both returned, or left in attributes: they are two objects there;
4. two in arms of choices, unless they are images, which the first arm that is taken computes, and norms there, which
   count only where they are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis import arms
from toponas_fx.analysis.effects import is_counting_norm, is_pure
from toponas_fx.analysis.image_layouts import exits
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.value_numbers import value_key
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class EqualNodes:
    """Nodes that compute one value; the first stays."""

    nodes: Sequence[fx.Node]
    kind: str

    def describe(self) -> str:
        """Say what was computed how often."""
        return f"{self.kind} computed once instead of {len(self.nodes)} times"


@dataclass(frozen=True)
class Deduplicate(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "deduplicate"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.SHARE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Number the values of the graph; nodes with one number are equal."""
        memory, leaving = Memory.of(gm), _leaving(gm.graph)
        first: dict[Any, fx.Node] = {}
        stands_for: dict[fx.Node, fx.Node] = {}
        groups: dict[fx.Node, list[fx.Node]] = {}
        refusals: list[Refusal] = []
        for node in gm.graph.nodes:
            key = value_key(gm, node, stands_for)
            if key is None:
                continue
            twin = first.setdefault(key, node)
            if twin is node:
                continue
            if not (is_pure(gm, node) and is_pure(gm, twin)) and not _count_alike(gm, node, twin):
                if "type" in node.meta:
                    refusals.append(Refusal((node, twin), _why_not_pure(gm, node)))
                continue
            if not _may_meet(node, twin) or (arms.home(node) != arms.home(twin) and not is_pure(gm, node)):
                refusals.append(Refusal((node, twin), "a choice may take one without the other"))
                continue
            if _memory(node) in leaving and _memory(twin) in leaving:
                refusals.append(Refusal((node, twin), "both are returned, and whoever gets them may write to one"))
                continue
            if not (memory.is_steady(node) and memory.is_steady(twin)):
                refusals.append(Refusal((node, twin), "its memory, or what it reads, is written in place"))
                continue
            stands_for[node] = twin
            groups.setdefault(twin, [twin]).append(node)
        return Plan(tuple(EqualNodes(tuple(nodes), _kind(gm, nodes[0])) for nodes in groups.values()), tuple(refusals))

    def apply(self, match: EqualNodes, rewriter: Rewriter) -> None:
        """Let all readers read the first node."""
        first, *rest = match.nodes
        homes = arms.homes(match.nodes)
        if len(homes) > 1:
            arms.settle(first, None if None in homes else arms.LAZY)
        if _is_counting_norm(rewriter.gm, first):
            with rewriter.after(first, *match.nodes):
                kept, *twins = [rewriter.read(str(node.target)) for node in match.nodes]
                rewriter.call_function(ops.copy_statistics, (first, kept, twins))
        for node in rest:
            rewriter.replace(node, first)


def _may_meet(node: fx.Node, twin: fx.Node) -> bool:
    """Return whether two nodes are one where arms of choices are: an image is worth being kept for several of them."""
    homes = arms.homes((node, twin))
    if len(homes) == 1 or None in homes:
        return True
    kind = node.meta.get("type")
    return kind is not None and len(kind.shape) > 2


def _leaving(graph: fx.Graph) -> set[Any]:
    """Return the memory that a graph returns, in containers too."""
    return {_memory(value) for reader in exits(graph) for value in reader.all_input_nodes} - {None}


def _memory(node: fx.Node) -> Any:
    return node.meta.get("storage")


def _kind(gm: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(gm.get_submodule(str(node.target))).__name__
    return str(node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target))


def _is_counting_norm(gm: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "call_module" and is_counting_norm(gm.get_submodule(str(node.target)))


def _count_alike(gm: fx.GraphModule, node: fx.Node, twin: fx.Node) -> bool:
    """Return whether two nodes call different norms that count the same from equal statistics."""
    if node.target == twin.target or not (_is_counting_norm(gm, node) and _is_counting_norm(gm, twin)):
        return False
    modules = [gm.get_submodule(str(call.target)) for call in (node, twin)]
    if modules[0] is modules[1] or modules[0].momentum is None:
        return False
    return all(torch.equal(getattr(modules[0], name), getattr(modules[1], name)) for name in _STATISTICS)


def _why_not_pure(gm: fx.GraphModule, node: fx.Node) -> str:
    if _is_counting_norm(gm, node):
        counts = gm.get_submodule(str(node.target)).momentum is None
        return "their statistics are means over all batches" if counts else "their running statistics differ"
    return "it draws at random, writes in place or has effects"


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)])

    return Example(), torch.ones(1, 2)
