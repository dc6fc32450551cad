"""Share what candidates of one mixed operation end in: partial module sharing (PMS).

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = Conv2d[a.0](%0)
    %4 = BatchNorm2d[a.1](%3)
    %5 = getitem(%1, 1)
    %6 = Conv2d[b.0](%0)
    %7 = BatchNorm2d[b.1](%6)
    %8 = mixed_sum([%4, %7], [%2, %5], (0, 0))
    return %8

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = Conv2d[a.0](%0)
    %4 = getitem(%1, 1)
    %5 = Conv2d[b.0](%0)
    %6 = group_weight([%2, %4])
    %7 = getitem(%6, 0)
    %8 = getitem(%6, 1)
    %9 = getitem(%8, 0)
    %10 = getitem(%8, 1)
    %11 = mixed_sum([%3, %5], [%9, %10], (0, 0))
    %12 = BatchNorm2d[a.1](%11)
    %13 = mixed_sum([%12], [%7], (0,))
    return %13

``sum_i w_i g_i(u_i)``, the g_i alike, becomes ``W * g(sum_i p_i u_i)`` with the group weight ``W = sum_i s_i w_i`` and
the shares ``p_i = w_i / W`` (TopoNAS, arXiv 2408.01311, partial module sharing; the formula is this project's). At
every one-hot weight vector this is what the user's own forward computes once the g_i are tied; g stays the first
candidate's module. Applied again to the inner sum it shares whole suffixes; there the shares sum to one already.

Refuses:

1. modules that are not alike, or alike only across edges;
2. a norm whose inputs are not convolutions or linear layers with kernels of their own that can be normalized;
3. a module that runs in several places;
4. a candidate with a constant weight or another one's, one that is subtracted, or whose result something else reads;
5. random and in-place modules, modules with hooks, and one value that stands for several candidates already;
6. a module whose input is written in place before the sum, a norm that counts in buffers that something else reads.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.drawn_edges import mixing_ops
from toponas_fx.analysis.mixed_ops import MixedOp, is_negated
from toponas_fx.analysis.module_calls import ModuleCalls, why_not_together
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class AlikeEnds:
    """Calls of alike modules that end candidates of one mixed operation; the first one's module stays."""

    sum_node: fx.Node
    calls: tuple[fx.Node, ...]
    kind: str

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The calls."""
        return self.calls

    def describe(self) -> str:
        """Say which modules are shared."""
        paths = ", ".join(f"`{call.target}`" for call in self.calls[1:])
        return f"{self.kind} `{self.calls[0].target}` takes the place of {paths}"


@dataclass(frozen=True)
class ShareModules(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "share-modules"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    stage: ClassVar[Stage] = Stage.SHARE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find mixed operations with alike ends; those that cannot be shared are left out, the others share."""
        matches: list[AlikeEnds] = []
        refusals: list[Refusal] = []
        calls = ModuleCalls.of(gm)
        for mixed in mixing_ops(gm.graph):
            for group in _alike_ends(calls, mixed):
                weights = {call: mixed.weights[mixed.terms.index(call)] for call in group}
                reasons = {call: _why_not(calls, mixed, call, weight) for call, weight in weights.items()}
                reasons |= why_not_together({call: weights[call] for call in group if reasons[call] is None})
                refusals += [Refusal((call,), reason) for call, reason in reasons.items() if reason is not None]
                able = tuple(call for call in group if reasons[call] is None)
                if len(able) > 1:
                    matches.append(AlikeEnds(mixed.node, able, type(calls.module(able[0])).__name__))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: AlikeEnds, rewriter: Rewriter) -> None:
        """Sum what the modules read, then call the first of them once."""
        sum_node, calls, found = match.sum_node, match.calls, SumTerms(match.sum_node)
        first, *rest = positions = [found.terms.index(call) for call in calls]
        values: list[Any] = [call.args[0] for call in calls]
        chosen = [found.weights[i] for i in positions]
        with rewriter.before(sum_node, *chosen):
            total, shares = _group(rewriter, chosen)
        with rewriter.before(sum_node, *calls):
            inner_args = (values, shares, (0,) * len(values))
            inner = rewriter.call_function(ops.mixed_sum, inner_args, type=values[0].meta["type"])
            shared = rewriter.call_module(str(calls[0].target), (inner,), type=calls[0].meta["type"])
        found.put(first, shared, total)
        found.drop(rest)
        found.write(rewriter)
        rewriter.erase_unread(calls)
        for call in calls[1:]:
            rewriter.tie(str(calls[0].target), str(call.target))


def _alike_ends(calls: ModuleCalls, mixed: MixedOp) -> Iterator[list[fx.Node]]:
    """Yield groups of two or more calls of alike modules among a mixed operation's terms."""
    count_of: Any = mixed.node.args[0].count  # type: ignore[union-attr]
    groups: dict[Any, list[fx.Node]] = {}
    for term in mixed.terms:
        likeness = calls.likeness(term)
        if likeness is not None and count_of(term) == 1:  # a value that counts twice is not two that are alike
            groups.setdefault(likeness, []).append(term)
    yield from (group for group in groups.values() if len(group) > 1)


def _why_not(calls: ModuleCalls, mixed: MixedOp, call: fx.Node, weight: Any) -> str | None:
    if list(call.users) != [mixed.node]:
        return "something besides the mixed operation reads a candidate's result"
    if not isinstance(weight, fx.Node):
        return "a candidate has a constant weight"
    if is_negated(weight):
        return "a candidate is subtracted: at its one-hot architecture the sum is minus what it computes"
    return calls.why_not(call) or calls.why_not_moved(call, mixed.node)


def _group(rewriter: Rewriter, weights: list[Any]) -> tuple[Any, list[Any]]:
    """Return the group weight and the shares; shares of an outer group, whole, sum to one already."""
    if _are_shares(weights):
        return 1.0, weights
    scalar = weights[0].meta["type"]
    vector = TensorType(scalar.dtype, (len(weights),))
    group = rewriter.call_function(ops.group_weight, (weights,))
    total = rewriter.item(group, 0, type=scalar)
    shares = rewriter.item(group, 1, type=vector)
    return total, [rewriter.item(shares, i, type=scalar) for i in range(len(weights))]


def _are_shares(weights: list[Any]) -> bool:
    parents = {weight.args[0] if weight.target is operator.getitem else None for weight in weights}
    parent = parents.pop()
    if parents or parent is None or parent.target is not operator.getitem or parent.args[1] != 1:
        return False
    group = parent.args[0]
    return group.target is ops.group_weight and len(group.args[0]) == len(weights)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            self.a = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
            self.b = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * self.a(x) + self.alphas[1] * self.b(x)
            return total

    return Example(), torch.ones(1, 2, 4, 4)
