"""Supernets to draw: one as a user might write it, with names that would break out of a page, and smaller ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

HOSTILE = "</script><img src=x onerror=alert(1)>"
C = 4


def conv(size: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(C, C, size, padding=size // 2, bias=False), nn.BatchNorm2d(C))


class Choice(nn.Module):
    """An edge whose candidates have names of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleDict({"wide": conv(5), HOSTILE: conv(3), "pass & go": nn.Identity()})

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * path(x) for w, path in zip(weights, self.paths.values(), strict=True))


class Stage(nn.Module):
    """A cell: the last of its three nodes reads the two before it."""

    def __init__(self) -> None:
        super().__init__()
        self.choices = nn.ModuleList(Choice() for _ in range(3))

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        first = self.choices[0](x, weights[0])
        return self.choices[1](x, weights[1]) + self.choices[2](first, weights[2])


class OwnSupernet(nn.Module):
    """Two stages with a convolution between them, sigmoid gates instead of a softmax, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.body = nn.ModuleDict({"<b>early</b>": Stage(), "late": Stage()})
        self.between = nn.Conv2d(C, C, 3, stride=2, padding=1)
        self.gates = nn.Parameter(torch.linspace(-2.0, 2.0, 9).view(3, 3))
        self.temperature = 1.0
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.gates / self.temperature)
        early, late = self.body.values()
        x = late(self.between(early(self.stem(x), weights)), weights)
        return self.head(x.mean((2, 3)))


class Sampled(nn.Module):
    """Runs one of its paths only, another in each step, and by no index."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(3, C, size, padding=size // 2) for size in (1, 3))
        self.alphas = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        place = int(torch.rand(()) < self.alphas.softmax(0)[1])
        return self.paths[place](x)


class Plain(nn.Module):
    """Has no mixed operation."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, C, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class Gated(nn.Module):
    """Computes its weights from the input: they belong to no architecture."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList([nn.Conv2d(3, C, 1), nn.Conv2d(3, C, 3, padding=1)])
        self.gate = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x.mean((0, 2, 3))).softmax(0)
        return sum(w * path(x) for w, path in zip(weights, self.paths, strict=True))
