"""Which tensors a capture reads, and from where: by identity, afresh at every run, by the path that forward took."""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from exactness import assert_runs_like, compiled, image, left_as_written, no_capture, weights
from toponas_fx.capture.values import ValueTable

KINDS = ("parameter", "buffer", "tensor", "list", "tuple", "dict", "nested", "object", "parameter_list", "below")


class Mixed(nn.Module):
    """One mixed operation of two candidates, whose weights are kept in one of many ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(4, 4, 3, padding=1).double()
        alphas = weights(2)
        if kind == "parameter":
            self.alphas = nn.Parameter(alphas.detach())
        elif kind == "buffer":
            self.register_buffer("alphas", alphas.detach())
        elif kind == "parameter_list":
            self.alphas = nn.ParameterList([alphas.detach()])
        elif kind == "below":
            self.conv.alphas = alphas
        else:
            self.alphas = {
                "tensor": alphas,
                "list": [None, alphas],
                "tuple": (0.5, alphas),
                "dict": {"normal": alphas, ("edge", 1): 3},
                "nested": [{"cells": (alphas,)}],
                "object": SimpleNamespace(store=[alphas]),
            }[kind]

    def held(self) -> Tensor:
        found: Any = self.conv.alphas if self.kind == "below" else self.alphas
        steps: dict[str, Any] = {
            "list": lambda: found[-1],
            "tuple": lambda: found[1],
            "dict": lambda: found["normal"],
            "nested": lambda: found[0]["cells"][0],
            "object": lambda: found.store[0],
            "parameter_list": lambda: found[0],
        }
        return steps.get(self.kind, lambda: found)()

    def forward(self, x: Tensor) -> Tensor:
        w = torch.softmax(self.held(), dim=-1)
        return w[0] * self.conv(x) + w[1] * torch.tanh(x)


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_read_where_they_live(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Mixed(kind), image()
    fast = compiled(model, x)
    assert fast.held() is model.held()
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, x)
        before = fast(x)
        with torch.no_grad():
            model.held().add_(torch.tensor([2.0, -1.0]))
        assert not torch.allclose(fast(x), before), "the weights were frozen"
        assert_runs_like(fast, model, x)
        with torch.no_grad():
            model.conv.weight.mul_(3)
        assert_runs_like(fast, model, x)


def test_plain_symbolic_trace_freezes_what_simplify_reads() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = weights(2)

        def forward(self, x: Tensor) -> Tensor:
            w = torch.softmax(self.alphas, dim=-1)
            return w[0] * torch.relu(x) + w[1] * torch.tanh(x)

    model, x = Alone(), image()
    fast = compiled(model, x)
    traced = fx.symbolic_trace(Alone())
    before = traced(x)
    with torch.no_grad():
        model.alphas.add_(torch.tensor([2.0, -1.0]))
    assert torch.equal(traced(x), before)
    assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    assert not torch.allclose(fast(x), before)


def test_second_backward_and_create_graph() -> None:
    model, x = Mixed("tensor"), image(2, 4, 4)
    fast = compiled(model, x)
    for _ in range(2):
        found, expected = (
            torch.autograd.grad(
                torch.autograd.grad(call(x).square().sum(), model.alphas, create_graph=True)[0].sum(),
                [model.alphas, model.conv.weight],
            )
            for call in (fast, model)
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


class Aliased(nn.Module):
    """Two names for one tensor, as DARTS keeps ``_arch_parameters`` beside the attributes."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.alphas = weights(2)
        self._arch_parameters = [self.alphas]

    def forward(self, x: Tensor) -> Tensor:
        total = 0.0 * x
        if self.way in ("list", "both"):
            total = total + self._arch_parameters[0][0] * torch.relu(x)
        if self.way in ("attribute", "both"):
            total = total + self.alphas[1] * torch.tanh(x)
        return total


@pytest.mark.parametrize("way", ["list", "attribute", "both"])
def test_the_path_that_forward_reads_is_the_path_that_is_rebound(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Aliased(way), image()
    fast = compiled(model, x)
    with no_capture(monkeypatch):
        for rebound in ("alphas", "_arch_parameters"):
            for m in (fast, model):
                fresh = weights(2, seed=7)
                setattr(m, rebound, fresh if rebound == "alphas" else [fresh])
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12), rebound


