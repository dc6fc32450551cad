"""Layers of a simplified model that the user prunes, or computes the weight of otherwise, after ``simplify``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import toponas_fx
from equality import assert_vertex, double
from exactness import image


class Supernet(nn.Module):
    """One mixed operation of three pairs of convolutions: the first of each is normalized, the others are shared."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))
        self.ops = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)) for k in (1, 3, 5)
        )
        double(self, eps=1e-12)

    def forward(self, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


class Ramp(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * torch.linspace(0.5, 2, weight.numel(), dtype=weight.dtype).view_as(weight)


def half(layer: Any) -> Tensor:
    return (torch.arange(layer.weight.numel()) % 3 > 0).view_as(layer.weight).double()


CHANGES: dict[str, Callable[[Any], Any]] = {
    "pruned": lambda layer: prune.custom_from_mask(layer, "weight", half(layer)),
    "pruned_for_good": lambda layer: prune.remove(prune.custom_from_mask(layer, "weight", half(layer)), "weight"),
    "weight_norm": lambda layer: setattr(weight_norm(layer), "weight_g", nn.Parameter(layer.weight_g.detach() * 2)),
    "spectral_norm": lambda layer: spectral_norm(layer).eval(),
    "parametrized": lambda layer: parametrize.register_parametrization(layer, "weight", Ramp()),
    "parametrized_norm": parametrizations.weight_norm,
    "plain": lambda layer: setattr(layer, "weight", Ramp()(layer._parameters.pop("weight").detach())),
    "zeros": lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.detach() * half(layer))),
}
"""What the user does to one layer."""


def change(way: str, layer: Any) -> None:
    torch.manual_seed(0)  # spectral_norm draws where it starts
    CHANGES[way](layer)


def at(model: nn.Module, candidate: int) -> None:
    model.get_parameter("alphas").data = torch.eye(3, dtype=torch.float64)[candidate]


@pytest.mark.parametrize("place", [0, 1], ids=["normalized", "shared"])
@pytest.mark.parametrize("way", CHANGES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:(?s).*runs as its user wrote it in a later call")
def test_a_changed_layer_is_seen(way: str, place: int) -> None:
    model = Supernet()
    fast = toponas_fx.simplify(model, image())
    assert fast._toponas.sharing.kernels.keys() == {f"ops.{i}.0.weight" for i in range(3)}
    assert {f"ops.{i}.1" for i in (1, 2)} <= fast._toponas.sharing.ties.keys()
    plain = toponas_fx.restore(fast)
    changed = [1] if place == 0 else [0, 1, 2]
    change(way, fast.ops[1][place])
    for index in changed:
        change(way, plain.ops[index][place])
    for candidate in (1, 0, 2):
        at(fast, candidate), at(plain, candidate)
        assert_vertex(fast, (image(),), 1e-8, [fast.alphas])
        assert torch.allclose(fast(image()), plain(image()), rtol=0, atol=1e-8)


@pytest.mark.parametrize("way", CHANGES)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_changed_layer_that_runs_by_itself_first(way: str) -> None:
    fast = toponas_fx.simplify(Supernet(), image())
    plain = copy.deepcopy(fast.ops[1][0])
    for layer in (plain, fast.ops[1][0]):
        change(way, layer)
    vars(plain).pop("_call_impl", None)
    found, expected = fast.ops[1](image()), fast.ops[1][1:](plain(image()))
    assert torch.allclose(found, expected, rtol=0, atol=1e-8)
