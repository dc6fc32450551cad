"""Share alike modules between the candidates of an edge that draws one of them.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = multinomial(%1, 1)
    %3 = .__int__(%2)
    %4 = Conv2d[ops.0.0](%0)
    %5 = BatchNorm2d[ops.0.1](%4)
    %6 = Conv2d[ops.1.0](%0)
    %7 = BatchNorm2d[ops.1.1](%6)
    %8 = select(%2, (0, 1), (%5, %7))
    return %8

After::

    %0 = input x
    %1 = attr alphas
    %2 = multinomial(%1, 1)
    %3 = .__int__(%2)
    %4 = Conv2d[ops.0.0](%0)
    %5 = BatchNorm2d[ops.0.1](%4)
    %6 = Conv2d[ops.1.0](%0)
    %7 = BatchNorm2d[ops.0.1](%6)
    %8 = select(%2, (0, 1), (%5, %7))
    return %8

An option (``simplify(model, share_sampled=True)``), for memory: candidates have fewer parameters, and an optimizer less
state. A step takes no less, one candidate being alive at a time, and a little more, since normalize-kernels then
normalizes what differs before a shared norm. What is drawn is the user's own forward on the tied tree.

Modules are alike at one place: they end their candidates, or are the norms of stages counted from the end, or alike
modules read what they give, and nothing else does (TopoNAS, arXiv 2408.01311, partial and floating module sharing;
counting from the end is this project's).

Refuses:

1. modules that are not alike, or alike only across edges;
2. a norm whose inputs are not convolutions or linear layers with kernels of their own that can be normalized;
3. a module that runs in several places; random and in-place modules, and modules with hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.arms import home
from toponas_fx.analysis.drawn_edges import Draw, drawn_edges, is_number
from toponas_fx.analysis.module_calls import ModuleCalls
from toponas_fx.ir.decisions import sharing_of
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class AlikeModules:
    """Calls of alike modules in several candidates of one edge; the first one's module stays."""

    calls: tuple[fx.Node, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The calls."""
        return self.calls

    def describe(self) -> str:
        """Say which modules are shared."""
        paths = ", ".join(f"`{call.target}`" for call in self.calls[1:])
        return f"`{self.calls[0].target}` takes the place of {paths}, of which a step takes one"


@dataclass(frozen=True)
class ShareDrawn(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "share-drawn"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    stage: ClassVar[Stage] = Stage.SHARE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find, in each edge that draws, alike modules at one place; later captures call what was decided on."""
        calls = ModuleCalls.of(gm)
        if calls.tied is not None:
            return Plan()
        found = _Groups(calls)
        for draw in drawn_edges(gm.graph):
            found.add(draw)
        return Plan(tuple(found.matches), tuple(found.refusals))

    def apply(self, match: AlikeModules, rewriter: Rewriter) -> None:
        """Tie the modules; each call stays, in its arm."""
        first, *rest = match.calls
        for call in rest:
            rewriter.tie(str(first.target), str(call.target))


class _Groups:
    """Collects the groups of alike calls, edge by edge."""

    def __init__(self, calls: ModuleCalls) -> None:
        self.calls = calls
        self.matches: list[AlikeModules] = []
        self.refusals: list[Refusal] = []
        self._met: set[fx.Node] = set()
        self._shared = set(sharing_of(calls.gm).ties.values())

    def add(self, draw: Draw) -> None:
        """Look at the ends of an edge's candidates, then at their last norms, those before, and so on."""
        self._share(arm.term for arm in draw.arms)
        stages = [self._norms(arm.term) for arm in draw.arms]
        for level in range(max(map(len, stages))):
            self._share(norms[level] for norms in stages if level < len(norms))

    def _share(self, nodes: Iterable[Any]) -> None:
        """Share among nodes at one place, each of another candidate, then among what alike ones read."""
        groups: dict[Any, list[fx.Node]] = {}
        for node in nodes:
            is_own = isinstance(node, fx.Node) and home(node) is not None and node not in self._met
            likeness = self.calls.likeness(node) if is_own else None
            if likeness is not None:
                groups.setdefault(likeness, []).append(node)
        for group in groups.values():
            if len(group) > 1:
                self._met.update(group)
                self._tie(group)

    def _tie(self, group: Sequence[fx.Node]) -> None:
        """Tie alike modules as far as they may be, and what they read."""
        reasons = {call: self.calls.why_not(call) for call in group if call.target not in self._shared}
        self.refusals += [Refusal((call,), reason) for call, reason in reasons.items() if reason is not None]
        able = tuple(call for call, reason in reasons.items() if reason is None)
        if len(able) > 1 and self.calls.owns_tensors(able[0]):
            self.matches.append(AlikeModules(able))
        self._share(value for call in group if reasons.get(call) is None for value in _given_to(call))

    def _norms(self, term: Any) -> list[fx.Node]:
        """Return the norms of a candidate, last first."""
        return [node for node in _chain(term) if self.calls.is_norm(node)]


def _given_to(call: fx.Node) -> list[fx.Node]:
    """Return what a call reads, where its arm computes it and nothing else reads it."""
    return [value for value in call.all_input_nodes if home(value) == home(call) and len(value.users) == 1]


def _chain(term: Any) -> Iterator[fx.Node]:
    """Yield what a candidate computes, last first, as far as each node reads one image of the same arm."""
    node = term
    while isinstance(node, fx.Node) and home(node) is not None:
        yield node
        read = [value for value in node.all_input_nodes if home(value) == home(node) and not is_number(value)]
        node = read[0] if len(read) == 1 else None


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.ops = nn.ModuleList(
                nn.Sequential(nn.Conv2d(2, 2, size, padding=size // 2, bias=False), nn.BatchNorm2d(2))
                for size in (1, 3)
            )

        def forward(self, x: Tensor) -> Tensor:
            taken: Tensor = self.ops[int(torch.multinomial(self.alphas, 1))](x)
            return taken

    return Example(), torch.ones(1, 2, 4, 4)
