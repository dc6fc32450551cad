"""Share what candidates of one mixture end in: partial module sharing (PMS).

Before::

    %7 = BatchNorm2d[a](%5)
    %8 = BatchNorm2d[b](%6)
    %9 = mixed_sum([%7, %8], [%1, %2], (0, 0))

After::

    %9 = mixed_sum([%5, %6], [p1, p2], (0, 0))
    %10 = BatchNorm2d[a](%9)
    %11 = mixed_sum([%10], [W], (0))

``sum_i w_i g_i(u_i)``, the g_i alike, becomes ``W * g(sum_i p_i u_i)`` with the group weight ``W = sum_i s_i w_i`` and
the shares ``p_i = w_i / W`` (TopoNAS, arXiv 2408.01311, partial module sharing; the formula is this project's). At
every one-hot weight vector this is what the user's own forward computes once the g_i are tied; g stays the first
candidate's module. Applied again to the inner sum it shares whole suffixes; there the shares sum to one already.

Refuses:

1. modules that are not alike, or alike only across edges;
2. a norm whose inputs are not convolutions or linear layers with kernels of their own that can be normalized;
3. a module that runs in several places;
4. a candidate with a constant weight, or whose result something else reads;
5. random and in-place modules, modules with hooks, and one value that stands for several candidates already.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.calibration import Reads, feeding_kernels, why_not_normalizable
from toponas_fx.mixtures import Mixture, mixtures
from toponas_fx.pass_contract import Pass, Plan, Refusal, Semantics
from toponas_fx.purity import is_hooked, is_pure_module
from toponas_fx.rewriter import Rewriter
from toponas_fx.sharing import sharing_of
from toponas_fx.signatures import is_norm, signature
from toponas_fx.tensor_type import TensorType


@dataclass(frozen=True)
class AlikeEnds:
    """Calls of alike modules that end candidates of one mixture; the first one's module stays."""

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

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find mixtures with alike ends."""
        matches: list[AlikeEnds] = []
        refusals: list[Refusal] = []
        reads = Reads.of(gm)
        for mixture in mixtures(gm.graph):
            for calls in _alike_ends(gm, mixture):
                reason = _why_not(gm, calls, reads)
                if reason is None:
                    kind = type(gm.get_submodule(str(calls[0].target))).__name__
                    matches.append(AlikeEnds(mixture.node, tuple(calls), kind))
                else:
                    refusals.append(Refusal(tuple(calls), reason))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: AlikeEnds, rewriter: Rewriter) -> None:
        """Sum what the modules read, then call the first of them once."""
        sum_node, calls = match.sum_node, match.calls
        terms: list[Any] = list(sum_node.args[0])  # type: ignore[arg-type]
        weights: list[Any] = list(sum_node.args[1])  # type: ignore[arg-type]
        edges: list[int] = list(sum_node.args[2])  # type: ignore[arg-type]
        positions = [terms.index(call) for call in calls]
        values: list[Any] = [call.args[0] for call in calls]
        kind = calls[0].meta["type"]
        with rewriter.before(sum_node, *calls):
            total, shares = _group(rewriter, [weights[i] for i in positions])
            inner_args = (values, shares, (0,) * len(values))
            inner = rewriter.call_function(ops.mixed_sum, inner_args, type=values[0].meta["type"])
            shared = rewriter.call_module(str(calls[0].target), (inner,), type=kind)
        terms[positions[0]], weights[positions[0]] = shared, total
        for i in sorted(positions[1:], reverse=True):
            del terms[i], weights[i], edges[i]
        if weights == [1.0]:
            rewriter.replace(sum_node, shared)
        else:
            rewriter.update(sum_node, (terms, weights, tuple(edges)))
        rewriter.erase_unread(calls)
        for call in calls[1:]:
            rewriter.tie(str(calls[0].target), str(call.target))


def _alike_ends(gm: fx.GraphModule, mixture: Mixture) -> Iterator[list[fx.Node]]:
    """Yield groups of two or more calls of alike modules among a mixture's terms."""
    sharing = sharing_of(gm)
    shared = {id(gm.get_submodule(kept)) for kept in sharing.ties.values()}
    count_of: Any = mixture.node.args[0].count  # type: ignore[union-attr]
    groups: dict[Any, list[fx.Node]] = {}
    for term in mixture.terms:
        if not isinstance(term, fx.Node) or term.op != "call_module" or len(term.args) != 1 or term.kwargs:
            continue
        if mixture.terms.count(term) > 1:
            continue  # one value that counts several times has nothing to share with itself
        module = gm.get_submodule(str(term.target))
        if count_of(term) > 1 or not _may_be_shared(module) or (sharing.is_decided and id(module) not in shared):
            continue
        key = id(module) if sharing.is_decided else signature(module)
        groups.setdefault((key, term.args[0].meta.get("type")), []).append(term)  # type: ignore[union-attr]
    yield from (calls for calls in groups.values() if len(calls) > 1)


def _may_be_shared(module: nn.Module) -> bool:
    return is_pure_module(module) or (is_norm(module) and not is_hooked(module))


def _why_not(gm: fx.GraphModule, calls: list[fx.Node], reads: Reads) -> str | None:
    sum_node = next(iter(calls[0].users))
    if any(list(call.users) != [sum_node] for call in calls):
        return "something besides the mixture reads a candidate's result"
    weights = dict(zip(sum_node.args[0], sum_node.args[1], strict=True))  # type: ignore[arg-type]
    if any(not isinstance(weights[call], fx.Node) for call in calls):
        return "a candidate has a constant weight"
    if sharing_of(gm).is_decided:
        return None
    modules = [gm.get_submodule(str(call.target)) for call in calls]
    counts = [sum(_calls(gm, node, module) for node in gm.graph.nodes) for module in modules]
    if any(count > 1 for count in counts):
        return "a module runs in several places"
    return _why_not_calibrated(gm, calls, reads) if is_norm(modules[0]) else None


def _calls(gm: fx.GraphModule, node: fx.Node, module: nn.Module) -> bool:
    return node.op == "call_module" and gm.get_submodule(str(node.target)) is module


def _why_not_calibrated(gm: fx.GraphModule, calls: list[fx.Node], reads: Reads) -> str | None:
    for call in calls:
        kernels = feeding_kernels(gm, call.args[0])  # type: ignore[arg-type]
        if not kernels:
            return f"what feeds `{call.target}` is no convolution or linear layer whose kernel could be normalized"
        for operation in kernels:
            reason = why_not_normalizable(gm, operation, reads)
            if reason is not None:
                return reason
    return None


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
            self.ops = nn.ModuleList(
                nn.Sequential(nn.Conv2d(2, 2, k, padding=k // 2), nn.BatchNorm2d(2)) for k in (1, 3)
            )

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))
            return total

    return Example(), torch.ones(1, 2, 4, 4)
