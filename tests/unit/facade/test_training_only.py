"""Supernets whose forward works in training alone: simplified for that, and evaluation raises what it did."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class TrainingOnly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.rand(2))
        self.ops = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            raise ValueError("only supports training")
        return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_it_is_simplified_for_training(mode: str) -> None:
    model = TrainingOnly()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X, mode=mode)
    assert not fast._toponas.as_written
    assert fast.training
    if mode == "exact":
        torch.testing.assert_close(fast(X), model(X))
    fast(X).sum().backward()
    with pytest.raises(ValueError, match="only supports training"):
        fast.eval()(X)
    runs = fast._toponas.runs
    fast.train()(X)
    assert fast._toponas.runs == runs + 1


def test_what_fails_in_training_fails_at_once() -> None:
    class Never(TrainingOnly):
        def forward(self, x: Tensor) -> Any:
            raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        toponas_fx.simplify(Never(), X)
