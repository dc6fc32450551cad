"""Share alike modules that read one value in several candidates of a mixed operation.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = Conv2d[ops.0.0](%0)
    %6 = ReLU[ops.0.1](%5)
    %7 = Conv2d[ops.1.0](%0)
    %8 = Tanh[ops.1.1](%7)
    %9 = mixed_sum([%6, %8], [%3, %4], (0, 0))
    return %9

After::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = Conv2d[ops.0.0](%0)
    %6 = ReLU[ops.0.1](%5)
    %7 = Tanh[ops.1.1](%5)
    %8 = mixed_sum([%6, %7], [%3, %4], (0, 0))
    return %8

The modules are tied, so that what they compute is one value (TopoNAS, arXiv 2408.01311, partial module sharing, at the
candidates' starts). No weight is involved: at any weights this is the user's forward on the tied tree.

Refuses:

1. a module that runs in several places, draws at random, writes in place or has hooks;
2. a module whose result is written in place, or what it reads between the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.drawn_edges import mixing_ops
from toponas_fx.analysis.mixed_ops import MixedOp, candidate_nodes
from toponas_fx.analysis.module_calls import ModuleCalls
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class AlikeStarts:
    """Calls of alike modules on one value; the first one's module stays."""

    calls: tuple[fx.Node, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The calls."""
        return self.calls

    def describe(self) -> str:
        """Say which modules are shared."""
        paths = ", ".join(f"`{call.target}`" for call in self.calls[1:])
        return f"`{self.calls[0].target}` takes the place of {paths} on the same input"


@dataclass(frozen=True)
class SharePrefixes(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "share-prefixes"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    stage: ClassVar[Stage] = Stage.SHARE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find, in each mixed operation, alike modules with parameters or buffers on one value."""
        matches: list[AlikeStarts] = []
        refusals: list[Refusal] = []
        calls = ModuleCalls.of(gm)
        for mixed in mixing_ops(gm.graph):
            for group in _alike_starts(calls, mixed):
                reasons = {call: _why_not(calls, call, group[0]) for call in group}
                refusals += [Refusal((call,), reason) for call, reason in reasons.items() if reason is not None]
                able = tuple(call for call in group if reasons[call] is None)
                if len(able) > 1:
                    matches.append(AlikeStarts(able))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: AlikeStarts, rewriter: Rewriter) -> None:
        """Tie the modules and let all readers read the first call."""
        first, *rest = match.calls
        for call in rest:
            rewriter.tie(str(first.target), str(call.target))
            rewriter.replace(call, first)


def _alike_starts(calls: ModuleCalls, mixed: MixedOp) -> Iterator[list[fx.Node]]:
    """Yield groups of calls, each in another candidate, of alike modules on one value."""
    groups: dict[Any, list[fx.Node]] = {}
    for term in dict.fromkeys(mixed.terms):
        if not isinstance(term, fx.Node):
            continue
        seen: set[Any] = set()
        for node in candidate_nodes(term, mixed.node):
            likeness = calls.likeness(node)
            key = (likeness, node.args[0]) if likeness is not None and calls.owns_tensors(node) else None
            if key is not None and key not in seen:
                seen.add(key)
                groups.setdefault(key, []).append(node)
    yield from (sorted(group) for group in groups.values() if len(group) > 1)


def _why_not(calls: ModuleCalls, call: fx.Node, first: fx.Node) -> str | None:
    if calls.model.memory.is_written(call):
        return "its result is written in place, and several candidates would read it"
    return calls.why_not_tied(call) or calls.why_not_moved(call, first)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.ops = nn.ModuleList(
                nn.Sequential(nn.Conv2d(2, 2, 1), activation) for activation in (nn.ReLU(), nn.Tanh())
            )

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))
            return total

    return Example(), torch.ones(1, 2, 4, 4)
