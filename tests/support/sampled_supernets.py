"""Supernets whose loop says at each step which candidates run: by an architecture that is set, or by a mode."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

NODES = 3
NAMES = ("none", "skip", "conv_1x1", "conv_3x3", "pool")
EDGES = [(node, source) for node in range(1, NODES) for source in range(node)]


class Zero(nn.Module):
    """The candidate that cuts an edge."""

    is_zero = True

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class Architecture:
    """The candidate of each edge by name, node by node."""

    def __init__(self, nodes: Sequence[Sequence[tuple[str, int]]]) -> None:
        self.nodes = nodes

    @classmethod
    def of(cls, *names: str) -> Architecture:
        """Take one name an edge."""
        picked = dict(zip(EDGES, names, strict=True))
        return cls([[(picked[node, source], source) for source in range(node)] for node in range(1, NODES)])

    @classmethod
    def drawn(cls, generator: random.Random) -> Architecture:
        """Draw one."""
        return cls.of(*(generator.choice(NAMES) for _ in EDGES))


def _stage(C: int, kernel: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(C))


class Cell(nn.Module):
    """Three nodes and five candidates an edge, with a method for each way to run them."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.names = list(NAMES)
        self.edges = nn.ModuleDict(
            {
                f"{node}<-{source}": nn.ModuleList(
                    [Zero(), nn.Identity(), _stage(C, 1), _stage(C, 3), nn.AvgPool2d(3, 1, 1)]
                )
                for node, source in EDGES
            }
        )
        self.index = {key: index for index, key in enumerate(self.edges)}

    def mixed(self, x: Tensor, weights: Tensor) -> Any:
        states = [x]
        for node in range(1, NODES):
            inner = []
            for source in range(node):
                key = f"{node}<-{source}"
                row = zip(self.edges[key], weights[self.index[key]], strict=True)
                inner.append(sum(op(states[source]) * w for op, w in row))
            states.append(sum(inner))
        return states[-1]

    def drawn(self, x: Tensor) -> Any:
        states = [x]
        for node in range(1, NODES):
            picked = [random.choice(list(self.edges[f"{node}<-{source}"])) for source in range(node)]
            states.append(sum(op(states[source]) for source, op in enumerate(picked)))
        return states[-1]

    def chosen(self, x: Tensor, architecture: Any) -> Any:
        states = [x]
        for node in range(1, NODES):
            inner = []
            for name, source in architecture.nodes[node - 1]:
                inner.append(self.edges[f"{node}<-{source}"][self.names.index(name)](states[source]))
            states.append(sum(inner))
        return states[-1]


class _Supernet(nn.Module):
    def __init__(self, C: int = 4, cells: int = 2, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList([Cell(C) for _ in range(cells)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C, classes)

    def run(self, cell: Cell, x: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        for cell in self.cells:
            x = self.run(cell, x)
        out = self.pool(x).flatten(1)
        return out, self.classifier(out)


class ArchitectureSet(_Supernet):
    """The loop sets one architecture a step; there is none before (random search with weight sharing, ENAS)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.architecture: Any = None

    def set_architecture(self, architecture: Any) -> None:
        self.architecture = architecture

    def run(self, cell: Cell, x: Tensor) -> Any:
        return cell.chosen(x, self.architecture)


class ArchitectureMissing(ArchitectureSet):
    """The attribute itself is made by the setter."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.architecture


class ArchitectureAsserted(ArchitectureSet):
    """Forward says itself what it lacks."""

    def run(self, cell: Cell, x: Tensor) -> Any:
        assert self.architecture is not None, "call set_architecture first"
        return cell.chosen(x, self.architecture)


class ModeSet(_Supernet):
    """The loop sets a mode: drawn candidates, a chosen architecture, or all of them mixed (SETN)."""

    def __init__(self, mode: str = "drawn", **options: Any) -> None:
        super().__init__(**options)
        self.alphas = nn.Parameter(1e-3 * torch.randn(len(EDGES), len(NAMES)))
        self.mode = mode
        self.architecture: Any = None

    def set_mode(self, mode: str, architecture: Any = None) -> None:
        self.mode, self.architecture = mode, architecture

    def run(self, cell: Cell, x: Tensor) -> Any:
        if self.mode == "drawn":
            return cell.drawn(x)
        if self.mode == "chosen":
            return cell.chosen(x, self.architecture)
        return cell.mixed(x, self.alphas.softmax(-1))
