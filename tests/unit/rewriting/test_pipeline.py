"""The pipeline: order, ends, checks, records and logs, with passes made for the purpose."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn

import toponas_fx
from toponas_fx.errors import PassError, PreconditionError, VerificationError
from toponas_fx.ir.printer import format_graph as text_of
from toponas_fx.passes import EliminateDeadCode
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Repeat, Semantics
from toponas_fx.rewriting.pipeline import MAX_ROUNDS, run_passes

X = torch.ones(2, 3)


@dataclass(frozen=True)
class Found:
    nodes: tuple

    def describe(self):
        return f"`{self.nodes[0].name}` becomes a tanh"


@dataclass(frozen=True)
class ReplaceRelu(Pass):
    """Replace one relu a round by a tanh."""

    name: ClassVar[str] = "replace-relu"
    semantics: ClassVar[Semantics] = Semantics.SHARES
    target: object = torch.tanh

    def plan(self, gm):
        found = [node for node in gm.graph.nodes if node.target is torch.relu]
        kept = [Refusal((node,), "it is a sigmoid") for node in gm.graph.nodes if node.target is torch.sigmoid]
        return Plan(tuple(Found((node,)) for node in found[:1]), tuple(kept))

    def apply(self, match, rewriter):
        (node,) = match.nodes
        with rewriter.before(node):
            new = rewriter.call_function(self.target, node.args)
        rewriter.replace(node, new)


@dataclass(frozen=True)
class ReplaceTanh(ReplaceRelu):
    """Replace each tanh by a sigmoid."""

    name: ClassVar[str] = "replace-tanh"

    def plan(self, gm):
        return Plan(tuple(Found((node,)) for node in gm.graph.nodes if node.target is torch.tanh))

    def apply(self, match, rewriter):
        with rewriter.before(match.nodes[0]):
            rewriter.replace(match.nodes[0], rewriter.call_function(torch.sigmoid, match.nodes[0].args))


@dataclass(frozen=True)
class GoOn(ReplaceRelu):
    """Never come to an end."""

    name: ClassVar[str] = "go-on"

    def plan(self, gm):
        return Plan((Found(tuple(node for node in gm.graph.nodes if node.op == "call_function")),))

    def apply(self, match, rewriter):
        pass


@dataclass(frozen=True)
class Watch(Pass):
    """Change nothing, note the calls."""

    name: ClassVar[str] = "watch"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    calls: list = field(default_factory=list)

    def requires(self, gm):
        self.calls.append("requires")

    def plan(self, gm):
        self.calls.append("plan")
        return Plan()

    def apply(self, match, rewriter):
        raise AssertionError("nothing to apply")

    def ensures(self, gm):
        self.calls.append("ensures")


@dataclass(frozen=True)
class Fail(Watch):
    """Fail at one of the steps."""

    name: ClassVar[str] = "fail"
    step: str = "plan"
    error: Exception = field(default_factory=lambda: ValueError("no such thing"))

    def requires(self, gm):
        self._fail("requires")

    def plan(self, gm):
        self._fail("plan")
        return Plan()

    def ensures(self, gm):
        self._fail("ensures")

    def _fail(self, step):
        if step == self.step:
            raise self.error


class Net(nn.Module):
    def forward(self, x):
        return torch.relu(torch.relu(x)) + torch.sigmoid(x)


class Unread(nn.Module):
    def forward(self, x):
        torch.relu(x)
        return torch.tanh(x)


def model(kind=Net):
    return toponas_fx.simplify(kind(), X, passes=()).train()


def test_runs_rounds_until_nothing_matches_and_records_each_change():
    gm = model()
    (record,) = run_passes(gm, [ReplaceRelu()])
    assert text_of(gm).count("tanh") == 2
    assert (record.name, record.semantics) == ("replace-relu", Semantics.SHARES)
    assert [(change.sentence, change.origins) for change in record.changes] == [
        ("`relu` becomes a tanh", ("relu",)),
        ("`relu_1` becomes a tanh", ("relu_1",)),
    ]
    assert [(refusal.sentence, refusal.origins) for refusal in record.refusals] == [("it is a sigmoid", ("sigmoid",))]


def test_records_what_changed_as_observed():
    gm = model()
    first, second, third = run_passes(gm, [ReplaceRelu(), ReplaceRelu(), ReplaceTanh()])
    assert (first.before.activations, first.after.activations) == (3, 3)
    assert first.before.nodes == first.after.nodes == 4
    assert second.changes == []
    assert second.before == second.after == first.after
    assert len(third.changes) == 2
    (record,) = run_passes(model(Unread), [EliminateDeadCode()])
    assert (record.before.nodes, record.after.nodes) == (2, 1)


def test_repeat_runs_its_passes_in_turn_until_none_finds_anything():
    @dataclass(frozen=True)
    class ReplaceSigmoid(ReplaceTanh):
        name: ClassVar[str] = "replace-sigmoid"

        def plan(self, gm):
            found = [node for node in gm.graph.nodes if node.target is torch.sigmoid]
            return Plan(tuple(Found((node,)) for node in found[1:]))

        def apply(self, match, rewriter):
            with rewriter.before(match.nodes[0]):
                rewriter.replace(match.nodes[0], rewriter.call_function(torch.relu, match.nodes[0].args))

    gm, watch = model(), Watch()
    with pytest.raises(PassError, match=r"passes \['replace-tanh', 'replace-sigmoid', 'replace-relu'\] still change"):
        run_passes(model(), [Repeat(ReplaceTanh(), ReplaceSigmoid(), ReplaceRelu())])
    records = run_passes(gm, [watch, Repeat(ReplaceTanh(), ReplaceRelu()), watch])
    assert [record.name for record in records] == ["watch", "replace-tanh", "replace-relu", "watch"]
    assert [len(record.changes) for record in records] == [0, 2, 2, 0]
    assert text_of(gm).count("sigmoid") == 3


def test_calls_requires_before_and_ensures_after():
    watch = Watch()
    run_passes(model(), [watch])
    assert watch.calls == ["requires", "plan", "ensures"]


def test_tells_the_observer_after_each_run_of_a_pass():
    seen = []
    run_passes(
        model(), [ReplaceRelu(), Repeat(ReplaceTanh())], lambda pass_, gm: seen.append((pass_.name, text_of(gm)))
    )
    assert [name for name, _ in seen] == ["replace-relu", "replace-tanh"]  # a pass alone has nothing left to find
    assert "relu" not in seen[0][1]
    assert "tanh" not in seen[1][1]


def test_an_endless_pass_is_an_error_that_names_its_last_match():
    with pytest.raises(PassError) as caught:
        run_passes(model(), [ReplaceTanh(), GoOn()])
    text = str(caught.value)
    place = "pass 'go-on' (2 of 2), after ['replace-tanh']: "
    assert text.startswith(f"{place}still finds work after {MAX_ROUNDS} rounds, last: `relu` becomes a tanh:\n")
    assert "> %1 = relu(%0) : f32[2,3]" in text.splitlines()


@pytest.mark.parametrize("step", ["requires", "plan", "ensures"])
def test_a_failure_names_the_pass_and_its_place(step):
    with pytest.raises(PassError) as caught:
        run_passes(model(), [ReplaceRelu(), Repeat(ReplaceTanh(), Fail(step=step)), Watch()])
    place = "pass 'fail' (3 of 4), after ['replace-relu', 'replace-tanh']"
    assert str(caught.value) == f"{place}: ValueError: no such thing"
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("kind", [PreconditionError, VerificationError, PassError])
def test_errors_of_this_package_keep_their_kind(kind):
    with pytest.raises(kind) as caught:
        run_passes(model(), [Fail(error=kind("a sentence"))])
    assert type(caught.value) is kind
    assert str(caught.value) == "pass 'fail' (1 of 1), after []: a sentence"


def test_the_place_of_a_pass_that_comes_twice_is_its_own():
    @dataclass(frozen=True)
    class NeedRelu(ReplaceTanh):
        name: ClassVar[str] = "need-relu"

        def requires(self, gm):
            if "relu" not in text_of(gm):
                raise PreconditionError("no relu")

    with pytest.raises(PassError, match=r"pass 'need-relu' \(3 of 3\), after \['need-relu', 'replace-relu'\]: no relu"):
        run_passes(model(), [NeedRelu(), ReplaceRelu(), NeedRelu()])


def test_verifies_after_every_pass():
    @dataclass(frozen=True)
    class RenameInput(Watch):
        name: ClassVar[str] = "rename-input"

        def ensures(self, gm):
            next(iter(gm.graph.nodes)).target = "y"

    with pytest.raises(VerificationError, match=r"'rename-input' \(1 of 2\).*inputs and output were"):
        run_passes(model(), [RenameInput(), Watch()])


def test_a_pass_that_changes_a_type_shows_the_node():
    @dataclass(frozen=True)
    class Transpose(ReplaceRelu):
        name: ClassVar[str] = "transpose"

        def apply(self, match, rewriter):
            kind = match.nodes[0].meta["type"]
            other = type(kind)(kind.dtype, (3, 2))
            with rewriter.before(match.nodes[0]):
                rewriter.replace(match.nodes[0], rewriter.call_function(torch.t, match.nodes[0].args, type=other))

    with pytest.raises(PassError, match=r"pass 'transpose' replaces f32\[2,3\] by f32\[3,2\]:\n(.*\n)*> %2 = relu"):
        run_passes(model(), [Transpose()])
