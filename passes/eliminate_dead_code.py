"""Remove pure nodes that nobody reads.

Before::

    %0 = input x
    %1 = relu(%0)
    %2 = tanh(%0)
    return %2

After::

    %0 = input x
    %1 = tanh(%0)
    return %1

Refuses:

1. nodes with effects: guards, in-place writes, random draws, norms that update running statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.effects import is_pure
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Unread:
    """Nodes that serve nothing."""

    nodes: Sequence[fx.Node]

    def describe(self) -> str:
        """Say how many."""
        return f"{len(self.nodes)} unread node{'s' if len(self.nodes) > 1 else ''} removed"


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "eliminate-dead-code"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.FINISH

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find them from the end: what only dead nodes read is dead."""
        dead: dict[fx.Node, None] = {}
        refusals: list[Refusal] = []
        for node in reversed(gm.graph.nodes):
            if node.op in ("placeholder", "output") or not all(user in dead for user in node.users):
                continue
            if is_pure(gm, node):
                dead[node] = None
            elif "type" in node.meta and not node.meta.get("mutates"):
                refusals.append(Refusal((node,), f"`{node.target}` is unread but has effects"))
        return Plan((Unread(tuple(dead)),) if dead else (), tuple(refusals))

    def apply(self, match: Unread, rewriter: Rewriter) -> None:
        """Remove them."""
        rewriter.erase_unread(match.nodes)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.relu(x)
            return torch.tanh(x)

    return Example(), torch.ones(1, 2)
