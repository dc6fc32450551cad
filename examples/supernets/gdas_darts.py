"""GDAS on the DARTS space: each forward pass computes one sampled candidate an edge of normal and reduction cells.

Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours" (arXiv 1910.04465), section 3.2, equations
3 to 7: an edge takes the argmax of a Gumbel softmax of its alphas at temperature tau. All normal cells of a forward
pass take the same candidates, and so do all reduction cells. The output of the candidate taken is multiplied by its
hard weight, which is 1, and through which the backward pass reaches the softmax and with it all alphas of the edge.

Shapes: as in `supernets.darts`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from supernets.darts import Cell, DARTSSupernet
from supernets.gdas import hard_gumbel_softmax


class SampledCell(Cell):
    """A DARTS cell that computes one candidate an edge; made as `Cell` is."""

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, index: Tensor) -> Tensor:
        """Map the two cells before to all nodes side by side.

        Args:
            s0: output of the cell before the last, f32[N,C_in,H,W].
            s1: output of the last cell, likewise.
            weights: hard weights, f32[E,O].
            index: the candidate taken on each edge, i64[E,1].

        Returns:
            The cell's output, f32[N,M*C,H/S,W/S].
        """
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(self._steps):
            terms = []
            for edge, h in enumerate(states, start=offset):
                taken = index[edge].item()
                terms.append(weights[edge, taken] * self._ops[edge]._ops[taken](h))  # f32[N,C,H/S,W/S]
            offset += len(states)
            states.append(sum(terms))
        return torch.cat(states[-self._multiplier :], dim=1)


class GDASDARTSSupernet(DARTSSupernet):
    """The whole supernet; arguments and methods are those of `DARTSSupernet`.

    Attributes:
        tau: the temperature, which searches anneal from 10 to 0.1.
    """

    cell = SampledCell

    def __init__(self, *args: Any, tau: float = 10.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tau = tau

    def set_tau(self, tau: float) -> None:
        """Set the temperature: high makes the candidates equally likely to be taken, and low follows the alphas."""
        self.tau = tau

    def forward(self, input: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], sides that all reductions halve evenly, to logits f32[N,num_classes]."""
        normal = hard_gumbel_softmax(self.alphas_normal, self.tau)
        reduce = hard_gumbel_softmax(self.alphas_reduce, self.tau)
        s0 = s1 = self.stem(input)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1, *(reduce if cell.reduction else normal))
        out = self.global_pooling(s1)
        return self.classifier(out.view(out.size(0), -1))

    def new(self) -> GDASDARTSSupernet:
        """Return a network of the same configuration with fresh weights, a copy of the alphas and the temperature."""
        network = super().new()
        network.tau = self.tau
        return network
