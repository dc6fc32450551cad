"""Settings that a model holds stay the objects that the trainer holds too, unless they lead to modules of the model."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image


class Settings:
    tau: float


class Slotted:
    __slots__ = ("tau",)


class Supernet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 5))
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0, 1.5]))
        self.held: Any = None
        self.double()

    def forward(self, x: Tensor) -> Any:
        weights = torch.softmax(self.alphas / find(self.held).tau, 0)
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))


OBJECTS: dict[str, Callable[[Any], Any]] = {
    "object": lambda held: held,
    "list": lambda held: [held],
    "dict": lambda held: {"held": (held,)},
    "partial": lambda held: functools.partial(getattr, held, "tau"),
    "in_an_object": lambda held: SimpleNamespace(inner=held),
}
"""How a model may hold settings."""


def find(value: Any) -> Any:
    """Return the settings in what holds them."""
    while not hasattr(value, "tau"):
        value = value.args[0] if isinstance(value, functools.partial) else value
        value = value["held"][0] if isinstance(value, dict) else value
        value = value[0] if isinstance(value, list) else getattr(value, "inner", value)
    return value


@pytest.mark.parametrize("kind", [Settings, Slotted, argparse.Namespace, SimpleNamespace])
@pytest.mark.parametrize("way", OBJECTS)
def test_settings_that_the_trainer_goes_on_setting(way: str, kind: Any) -> None:
    model, x, args = Supernet(), image(), kind()
    args.tau = 1.0
    model.held = OBJECTS[way](args)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert find(fast.held) is args, "set through the trainer's own reference, it must reach forward"
    before = fast(x)
    args.tau = 4.0
    assert not torch.equal(fast(x), before)
    assert_runs_like(fast, model, x)


def test_an_object_that_leads_to_modules_is_copied() -> None:
    model = Supernet()
    model.held = SimpleNamespace(tau=1.0, ops=[model.ops[0]], find=lambda: model.ops[1])
    fast = toponas_fx.simplify(model, image(), mode="exact")
    assert fast.held is not model.held
    assert fast.held.ops[0] is fast.ops[0]
