"""Running statistics of equal norms that are taken away after ``simplify``: they count in one place, or not at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image

C = 4


class Mixed(nn.Module):
    """Two norms side by side, which see the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.BatchNorm2d(C, affine=False) for _ in range(2))
        self.alphas = nn.Parameter(torch.linspace(-0.5, 0.7, 2))
        self.double()

    def forward(self, x: Tensor) -> Any:
        """Mix."""
        return sum(w * op(x) for w, op in zip(torch.softmax(self.alphas, 0), self.ops, strict=True))


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("waits", [False, True])
def test_statistics_taken_away_count_nowhere(
    gone: tuple[int, ...], waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if waits:  # as on a GPU
        monkeypatch.setattr("toponas_fx.runtime.equal_statistics.waits", lambda tensor: True)
    model, x = Mixed(), image(channels=C)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast._toponas.programs[0].equal_norms
    for each in (model, fast):
        for op in map(each.ops.__getitem__, gone):
            op.running_mean = op.running_var = None
    assert_runs_like(fast, model, x)
    for mine, theirs in zip(fast.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
