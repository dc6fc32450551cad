"""Float alike stages of unlike depth onto each other: floating module sharing (FMS).

Before::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = Conv2d[ops.0.0](%0)
    %6 = BatchNorm2d[ops.0.1](%5)
    %7 = Conv2d[ops.1.0](%0)
    %8 = BatchNorm2d[ops.1.1](%7)
    %9 = ReLU[ops.1.2](%8)
    %10 = Conv2d[ops.1.3](%9)
    %11 = BatchNorm2d[ops.1.4](%10)
    %12 = mixed_sum([%6, %11], [%3, %4], (0, 0))
    return %12

After::

    %0 = input x
    %1 = attr alphas
    %2 = .unbind(%1, 0)
    %3 = getitem(%2, 0)
    %4 = getitem(%2, 1)
    %5 = Conv2d[ops.0.0](%0)
    %6 = Conv2d[ops.1.0](%0)
    %7 = group_shares([%3, %4])
    %8 = getitem(%7, 0)
    %9 = getitem(%7, 1)
    %10 = mixed_sum([%5, %6], [%8, %9], (0, 0))
    %11 = BatchNorm2d[ops.0.1](%10)
    %12 = ReLU[ops.1.2](%11)
    %13 = Conv2d[ops.1.3](%12)
    %14 = BatchNorm2d[ops.1.4](%13)
    %15 = mixed_sum([%11, %14], [%3, %4], (0, 0))
    return %15

A stage ends in a norm. With ``v_i = g_i(u_i)`` the stages at one place in candidates i of one mixed operation, the g_i
alike and each ``u_i`` linear in a kernel of its own, all v_i become one ``g(sum_i p_i u_i)``, ``p_i = |w_i| / sum_j
|w_j|`` (TopoNAS, arXiv 2408.01311, floating module sharing; the formula is this project's). The kernels carry the
shares, the outer weights keep the signs. At one-hot weights the chosen candidate meets what it had, its norms tied.

``placement`` says which stages meet: ``"first"`` aligns candidates at their start, so a one-stage candidate floats onto
the first stage of a two-stage one; ``"last"`` aligns them at their end, once share-modules has shared the ends;
``"auto"`` takes what leaves fewer taps after merging, and the last at a tie: there no stage is read twice.
Applied repeatedly, stages of any depth meet one by one.

Refuses:

1. a norm whose inputs are not convolutions or linear layers with kernels of their own that can be normalized;
2. a module that runs in several places, has hooks, or whose candidate has a constant weight, or another one's;
3. stages that read each other, or that only effects (in-place writes, random draws) separate;
4. a norm whose result is written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx import ops
from toponas_fx.analysis.drawn_edges import mixing_ops
from toponas_fx.analysis.effects import is_pure
from toponas_fx.analysis.model_reads import inputs_from
from toponas_fx.analysis.module_calls import ModuleCalls, why_not_together
from toponas_fx.analysis.stages import alike_stages, cheaper_placement
from toponas_fx.errors import PreconditionError
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter

PLACEMENTS = ("auto", "first", "last")


@dataclass(frozen=True)
class AlikeStages:
    """Norms at one place in several candidates, with the candidates' weights; the first one's module stays."""

    calls: tuple[fx.Node, ...]
    weights: tuple[fx.Node, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The calls."""
        return self.calls

    def describe(self) -> str:
        """Say which stages meet."""
        paths = ", ".join(f"`{call.target}`" for call in self.calls[1:])
        return f"stage `{self.calls[0].target}` takes the place of {paths}"


@dataclass(frozen=True)
class FloatModules(Pass):
    """See the module's docstring.

    Attributes:
        placement: ``"first"``, ``"last"`` or ``"auto"``.
    """

    placement: str = "auto"
    name: ClassVar[str] = "float-modules"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    stage: ClassVar[Stage] = Stage.SHARE

    def requires(self, gm: fx.GraphModule) -> None:
        """Reject an unknown placement."""
        if self.placement not in PLACEMENTS:
            raise PreconditionError(f"placement must be one of {PLACEMENTS}, not {self.placement!r}")

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find, in each mixed operation, alike norms at the chosen place."""
        matches: list[AlikeStages] = []
        refusals: list[Refusal] = []
        calls = ModuleCalls.of(gm)
        for mixed in mixing_ops(gm.graph):
            placement = cheaper_placement(calls, mixed) if self.placement == "auto" else self.placement
            for group in alike_stages(calls, mixed, placement):
                reasons = {call: _why_not(calls, call, weight) for call, weight in group.items()}
                reasons |= why_not_together({call: group[call] for call in group if reasons[call] is None})
                refusals += [Refusal((call,), reason) for call, reason in reasons.items() if reason is not None]
                able = tuple(call for call in group if reasons[call] is None)
                if len(able) < 2:
                    continue
                match = AlikeStages(able, tuple(group[call] for call in able))
                reason = _why_not_movable(calls, match)
                if reason is None:
                    matches.append(match)
                else:
                    refusals.append(Refusal(able, reason))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: AlikeStages, rewriter: Rewriter) -> None:
        """Sum what the stages' norms read, call the first norm once, and let all readers read it."""
        anchor = min(match.calls)
        values: list[Any] = [call.args[0] for call in match.calls]
        rewriter.hoist([*values, *match.weights], anchor)
        scalar = match.weights[0].meta["type"]
        vector = TensorType(scalar.dtype, (len(values),))
        with rewriter.before(anchor, *match.weights):
            shares = rewriter.call_function(ops.group_shares, (list(match.weights),), type=vector)
            each = [rewriter.item(shares, i, type=scalar) for i in range(len(values))]
        with rewriter.before(anchor, *match.calls):
            inner_args = (values, each, (0,) * len(values))
            inner = rewriter.call_function(ops.mixed_sum, inner_args, type=values[0].meta["type"])
            kept = str(match.calls[0].target)
            shared = rewriter.call_module(kept, (inner,), type=match.calls[0].meta["type"])
        for call in match.calls:
            rewriter.replace(call, shared)
        for call in match.calls[1:]:
            rewriter.tie(kept, str(call.target))


def _why_not(calls: ModuleCalls, call: fx.Node, weight: Any) -> str | None:
    if calls.model.memory.is_written(call):
        return "its result is written in place, and several candidates would read it"
    if not isinstance(weight, fx.Node):
        return "a candidate has a constant weight"
    return calls.why_not(call)


def _why_not_movable(calls: ModuleCalls, match: AlikeStages) -> str | None:
    """The shared stage runs where the first of them ran: what the others read must be computable by then."""
    anchor = min(match.calls)
    read: list[Any] = [*(call.args[0] for call in match.calls), *match.weights]
    for node in sorted(inputs_from(read, anchor)):
        if node in match.calls:
            return "one of the stages reads another"
        if not is_pure(calls.gm, node):
            return f"`{node.target}`, which a stage reads, has effects and cannot move"
        if calls.model.memory.passed(node, anchor):
            return f"`{node.target}`, which a stage reads, cannot move: what it reads is written in place before it"
    reasons = (calls.why_not_moved(call, anchor) for call in match.calls)
    return next((reason for reason in reasons if reason is not None), None)


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    def stage(size: int) -> list[nn.Module]:
        return [nn.Conv2d(2, 2, size, padding=size // 2, bias=False), nn.BatchNorm2d(2)]

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.ones(2))
            short, long = nn.Sequential(*stage(1)), nn.Sequential(*stage(3), nn.ReLU(), *stage(1))
            self.ops = nn.ModuleList([short, long])

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))
            return total

    return Example(), torch.ones(1, 2, 4, 4)
