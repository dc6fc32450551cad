"""Weights that differ by sample are no scalars, though one sample has one of them: captured at batch 1, run at 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, image, weights


class Gated(nn.Module):
    """Two convolutions, weighted as a gate, or a draw, says for each sample."""

    def __init__(self, way: Callable[[Any, Tensor, list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).double()
        self.ops = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)]).double()
        self.alphas = weights(2)

    def forward(self, x: Tensor) -> Any:
        return self.way(self, x, [op(x) for op in self.ops])

    def row(self, x: Tensor) -> Tensor:
        return torch.softmax(self.gate(x), 1)


def summed(w: Tensor, terms: list[Tensor]) -> Any:
    return sum(w[:, i].view(-1, 1, 1, 1) * term for i, term in enumerate(terms))


WAYS: dict[str, Callable[[Any, Tensor, list[Tensor]], Any]] = {
    "views": lambda m, x, t: summed(m.row(x), t),
    "none": lambda m, x, t: sum(m.row(x)[:, i, None, None, None] * t[i] for i in range(2)),
    "stacked": lambda m, x, t: (m.row(x).t().view(2, -1, 1, 1, 1) * torch.stack(t)).sum(0),
    "stacked_after": lambda m, x, t: (m.row(x).view(-1, 2, 1, 1, 1) * torch.stack(t, 1)).sum(1),
    "expanded": lambda m, x, t: (m.row(x).view(-1, 2, 1, 1, 1).expand(-1, 2, 4, 6, 6) * torch.stack(t, 1)).sum(1),
    "split": lambda m, x, t: (torch.cat(t, 1).view(-1, 2, 4, 6, 6) * m.row(x).view(-1, 2, 1, 1, 1)).sum(1),
    "einsum": lambda m, x, t: torch.einsum("bk,kbchw->bchw", m.row(x), torch.stack(t)),
    "rows": lambda m, x, t: sum(w * term for w, term in zip(m.row(x).t()[..., None, None, None], t, strict=True)),
    "repeated": lambda m, x, t: summed(F.gumbel_softmax(m.alphas.repeat(x.size(0), 1)), t),
    "broadcast": lambda m, x, t: summed(m.alphas.softmax(0).expand(x.size(0), 2), t),
    "noise": lambda m, x, t: summed(torch.softmax(m.alphas + torch.randn(x.shape[0], 2).double(), 1), t),
    "drawn": lambda m, x, t: (lambda r: r * t[0] + (1 - r) * t[1])(x.new_empty(x.size(0), 1, 1, 1).uniform_()),
    "mean": lambda m, x, t: (m.row(x).mean(0).view(2, 1, 1, 1, 1) * torch.stack(t)).sum(0),
    "vector": lambda m, x, t: torch.einsum("k,kbchw->bchw", m.row(x).mean(0), torch.stack(t)),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_captured_with_one_sample(way: str) -> None:
    model = Gated(WAYS[way])
    fast = toponas_fx.simplify(model, image(1), mode="exact")
    for batch in (3, 1, 2):
        assert_runs_like(fast, model, image(batch))


def test_one_weight_for_all_samples_is_found_where_the_batch_shows_it() -> None:
    found = [toponas_fx.simplify(Gated(WAYS["mean"]), image(b), mode="exact").report.mixtures for b in (1, 2)]
    assert [len(mixtures) for mixtures in found] == [0, 1]
