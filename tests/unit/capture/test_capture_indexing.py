"""Iterating, unpacking and indexing tensors, as mixed operations do with their weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import assert_runs_like, compiled, image, weights

ITERATIONS: dict[str, Any] = {
    "zip": lambda w, f: sum(v * t for v, t in zip(w, f, strict=False)),
    "unpack": lambda w, f: (lambda a, b, c: a * f[0] + b * f[1] + c * f[2])(*w),
    "enumerate": lambda w, f: sum(v * f[i] for i, v in enumerate(w)),
    "index": lambda w, f: sum(w[i] * f[i] for i in range(len(w))),
    "negative": lambda w, f: w[-1] * f[-1] + w[-2] * f[0],
    "slice": lambda w, f: sum(v * t for v, t in zip(w[1:], f[:2], strict=False)),
    "chunk": lambda w, f: sum(v * t for v, t in zip(w.unbind(0), f, strict=False)),
    "split": lambda w, f: sum(v * t for v, t in zip(w.split(1), f, strict=False)),
    "view": lambda w, f: (torch.stack(f) * w.view(-1, 1, 1, 1, 1)).sum(0),
    "einsum": lambda w, f: torch.einsum("i,inchw->nchw", w, torch.stack(f)),
    "mask": lambda w, f: w[torch.tensor([True, False, True])].sum() * f[0],
    "long": lambda w, f: w[torch.tensor([2, 0])][0] * f[0],
    "list_index": lambda w, f: w[[2, 0]][0] * f[0],
    "ellipsis": lambda w, f: w[..., 1] * f[1] + w[None, 0][0] * f[0],
}


@pytest.mark.parametrize("passes", [(), None], ids=["captured", "rewritten"])
@pytest.mark.parametrize("way", ITERATIONS)
def test_iterating_and_indexing_a_tensor(way: str, passes: Any) -> None:
    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = weights(3)

        def forward(self, x: Tensor) -> Tensor:
            return ITERATIONS[way](F.softmax(self.alphas, 0), [x, x.tanh(), x.sigmoid()])

    model, x = Supernet(), image(2, 2, 3)
    fast = compiled(model, x, passes=passes)
    assert_runs_like(fast, model, x)
    with torch.no_grad():
        model.alphas.copy_(torch.tensor([3.0, 0.0, -2.0]))
    assert_runs_like(fast, model, x)
