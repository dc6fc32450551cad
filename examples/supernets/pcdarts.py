"""PC-DARTS on the DARTS space: an edge mixes a part of its channels only, and edges have weights of their own.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search" (arXiv 1907.05737): 1/K of
the channels go through the candidates, the others past them (section 3.2); the edges into a node are weighted by a
softmax of their betas (section 3.3).

Shapes: as in `supernets.darts`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernets.darts import Cell, DARTSSupernet, MixedOp

K = 4
"""One in K channels goes through the candidates."""


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of f32[N,C,H,W] out: first those that come first in their group, then the second, and so on."""
    N, C, H, W = x.size()
    x = x.view(N, groups, C // groups, H, W)
    return torch.transpose(x, 1, 2).contiguous().view(N, -1, H, W)


class PartialMixedOp(MixedOp):
    """One edge, whose candidates see the first C/K channels; the other channels go past them, or through a pool."""

    def __init__(self, C: int, stride: int) -> None:
        if C % K:
            raise ValueError(f"one in {K} channels goes through the candidates: C must be a multiple, found {C}")
        super().__init__(C // K, stride)
        self.mp = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Mix the candidates of x, f32[N,C,H,W], by weights, f32[O]."""
        C = x.shape[1]
        xtemp, xtemp2 = x[:, : C // K], x[:, C // K :]
        temp1 = super().forward(xtemp, weights)  # f32[N,C/K,H/S,W/S]
        if temp1.shape[2] == x.shape[2]:
            ans = torch.cat([temp1, xtemp2], dim=1)
        else:
            ans = torch.cat([temp1, self.mp(xtemp2)], dim=1)
        return channel_shuffle(ans, K)  # f32[N,C,H/S,W/S]


class PartialCell(Cell):
    """A cell whose nodes sum their edges by weight."""

    mixed_op: ClassVar[type[MixedOp]] = PartialMixedOp

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, weights2: Tensor) -> Tensor:
        """Map f32[N,C_in,H,W] to f32[N,M*C,H/S,W/S]; weights is f32[E,O], weights2, of the edges, f32[E]."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(self._steps):
            s = sum(
                weights2[offset + j] * self._ops[offset + j](h, weights[offset + j]) for j, h in enumerate(states)
            )  # f32[N,C,H/S,W/S]
            offset += len(states)
            states.append(s)
        return torch.cat(states[-self._multiplier :], dim=1)


class PCDARTSSupernet(DARTSSupernet):
    """The whole supernet; arguments and methods are those of `DARTSSupernet`, C a multiple of K.

    Attributes:
        betas_normal: the weights of normal cells' edges before the softmax, f32[E]: a plain tensor.
        betas_reduce: those of reduction cells' edges.
    """

    cell: ClassVar[type[Cell]] = PartialCell

    def _initialize_alphas(self) -> None:
        super()._initialize_alphas()
        edges = len(self.alphas_normal)
        self.betas_normal = (1e-3 * torch.randn(edges)).requires_grad_()  # f32[E]
        self.betas_reduce = (1e-3 * torch.randn(edges)).requires_grad_()  # f32[E]
        self._arch_parameters += [self.betas_normal, self.betas_reduce]

    def forward(self, input: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], sides that all reductions halve evenly, to logits f32[N,num_classes]."""
        s0 = s1 = self.stem(input)
        for cell in self.cells:
            weights = F.softmax(self.alphas_reduce if cell.reduction else self.alphas_normal, dim=-1)  # f32[E,O]
            s0, s1 = s1, cell(s0, s1, weights, self._edge_weights(cell.reduction))
        out = self.global_pooling(s1)
        return self.classifier(out.view(out.size(0), -1))

    def _edge_weights(self, reduction: bool) -> Tensor:
        """Return the betas after a softmax over the edges into each node, f32[E]."""
        betas = self.betas_reduce if reduction else self.betas_normal
        start, end = 0, 2
        weights2 = F.softmax(betas[start:end], dim=-1)
        for states in range(3, self._steps + 2):
            start, end = end, end + states
            weights2 = torch.cat([weights2, F.softmax(betas[start:end], dim=-1)], dim=0)
        return weights2

    def _strengths(self, reduction: bool) -> Tensor:
        return super()._strengths(reduction) * self._edge_weights(reduction).unsqueeze(-1)
