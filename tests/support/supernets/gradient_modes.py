"""Supernets in which parts of forward run without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from idiom import C, Expected, Idiom, conv, dilated, edges, mix, parameter, separable


class WithoutGradient(nn.Module):
    """Runs what it wraps without a gradient."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return self.op(x)


class FrozenCandidates(Idiom):
    """Some candidates run under ``torch.no_grad``: they share with none that has gradients (ProxylessNAS)."""

    expected = Expected(2, (18, 18), (10, 10))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = parameter(2, 5)
        self.edges = nn.ModuleList(
            nn.ModuleList(
                [
                    *map(WithoutGradient, (conv(1, affine=True), nn.Conv2d(C, C, 1), dilated(5))),
                    *(conv(3, affine=True), separable(3)),
                ]
            )
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
            x = mix(w, ops, x)
        return x


class FrozenEdge(Idiom):
    """One edge runs under ``torch.no_grad``; another is alike."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def forward(self, x: Tensor) -> Tensor:
        w = self.alphas.softmax(-1)
        with torch.no_grad():
            frozen = mix(w[0], self.edges[0], x)
        return torch.cat([frozen, mix(w[1], self.edges[1], x)], dim=1)


class FrozenUnlessTraining(Idiom):
    """``set_grad_enabled(self.training)`` around the cells: evaluation gives no gradient to their weights."""

    expected = Expected(2, (5, 3), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges, self.head = parameter(2, 4), edges(), nn.Conv2d(C, 3, 1)

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(self.training):
            for w, ops in zip(self.alphas.softmax(-1), self.edges, strict=True):
                x = mix(w, ops, x)
        return self.head(x).mean((2, 3))


class WeightsWithoutGradient(Idiom):
    """Weights for the first edge are made under ``no_grad``, those of the second are detached (alternating steps)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            first = self.alphas[0].softmax(0)
        return mix(self.alphas[1].softmax(0).detach(), self.edges[1], mix(first, self.edges[0], x))
