"""Layers with normalized kernels that are copied, moved and exchanged within a shared model: it stays one function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import toponas_fx


def branch(size: int, channels: int = 4) -> nn.Sequential:
    convolution = nn.Conv2d(channels, channels, size, padding=size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.ModuleList([nn.Identity(), branch(1), branch(3)]) for _ in range(3))
        self.alphas = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = sum(w * op(x) for w, op in zip(self.alphas.softmax(-1), cell, strict=True))  # type: ignore[arg-type]
        return x.mean((2, 3))


def append(fast: Any) -> None:
    fast.cells.append(copy.deepcopy(fast.cells[-1]))


def insert(fast: Any) -> None:
    fast.cells.insert(0, copy.deepcopy(fast.cells[2]))


def replace(fast: Any) -> None:
    fast.cells[1] = copy.deepcopy(fast.cells[1])


def replace_layer(fast: Any) -> None:
    fast.cells[1][2][1] = copy.deepcopy(fast.cells[1][2][1])


def exchange(fast: Any) -> None:
    fast.cells[0], fast.cells[2] = fast.cells[2], fast.cells[0]


def exchange_layers(fast: Any) -> None:
    fast.cells[0][2][1], fast.cells[2][2][1] = fast.cells[2][2][1], fast.cells[0][2][1]


def set_new(fast: Any) -> None:
    fast.cells[1][2][1] = nn.Conv2d(4, 4, 3, padding=1, bias=False).double()


def pruned(fast: Any) -> None:
    prune.l1_unstructured(fast.cells[1][2][1], "weight", amount=0.3)


CHANGES: tuple[Callable[[Any], None], ...] = (
    append,
    insert,
    replace,
    replace_layer,
    exchange,
    exchange_layers,
    set_new,
)
X = torch.randn(3, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("candidate", [0, 1, 2])
@pytest.mark.parametrize("change", [*CHANGES, pruned])
def test_it_agrees_with_reference_and_restore(change: Callable[[Any], None], candidate: int) -> None:
    fast: Any = toponas_fx.simplify(Net().double(), X, audit=False)
    change(fast)
    with torch.no_grad():
        fast.alphas.fill_(-1e5)[candidate] = 1e5
    fast.train()
    for _ in range(10):
        fast(torch.randn(4, 4, 6, 6, dtype=torch.float64))
    fast.eval()
    found = fast(X)
    torch.testing.assert_close(found, fast.reference(X), rtol=1e-9, atol=1e-11)
    if change is not pruned:  # whose hook writes the kernel: it runs as written
        torch.testing.assert_close(found, toponas_fx.restore(fast).eval()(X), rtol=1e-9, atol=1e-11)
        assert not fast._toponas.as_written


@pytest.mark.parametrize("change", [append, insert, replace, replace_layer, exchange, exchange_layers])
def test_a_copied_layer_computes_as_the_one_it_was_made_from(change: Callable[[Any], None]) -> None:
    fast: Any = toponas_fx.simplify(Net().double(), X, audit=False)
    change(fast)
    fast(X)
    assert len(fast._toponas.sharing.kernels) == 2 * len(fast.cells)
    kernel = fast.cells[1][2][1].weight
    before, reference = fast.eval()(X), fast.reference(X)
    with torch.no_grad():
        kernel.mul_(10)
    torch.testing.assert_close(fast(X), before, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(fast.reference(X), reference, rtol=1e-9, atol=1e-11)
