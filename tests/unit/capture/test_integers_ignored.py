"""Integers that forward is given and does not read: a path that is longer than the model, the number of an epoch."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

X = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Paths(nn.Module):
    """Two edges; a path may have more numbers, and a trainer gives the epoch with it."""

    def __init__(self, reads: str = "") -> None:
        super().__init__()
        self.reads = reads
        self.edges = nn.ModuleList(
            nn.ModuleList([nn.Identity(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)]) for _ in range(2)
        )

    def forward(self, x: Tensor, path: Any, epoch: int = 0) -> Tensor:
        for edge, index in zip(self.edges, path, strict=False):
            x = edge[index](x).relu()
            if self.reads == "all" or (self.reads == "one" and index == 2):
                x = x / (1 + epoch)
        return x


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("length", "epochs"), [(3, False), (2, True), (5, True)])
def test_paths_are_compiled_whatever_they_ignore(length: int, epochs: bool, share: bool) -> None:
    model = Paths().double()
    first = (X, [0] * length, 0) if epochs else (X, [0] * length)
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), first, share_sampled=share)
    for epoch in range(30):
        path = [random.randrange(3) for _ in range(length)]
        given = (X, path, epoch) if epochs else (X, path)
        found = fast(*given)
        assert torch.allclose(found, model(*given), rtol=1e-10, atol=1e-12)
    assert not fast._toponas.as_written
    assert len(fast._toponas.programs) < 5
    assert fast._toponas.runs > 25


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize("reads", ["all", "one"])
def test_an_integer_that_some_path_reads_is_right(reads: str) -> None:
    model = Paths(reads).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), (X, [0, 0], 0), audit=False)
    for epoch in range(30):
        given = (X, [random.randrange(3) for _ in range(2)], epoch)
        assert torch.allclose(fast(*given), model(*given), rtol=1e-10, atol=1e-12)
