"""Networks of one plain candidate per edge: what a step over a supernet's wiring costs where nothing is mixed.

They are the floor that a supernet's step is compared with: the stem, the cells, their nodes and edges and the
classifier are those of the supernets, but each edge is one candidate and nothing weighs it.

Shapes: as in `supernets.nasbench201` and `supernets.darts`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from supernets.nasbench201 import EDGES, NODES, ReLUConvBN, ResidualReduction
from supernets.primitives import preprocess, primitive


class PlainSearchCell(nn.Module):
    """A NAS-Bench-201 cell with a 3x3 convolution on every edge."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({edge: ReLUConvBN(C, C, 3, affine=False) for edge in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        """Map f32[N,C,H,W] to the same shape."""
        nodes = [x]
        for i in range(1, NODES):
            nodes.append(sum(self.edges[f"{i}<-{j}"](nodes[j]) for j in range(i)))
        return nodes[-1]  # f32[N,C,H,W]


class SinglePathNASBench201(nn.Module):
    """Every edge of a NAS-Bench-201 network is nor_conv_3x3."""

    def __init__(self, C: int = 16, N: int = 2, num_classes: int = 10, in_channels: int = 3) -> None:
        """Make a network with random weights; the arguments are those of `NASBench201Supernet`."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList()
        for stage in range(3):
            C_stage = C * 2**stage
            if stage > 0:
                self.cells.append(ResidualReduction(C_stage // 2, C_stage))
            self.cells.extend(PlainSearchCell(C_stage) for _ in range(N))
        self.lastact = nn.Sequential(nn.BatchNorm2d(4 * C), nn.ReLU())
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(4 * C, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def arch_parameters(self) -> list[Tensor]:
        """Return nothing: there is no architecture to search."""
        return []


class PlainCell(nn.Module):
    """A DARTS cell with one primitive on every edge."""

    def __init__(
        self, name: str, steps: int, C_in: tuple[int, int], C: int, reduction: bool, reduction_prev: bool
    ) -> None:
        super().__init__()
        self._steps = steps
        self.preprocess0 = preprocess(C_in[0], C, halves=reduction_prev)
        self.preprocess1 = preprocess(C_in[1], C, halves=False)
        self._ops = nn.ModuleList()
        for states in range(2, steps + 2):
            self._ops.extend(primitive(name, C, 2 if reduction and j < 2 else 1) for j in range(states))

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        """Map the two cells before, f32[N,C_in,H,W], to all nodes side by side, f32[N,steps*C,H/S,W/S]."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(self._steps):
            s = sum(self._ops[offset + j](h) for j, h in enumerate(states))  # f32[N,C,H/S,W/S]
            offset += len(states)
            states.append(s)
        return torch.cat(states[2:], dim=1)


class SinglePathDARTS(nn.Module):
    """Every edge of a DARTS network is the same primitive."""

    def __init__(self, name: str, C: int = 16, layers: int = 8, num_classes: int = 10, steps: int = 4) -> None:
        """Make a network with random weights.

        Args:
            name: one of `supernets.primitives.PRIMITIVES`.
            C: channels of the first cell; each reduction cell doubles them.
            layers: cells; those after one and two thirds are reductions.
            num_classes: outputs of the classifier.
            steps: nodes a cell, all of which make its output.
        """
        super().__init__()
        C_stem = 3 * C
        self.stem = nn.Sequential(nn.Conv2d(3, C_stem, 3, padding=1, bias=False), nn.BatchNorm2d(C_stem))
        self.cells = nn.ModuleList()
        C_in, reduction_prev = (C_stem, C_stem), False
        for index in range(layers):
            reduction = index in (layers // 3, 2 * layers // 3)
            C *= 2 if reduction else 1
            self.cells.append(PlainCell(name, steps, C_in, C, reduction, reduction_prev))
            C_in, reduction_prev = (C_in[1], steps * C), reduction
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C_in[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,3,H,W], sides that all reductions halve evenly, to logits f32[N,num_classes]."""
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        x = self.global_pooling(s1)
        return self.classifier(x.view(x.size(0), -1))

    def arch_parameters(self) -> list[Tensor]:
        """Return nothing: there is no architecture to search."""
        return []
