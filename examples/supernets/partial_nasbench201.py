"""Partial channels on the NAS-Bench-201 space: what PC-DARTS does to DARTS, done to this supernet.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search" (arXiv 1907.05737): 1/K of
the channels go through the candidates, the others past them (section 3.2); the edges into a node are weighted by a
softmax of their betas (section 3.3).

Shapes: as in `supernets.nasbench201`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.nasbench201 import EDGES, NODES, MixedOp, NASBench201Supernet, SearchCell
from supernets.pcdarts import K, channel_shuffle


class PartialMixedOp(MixedOp):
    """One edge, whose candidates see the first C/K channels; the other channels go past them."""

    def __init__(self, C: int, affine: bool, track_running_stats: bool, conv_bias: bool) -> None:
        if C % K:
            raise ValueError(f"one in {K} channels goes through the candidates: C must be a multiple, found {C}")
        super().__init__(C // K, affine, track_running_stats, conv_bias)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of x, f32[N,C,H,W], by weights, f32[O]."""
        C = x.shape[1]
        mixed = super().forward(x[:, : C // K], weights)  # f32[N,C/K,H,W]
        return channel_shuffle(torch.cat([mixed, x[:, C // K :]], dim=1), K)  # f32[N,C,H,W]


class PartialCell(SearchCell):
    """A cell whose nodes sum their edges by weight."""

    mixed_op: ClassVar[type[MixedOp]] = PartialMixedOp

    def forward(self, x: Tensor, weights: Tensor, edge_weights: Tensor) -> Tensor:
        """Map f32[N,C,H,W] to the same shape; weights is f32[E,O], edge_weights f32[E], in the order of `EDGES`."""
        nodes = [x]
        for i in range(1, NODES):
            found = [(j, EDGES.index(f"{i}<-{j}")) for j in range(i)]
            nodes.append(sum(edge_weights[e] * self.edges[EDGES[e]](nodes[j], weights[e]) for j, e in found))
        return nodes[-1]  # f32[N,C,H,W]


class PartialNASBench201Supernet(NASBench201Supernet):
    """The whole supernet; arguments and methods are those of `NASBench201Supernet`, C a multiple of K.

    Attributes:
        betas: the weights of the edges before the softmax, f32[E], shared by all cells.
    """

    cell: ClassVar[type[SearchCell]] = PartialCell

    def __init__(self, C: int = 16, N: int = 2, num_classes: int = 10, in_channels: int = 3, **options: Any) -> None:
        super().__init__(C, N, num_classes, in_channels, **options)
        self.betas = nn.Parameter(1e-3 * torch.randn(len(EDGES)))  # f32[E]

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        weights = F.softmax(self.alphas, dim=-1)  # f32[E,O]
        into = self.betas.split([*range(1, NODES)])  # the edges into each node
        edge_weights = torch.cat([F.softmax(betas, dim=-1) for betas in into])  # f32[E]
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = cell(x, weights, edge_weights) if isinstance(cell, SearchCell) else cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def arch_parameters(self) -> list[Tensor]:
        """Return the tensors that the architecture's optimizer trains."""
        return [self.alphas, self.betas]

    def new(self) -> PartialNASBench201Supernet:
        """Return a network of the same configuration with fresh weights and a copy of the alphas and betas."""
        network = PartialNASBench201Supernet(**self.config).to(self.classifier.weight)
        network.alphas.data = self.alphas.data.clone()
        network.betas.data = self.betas.data.clone()
        return network
