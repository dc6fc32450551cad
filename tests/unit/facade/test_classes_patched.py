"""Functions put into torch's own classes, and modules whose class is swapped: seen before and after ``simplify``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from toponas_fx.module_tree.layers import _is_torchs, functions_of, is_leaf, is_of_torch

X = torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Edge(nn.Module):
    """Two candidates, mixed, drawn, or of which the model keeps the index."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.active = kind, 0
        self.alphas = nn.Parameter(torch.rand(3))
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, size, padding=size // 2), nn.BatchNorm2d(4)) for size in (1, 3)
        )
        self.ops.append(nn.AvgPool2d(3, 1, 1))

    def forward(self, x: Tensor) -> Any:
        if self.kind == "mixed":
            return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))
        index = int(torch.randint(3, ())) if self.kind == "drawn" else self.active
        return self.ops[index](x).relu()


def halved(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: function(*args) * 0.5


PATCHES = [
    (nn.Conv2d, "forward"),
    (nn.Conv2d, "_conv_forward"),
    (nn.AvgPool2d, "forward"),
    (nn.ReLU, "forward"),
    (nn.BatchNorm2d, "forward"),
    (nn.modules.batchnorm._BatchNorm, "forward"),
]


def assert_same(model: Any, fast: Any) -> None:
    for seed in range(6):
        for one in (model, fast):
            one.active = seed % 3
            one.zero_grad()
        x = X.clone().requires_grad_()  # of some paths nothing else wants a gradient
        torch.manual_seed(seed)
        expected = model(x)
        expected.square().sum().backward()
        torch.manual_seed(seed)
        found = fast(x)
        found.square().sum().backward()
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
        grads = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, parameter in fast.named_parameters():
            assert (parameter.grad is None) == (grads[name] is None), name
            assert parameter.grad is None or torch.allclose(parameter.grad, grads[name], rtol=1e-9, atol=1e-10), name


@pytest.mark.parametrize("kind", ["mixed", "drawn", "kept"])
@pytest.mark.parametrize(("owner", "name"), PATCHES, ids=lambda value: getattr(value, "__name__", value))
def test_a_function_in_a_class_of_torchs_counts_at_the_next_call(
    owner: type[nn.Module], name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Edge(kind).double()
    fast = toponas_fx.simplify(copy.deepcopy(model), X, mode="exact", audit=False)
    assert_same(model, fast)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, halved(getattr(owner, name)))
        assert_same(model, fast)
        later = toponas_fx.simplify(copy.deepcopy(model), X, mode="exact", audit=False)
        assert_same(model, later)
    assert_same(model, fast)
    assert_same(model, later)


class Halved(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * 0.5


class Counted(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


@pytest.mark.parametrize("hooked", [True, False])
@pytest.mark.parametrize("kind", ["mixed", "drawn", "kept"])
def test_the_class_of_any_module_counts_at_the_next_call(kind: str, hooked: bool) -> None:
    model = Edge(kind).double()
    if hooked:
        model.ops[2].register_forward_hook(lambda module, args, result: result * 2)
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X, mode="exact", audit=False)
    assert_same(model, fast)
    for one in (model, fast):
        one.ops[0].__class__ = Halved
    assert_same(model, fast)
    for one in (model, fast):
        one.ops[1][2].__class__ = Counted
    assert_same(model, fast)
    for one in (model, fast):
        one.ops[0].__class__ = nn.Sequential
    assert_same(model, fast)


def kinds(of: type[nn.Module]) -> set[type[nn.Module]]:
    return {of}.union(*map(kinds, of.__subclasses__()))


def test_all_of_torchs_layers_are_as_torch_made_them() -> None:
    found = [kind for kind in kinds(nn.Module) if is_of_torch(kind) and hasattr(nn, kind.__name__)]
    assert len(found) > 100
    deprecated = {"NLLLoss2d", "Container"}  # their functions are another library's
    for kind in found:
        assert kind.__name__ in deprecated or all(map(_is_torchs, functions_of(kind).values())), kind


def test_a_layer_is_whole_as_long_as_its_class_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_leaf(nn.Conv2d(1, 1, 1))
    monkeypatch.setattr(nn.Conv2d, "forward", halved(nn.Conv2d.forward))
    assert not is_leaf(nn.Conv2d(1, 1, 1))
    assert is_leaf(nn.Conv1d(1, 1, 1))
