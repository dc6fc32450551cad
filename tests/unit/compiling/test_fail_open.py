"""Every pass broken on purpose, at every time: the model computes what it should, and says what was left out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

import toponas_fx
from equality import assert_same, double, run
from toponas_fx import passes
from toponas_fx.compiling import decide_sharing
from toponas_fx.compiling.fail_open import can_be_left_out, without
from toponas_fx.passes import DEFAULT_PASSES, Recompute
from toponas_fx.rewriting.pass_base import Pass, Repeat, Semantics

C = 8


def separable(size: int, dilation: int = 1) -> nn.Module:
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(C, C, size, padding=padding, dilation=dilation, groups=C, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C, affine=False))


def convolution(size: int) -> nn.Module:
    conv = nn.Conv2d(C, C, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(C, affine=False))


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class Edges(nn.Module):
    """Three edges and a head in which there is something for every pass; evaluation goes a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.is_other = False  # another path, which a later capture takes
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(C, affine=False))
        deep = nn.Sequential(*separable(3), *separable(3))  # type: ignore[misc]
        self.first = nn.ModuleList([Zero(), nn.Identity(), deep, separable(5), separable(3, 2), pooled])
        self.second = nn.ModuleList([convolution(1), convolution(3), nn.AvgPool2d(3, 1, 1), nn.Identity()])
        self.third = nn.ModuleList([nn.Sequential(nn.Conv2d(C, C, 1), end) for end in (nn.ReLU(), nn.Tanh())])
        self.third.append(nn.Identity())
        self.left, self.right = (nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)) for _ in range(2))
        self.alphas = nn.ParameterList([torch.randn(6), torch.randn(4), torch.randn(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(self.stem(x)) if self.is_other else self.stem(x)
        for edge, alphas in zip((self.first, self.second, self.third), self.alphas, strict=True):
            results = torch.stack([op(x) for op in edge])
            x = (results * torch.softmax(alphas, 0).view(-1, 1, 1, 1, 1)).sum(0)
        x = F.avg_pool2d(x, 3, 1, 1)
        pooled = (self.left(x) * self.right(x) + 0).mean((2, 3))
        torch.tanh(x)  # read by nobody
        return pooled if self.training else torch.relu(pooled)


def model() -> nn.Module:
    torch.manual_seed(0)
    return double(Edges())


def image() -> Tensor:
    return torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


ALL = {type(pass_): pass_ for entry in DEFAULT_PASSES for pass_ in getattr(entry, "passes", (entry,))}
ALL |= {Recompute: Recompute()}
LEFT_OUT = [kind for kind, pass_ in ALL.items() if can_be_left_out((pass_,))]
NEEDED = [kind for kind in ALL if kind not in LEFT_OUT]
PASSES = (*DEFAULT_PASSES, Recompute())
FAULT = "a fault of ours"


def fail(*args: Any) -> None:
    raise ZeroDivisionError(FAULT)


def in_plan(patch: pytest.MonkeyPatch, kind: type[Pass]) -> None:
    patch.setattr(kind, "plan", fail)


def half_way(patch: pytest.MonkeyPatch, kind: type[Pass]) -> None:
    """Fail once a match was applied."""
    real: Callable[..., None] = kind.apply

    def apply(self: Pass, match: Any, rewriter: Any) -> None:
        real(self, match, rewriter)
        fail()

    patch.setattr(kind, "apply", apply)


def broken_graph(patch: pytest.MonkeyPatch, kind: type[Pass]) -> None:
    """Leave a graph that the verifier rejects."""

    def ensures(self: Pass, gm: fx.GraphModule) -> None:
        next(iter(gm.graph.nodes)).target = FAULT

    patch.setattr(kind, "ensures", ensures)


FAULTS = [in_plan, half_way, broken_graph]


@pytest.fixture(autouse=True)
def _lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPONAS_STRICT", "0")


def simplified(strict: bool = False, mode: str = "share") -> Any:
    return toponas_fx.simplify(model(), image(), mode=mode, passes=PASSES, strict=strict)


def assert_right(fast: Any) -> None:
    """Assert that a model computes its reference at one-hot weights, gradients included, in both modes."""
    for training in (True, False):
        fast.train(training)
        for index in range(4):
            for alphas in fast.alphas:
                alphas.data.fill_(-800.0)[min(index, len(alphas) - 1)] = 0.0
            wanted = [p for name, p in fast.named_parameters() if not name.startswith("alphas")]
            found = run(fast, fast, (image(),), wanted)
            assert_same(found, run(fast.reference, fast, (image(),), wanted), 1e-9)
    fast.train()


def said(fast: Any, kind: type[Pass]) -> list[str]:
    return [note for note in fast.report.notes if f"pass '{kind.name}'" in note]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_a_pass_that_is_not_needed_is_left_out(kind: type[Pass], fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind is passes.GatherBareWeights and fault is half_way:
        pytest.skip("it has work where paths are sampled alone: below")
    fault(monkeypatch, kind)
    with pytest.warns(UserWarning, match=f"Edges: pass '{kind.name}' .*; it is left out, which costs speed alone"):
        fast = simplified()
    assert_right(fast)
    assert len(said(fast, kind)) == 1
    assert kind.name not in [record.name for record in fast.report.records]
    assert not any(isinstance(pass_, kind) for entry in fast._toponas.passes for pass_ in (entry, *parts(entry)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast.is_other = True
        fast(image()), fast.eval()(image())  # it is not tried again


def parts(entry: Pass | Repeat) -> tuple[Pass, ...]:
    return entry.passes if isinstance(entry, Repeat) else ()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", NEEDED)
def test_a_pass_that_decides_what_the_model_is_leaves_it_as_written(
    kind: type[Pass], fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, kind)
    with pytest.warns(UserWarning, match=f"Edges runs as its user wrote it: pass '{kind.name}'"):
        fast = simplified()
    sharing = fast._toponas.sharing
    assert (sharing.ties, sharing.kernels) == ({}, {})
    original = model()
    assert list(dict(fast.named_parameters())) == list(dict(original.named_parameters()))
    for training in (True, False):
        expected = run(original.train(training), original, (image(),), original.parameters())
        assert_same(run(fast.train(training), fast, (image(),), fast.parameters()), expected, 1e-14)
    assert len(said(fast, kind)) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fault", [in_plan, broken_graph])
@pytest.mark.parametrize("kind", ALL)
def test_a_fault_in_a_later_capture_ends_no_search(
    kind: type[Pass], fault: Any, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = simplified(strict=False).train(training)
    before = fast(image())
    with monkeypatch.context() as patch:
        fault(patch, kind)
        fast.is_other = True
        with pytest.warns(UserWarning, match=f"pass '{kind.name}'") as caught:
            fast(image())
        assert len(caught) == 1
    assert len(said(fast, kind)) == 1
    fast.is_other = False
    torch.testing.assert_close(fast(image()), before, rtol=1e-9, atol=1e-9)
    fast.is_other = True
    assert_right(fast)


@pytest.mark.parametrize("kind", [passes.FoldWeights, passes.ShareModules])
def test_strict_models_raise_at_once_and_later(kind: type[Pass], monkeypatch: pytest.MonkeyPatch) -> None:
    fast = simplified(strict=True)
    in_plan(monkeypatch, kind)
    fast.is_other = True
    twin = copy.deepcopy(fast)
    for call in (lambda: simplified(strict=True), lambda: twin(image()), lambda: fast(image())):
        with pytest.raises(toponas_fx.PassError, match=FAULT):
            call()
    for name in ("TOPONAS_STRICT", "TOPONAS_DEBUG"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            with pytest.raises(toponas_fx.PassError, match=FAULT):
                simplified()


def test_copies_trust_a_failed_pass_no_more_either(monkeypatch: pytest.MonkeyPatch) -> None:
    in_plan(monkeypatch, passes.FoldWeights)
    with pytest.warns(UserWarning, match="fold-weights"):
        fast = simplified()
    twin = copy.deepcopy(fast)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        twin.is_other = True
        twin(image())
    assert not twin._toponas.is_strict


def test_a_failed_sharing_leaves_the_tree_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(model(), image(), mode="exact")
    names, seen = list(dict(fast.named_modules())), []

    def stop(self: Pass, gm: Any) -> Any:
        seen.append(dict(gm.meta["sharing"].ties))
        raise KeyboardInterrupt

    monkeypatch.setattr(passes.NormalizeKernels, "plan", stop)
    fast._toponas.passes, fast._toponas.sharing.is_decided, fast.is_other = PASSES, False, True
    with pytest.raises(KeyboardInterrupt):
        fast(image())
    assert seen[0]
    assert fast._toponas.sharing.ties == {}
    assert list(dict(fast.named_modules())) == names


def test_passes_without_a_group_that_is_left_empty() -> None:
    one, other, twin = passes.FoldWeights(), passes.Deduplicate(), passes.FoldWeights()
    assert one == twin
    assert without((one, Repeat(other, twin), Repeat(twin)), (twin,)) == (one, Repeat(other))
    assert not can_be_left_out(())
    assert can_be_left_out((one, other))
    assert not can_be_left_out((one, ALL[passes.ShareModules]))
    assert ALL[passes.ShareModules].semantics is Semantics.SHARES


def test_a_fault_in_what_is_told_of_edges_ends_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_sharing, "build_topology", fail)
    with pytest.warns(UserWarning, match=f"Edges: its edges are not told, for a fault of ours .*{FAULT}") as caught:
        fast = simplified()
    assert len(caught) == 1
    assert [note for note in fast.report.notes if FAULT in note]
    assert not fast.report.mixtures
    assert len(list(fast.parameters())) < len(list(model().parameters()))
    assert_right(fast)
    with pytest.raises(ZeroDivisionError, match=FAULT):
        simplified(strict=True)


class Drawn(nn.Module):
    """A candidate that was drawn, weighted, and the weights of the others, as GDAS adds them."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.convs = nn.Parameter(torch.randn(3)), nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        weights = self.alphas.softmax(0)
        taken = int(torch.multinomial(weights.detach(), 1))
        return sum(weights[i] * op(x) if i == taken else weights[i] for i, op in enumerate(self.convs))


def test_a_pass_on_drawn_paths_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    half_way(monkeypatch, passes.GatherBareWeights)
    torch.manual_seed(0)
    original = double(Drawn())
    with pytest.warns(UserWarning, match="Drawn: pass 'gather-bare-weights' .*; it is left out, which costs speed"):
        fast = toponas_fx.simplify(original, image())
    for seed in range(6):
        torch.manual_seed(seed)
        expected = original(image())
        torch.manual_seed(seed)
        torch.testing.assert_close(fast(image()), expected, rtol=1e-12, atol=1e-12)