def test_a_property_is_read_through() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._alphas = {"normal": weights(2)}

        @property
        def raw(self) -> Tensor:
            return self._alphas["normal"]

        @property
        def weights(self) -> Tensor:
            return torch.softmax(self.raw, -1)

        def forward(self, x: Tensor) -> Tensor:
            return self.weights[0] * x + self.weights[1] * x.tanh()

    model, x = Supernet(), image()
    fast = compiled(model, x)
    assert_runs_like(fast, model, x)
    for m in (fast, model):
        m._alphas["normal"] = torch.ones(2, dtype=torch.float64)
    assert_runs_like(fast, model, x)


def test_module_paths_that_are_no_identifiers() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edges = nn.ModuleDict(
                {"1<-0": nn.ModuleDict({"None": nn.Conv2d(4, 4, 1), "a": nn.Tanh()}), "2<-0": nn.Linear(6, 6)}
            )
            self.alphas = nn.ParameterDict(
                {"1<-0": torch.zeros(2), "for": torch.ones(1), "for_": torch.ones(1)}
            ).double()

        def forward(self, x: Tensor) -> Tensor:
            w = self.alphas["1<-0"]
            node = sum(w[i] * op(x) for i, op in enumerate(self.edges["1<-0"].values()))
            return (
                node
                + self.edges["2<-0"](x) * self.alphas["for"] * self.alphas["for_"]
                + self.edges["2<-0"].weight.sum()
            )

    model, x = Supernet().double(), image()
    assert_runs_like(compiled(model, x), model, x)


def test_keys_that_code_cannot_spell() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = {nn.ReLU: weights(1), "tanh": weights(1)}

        def forward(self, x: Tensor) -> Tensor:
            return self.alphas[nn.ReLU] * x.relu() + self.alphas["tanh"] * x.tanh()

    model, x = Supernet(), image()
    assert_runs_like(left_as_written(model, x, reason="comes neither from the model nor"), model, x)


def test_weights_outside_the_model_are_not_frozen() -> None:
    outside = weights(1)

    class Supernet(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return outside * x

    model, x = Supernet(), image()
    fast = left_as_written(model, x, reason="comes neither from the model nor")
    with torch.no_grad():
        outside.mul_(2)
    assert torch.equal(fast(x), outside * x)


def test_expanded_and_integer_tensors_of_the_model() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask = torch.ones(1, dtype=torch.float64).expand(4)
            self.order = torch.tensor([1, 0, 3, 2])

        def forward(self, x: Tensor) -> Tensor:
            return x[:, self.order] * self.mask.view(1, -1, 1, 1)

    model, x = Supernet(), image()
    assert_runs_like(compiled(model, x), model, x)


def test_one_tensor_given_twice_and_a_tensor_of_the_model_given() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = weights(2)

        def forward(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
            return x * w[0] + 2 * y * w[1] + 3 * self.alphas.sum()

    model, x, y = Supernet(), image(), image(seed=5)
    fast = compiled(model, x, x, model.alphas)
    assert_runs_like(fast, model, x, y, weights(2, seed=9))
    assert_runs_like(fast, model, x, x, model.alphas)


def test_shape_of_weights_is_part_of_what_was_seen() -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = weights(2)
            self.groups = [weights(1)]

        def forward(self, x: Tensor) -> Tensor:
            tanhs = [x.tanh(), x.sigmoid(), x.cos()]
            total = sum(w * t for w, t in zip(self.alphas, tanhs, strict=False))
            return total + self.groups[0].numel() * x

    model, x = Supernet(), image()
    fast = toponas_fx.simplify(model, x, mode="exact")
    for m in (fast, model):
        m.alphas = weights(3)
    assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    for m in (fast, model):
        m.groups[0] = weights(4)
    assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)


class Dropping(nn.Module):
    """Drops what it no longer needs, and looks whether that goes."""

    def forward(self, x: Tensor) -> Tensor:
        for factor in range(20):
            dropped = x * factor
            watch = weakref.ref(dropped)
            x = dropped + 1
            del dropped
            assert watch() is None, "kept alive"
        return x


def test_what_forward_drops_is_not_kept_and_its_identity_may_come_back() -> None:
    model = Dropping()
    fast = compiled(model, image())
    assert_runs_like(fast, model, image(seed=3))


def test_a_dropped_tensor_s_identity_stands_for_nothing() -> None:
    table = ValueTable(nn.Module())
    tensor = torch.zeros(2)
    table.bind(tensor, table.graph.placeholder("x"))
    assert table.argument(tensor).name == "x"
    identity = id(tensor)
    del tensor
    assert identity not in table._nodes
