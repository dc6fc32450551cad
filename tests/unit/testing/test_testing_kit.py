"""``toponas_fx.testing``: each assertion fails on a pass, or a model, that breaks its promise, and says where."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from toponas_fx.passes import DEFAULT_PASSES, Deduplicate, DetectMixedOps, ShareModules
from toponas_fx.rewriting.pass_base import Plan, Refusal
from toponas_fx.testing import (
    assert_exact,
    assert_one_hot,
    check_keeps,
    check_pass,
    graph_of,
)
from wrong_passes import (
    Fail,
    SwapSharedWeights,
    SwapWeights,
    Tanh,
    Wrong,
    counting,
    drawing,
    reading,
    with_another_gradient,
)

X = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """Two ReLUs of one input, or two other modules."""

    def __init__(self, a: nn.Module | None = None, b: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b = a or nn.ReLU(), b or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x)])


class Edge(nn.Module):
    """A mixed operation of three candidates, two of which can share."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.rand(3))
        kernels = (nn.Conv2d(4, 4, size, padding=size // 2, bias=False) for size in (1, 3))
        self.ops = nn.ModuleList(nn.Sequential(nn.ReLU(), kernel, nn.BatchNorm2d(4)) for kernel in kernels)
        self.ops.append(nn.Identity())

    def forward(self, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


# -- check_pass ----------------------------------------------------------------------------------------------------


def test_check_pass_returns_what_was_done_in_words() -> None:
    found = check_pass(Deduplicate(), Twice(), X)
    assert str(found) == "deduplicate: 1 change\n  ReLU computed once instead of 2 times (a, b)"
    assert [change.sentence for change in found.record.changes] == ["ReLU computed once instead of 2 times"]
    assert found.model.training
    refused = check_pass(Deduplicate(), Twice(nn.Dropout(0.5), nn.Dropout(0.5)), X, changes=False)
    assert "refused: it draws at random" in str(refused)


BROKEN: dict[str, tuple[Wrong, str]] = {
    "output": (Wrong(lambda r, n: r.call_function(torch.mul, (n, 2.0))), r"training: `output 0` is off by 1$"),
    "small": (Wrong(lambda r, n: r.call_function(torch.add, (n, 1e-8))), r"training: `output 0` is off by \S+e-08$"),
    "gradient": (
        Wrong(lambda r, n: r.call_function(with_another_gradient, (n,))),
        r"training: the gradient of `input 0` is off by 1$",
    ),
    "none": (
        Wrong(lambda r, n: r.call_function(torch.detach, (n,))),
        r"the gradient of `scale` is None, which was float64\[4, 1, 1\]$",
    ),
    "zero": (
        Wrong(lambda r, n: r.call_function(reading, (n, r.read("unread")))),
        r"the gradient of `unread` is float64\[1\], which was None$",
    ),
    "buffer": (
        Wrong(lambda r, n: r.call_function(counting, (n, r.read("seen")))),
        r"training: the buffer `seen` is off by 1$",
    ),
    "draw": (Wrong(lambda r, n: r.call_function(drawing, (n,))), "another number of values is drawn at random$"),
    "type": (
        Wrong(lambda r, n: r.call_function(torch.Tensor.float, (n,))),
        r"`output 0` is float32\[3, 4, 5, 5\], which was float64\[3, 4, 5, 5\]$",
    ),
    "training": (Wrong(lambda r, n: r.call_module("drop", (n,))), "training: `output 0` is off by"),
    "evaluation": (Wrong(lambda r, n: r.call_module("evaluation", (n,))), "evaluation: `output 0` is off by 1$"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_check_pass_finds_a_broken_promise(kind: str) -> None:
    pass_, text = BROKEN[kind]
    with pytest.raises(AssertionError, match=f"(?m){text}") as caught:
        check_pass(pass_, Tanh(), X)
    lines = str(caught.value).splitlines()
    assert lines[0] == "wrong breaks its promise (relative errors up to 1e-10 pass):"
    assert "EXACT promises the same function, up to the order of additions; it made this graph:" in lines
    assert lines[-1].startswith("return ")


def test_a_tolerance_is_the_users_to_give() -> None:
    small = BROKEN["small"][0]
    check_pass(small, Tanh(), X, tolerance=1e-6)


def test_check_pass_finds_what_is_wrong_at_a_one_hot_architecture() -> None:
    with pytest.raises(
        AssertionError, match=r"one-hot architecture . of 3, in training: `output 0` is off by"
    ) as caught:
        check_pass(SwapSharedWeights(), Edge(), X, prerequisites=(DetectMixedOps(), ShareModules()))
    assert "SHARES promises the original with the shared modules tied" in str(caught.value)


def test_check_pass_shows_the_difference_of_graphs() -> None:
    with pytest.raises(AssertionError, match="after deduplicate the graph is another one:") as caught:
        check_pass(Deduplicate(), Twice(), X, after="%0 = input x\n%1 = ReLU[a](%0)\nreturn %1")
    assert "-return %1\n+%2 = cat([%1, %1])\n+return %2" in str(caught.value)
    with pytest.raises(AssertionError, match="before deduplicate the graph is another one:"):
        check_pass(Deduplicate(), Twice(), X, before="%0 = input x\nreturn %0")


def test_check_pass_demands_that_something_is_found() -> None:
    with pytest.raises(AssertionError, match=r"deduplicate finds nothing to do in this graph:\n  it refuses: it draws"):
        check_pass(Deduplicate(), Twice(nn.Dropout(0.5), nn.Dropout(0.5)), X)
    with pytest.raises(AssertionError, match=r"deduplicate changes what it should keep:\n  ReLU computed once"):
        check_pass(Deduplicate(), Twice(), X, changes=False)


@dataclass(frozen=True)
class Odd(Wrong):
    """A pass that plans oddly."""

    name: ClassVar[str] = "odd"
    how: str = ""
    calls: ClassVar[list[int]] = []

    def plan(self, gm: fx.GraphModule) -> Plan:
        relu = next(node for node in gm.graph.nodes if node.op == "call_module")
        self.calls.append(1)
        if self.how == "mutates":
            relu.target = "b"
        reasons = {"remembers": f"call {len(self.calls)}", "stops": "it is so.", "silent": "", "lines": "a\nb"}
        nodes = () if self.how == "nowhere" else (relu,)
        return Plan((), (Refusal(nodes, reasons.get(self.how, "it is odd")),))


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("mutates", "odd.plan changes the graph: only apply may"),
        ("remembers", "odd.plan comes to another result the second time: keep no state"),
        ("stops", r"odd says 'it is so.': write one sentence without a full stop"),
        ("silent", "odd says '': write one sentence"),
        ("lines", r"odd says 'a\\nb': write one sentence"),
        ("nowhere", "odd has a match or a refusal without nodes: it is odd"),
    ],
)
def test_check_pass_finds_a_plan_that_is_none(how: str, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_pass(Odd(how=how), Twice(), X, changes=False)


def test_check_pass_finds_a_pass_that_goes_on() -> None:
    with pytest.raises(toponas_fx.PassError, match=r"pass 'wrong' .* still finds work after 100 rounds"):
        check_pass(Wrong(lambda r, n: r.call_function(torch.neg, (n,)), again=True), Tanh(), X)


@pytest.mark.parametrize("check", [assert_exact, assert_one_hot, graph_of])
def test_a_pass_that_raises_is_an_error_though_simplify_would_leave_it_out(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPONAS_STRICT", "0")
    with pytest.raises(toponas_fx.PassError, match="pass 'fail'"):
        check(Edge(), X, passes=[*DEFAULT_PASSES, Fail()])


@dataclass(frozen=True)
class FailInDouble(SwapWeights):
    """A pass that raises in float64 alone, where the kit computes."""

    def plan(self, gm: fx.GraphModule) -> Plan:
        assert next(iter(gm.graph.nodes)).meta["type"].dtype is torch.float32
        return Plan()


def test_a_simplified_model_is_strict_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPONAS_STRICT", "0")
    fast = toponas_fx.simplify(Edge(), X, mode="exact", passes=[*DEFAULT_PASSES, FailInDouble()])
    with pytest.raises(toponas_fx.PassError, match="pass 'swap-weights'"):
        assert_exact(fast, X)
    assert not fast._toponas.is_strict


def test_what_cannot_be_checked_is_an_error() -> None:
    class Printing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * len(str(x))

    with pytest.raises(toponas_fx.ArgumentError, match=r"the model runs as it was written: .*test_testing_kit.py"):
        check_pass(Deduplicate(), Printing(), X)
    with pytest.raises(toponas_fx.ArgumentError, match=r"write Deduplicate\(\)"):
        check_pass(Deduplicate, Twice(), X)  # type: ignore[arg-type]


def test_check_keeps() -> None:
    dropouts = Twice(nn.Dropout(0.5), nn.Dropout(0.5))
    assert check_keeps(Deduplicate(), dropouts, X, "draws at random") == [
        "it draws at random, writes in place or has effects"
    ]
    with pytest.raises(AssertionError, match="deduplicate refuses nothing for 'hooks'; its reasons are"):
        check_keeps(Deduplicate(), dropouts, X, "hooks")
    with pytest.raises(AssertionError, match="deduplicate would change what it must keep: ReLU computed once"):
        check_keeps(Deduplicate(), Twice(), X)


def test_graph_of_is_the_same_text_each_time_and_leaves_the_module_alone() -> None:
    module = Twice()
    before = copy.deepcopy(module.state_dict())
    text = graph_of(module, X)
    assert text == "%0 = input x\n%1 = ReLU[a](%0)\n%2 = ReLU[b](%0)\n%3 = cat([%1, %2])\nreturn %3"
    assert graph_of(module, X, types=True).splitlines()[1] == "%1 = ReLU[a](%0) : f32[3,4,5,5]"
    assert graph_of(module, X, passes=(Deduplicate(),)).count("ReLU") == 1
    assert module.state_dict().keys() == before.keys()


# -- whole models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("simplified", [False, True])
def test_a_right_model_passes(simplified: bool) -> None:
    model = Edge()
    assert_exact(toponas_fx.simplify(model, X, mode="exact") if simplified else model, X)
    assert_one_hot(toponas_fx.simplify(model, X) if simplified else model, X)


@pytest.mark.parametrize("check", [assert_exact, assert_one_hot])
def test_a_wrong_model_is_found_and_the_pass_named(check: Any) -> None:
    with pytest.raises(AssertionError, match="it is wrong from 'swap-weights' on: test that with") as caught:
        check(Edge(), X, passes=[*DEFAULT_PASSES, SwapWeights()])
    assert "Edge, simplified, is" in str(caught.value)


def test_a_simplified_model_is_compared_as_it_is() -> None:
    wrong = toponas_fx.simplify(Edge(), X, passes=[*DEFAULT_PASSES, SwapSharedWeights()])
    with pytest.raises(AssertionError, match="it is wrong from 'swap-shared-weights' on"):
        assert_one_hot(wrong, X)
    wrong = toponas_fx.simplify(Edge(), X, mode="exact", passes=[*DEFAULT_PASSES, SwapWeights()])
    with pytest.raises(AssertionError, match="it is wrong from 'swap-weights' on"):
        assert_exact(wrong, X)


def test_what_shares_is_not_exact() -> None:
    with pytest.raises(toponas_fx.ArgumentError, match="shares modules between candidates: use assert_one_hot"):
        assert_exact(toponas_fx.simplify(Edge(), X), X)
    with pytest.raises(toponas_fx.ArgumentError, match="simplified already"):
        assert_one_hot(toponas_fx.simplify(Edge(), X), X, passes=DEFAULT_PASSES)


def test_a_mixed_operation_that_cannot_be_one_hot_fails() -> None:
    class Scored(Edge):
        def forward(self, x: Tensor) -> Any:
            weights = (x.mean() * self.alphas).softmax(0) + 0.1
            return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))

    with pytest.raises(AssertionError, match="could not be put at one-hot architectures: ops: "):
        assert_one_hot(Scored(), X)


def test_a_candidate_that_is_never_alone_fails() -> None:
    class Bound(Edge):
        def forward(self, x: Tensor) -> Any:
            a, b = self.alphas[0], self.alphas[1]
            weights = torch.stack([a, b, a * b])
            return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))

    with pytest.raises(AssertionError, match="one-hot architectures: ops: alone were 2 of its 3 candidates"):
        assert_one_hot(Bound(), X)
