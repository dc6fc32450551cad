"""GDAS on the NAS-Bench-201 space: each forward pass computes one sampled candidate an edge.

Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours" (arXiv 1910.04465), section 3.2: the
candidate is the argmax of a Gumbel softmax at temperature tau; its weight is 1 in the forward pass, and the backward
pass sees the softmax. A candidate not taken adds its weight, which is 0, so that alphas learn of it.

Shapes: as in `supernets.nasbench201`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from supernets.nasbench201 import EDGES, NODES, NASBench201Supernet, SearchCell


def hard_gumbel_softmax(alphas: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Draw a candidate an edge at a temperature.

    Args:
        alphas: architecture weights before the softmax, f32[E,O].
        tau: the temperature.

    Returns:
        Hard weights with the gradient of soft ones, f32[E,O], and the candidates taken, i64[E,1].
    """
    while True:
        gumbels = -torch.empty_like(alphas).exponential_().log()
        soft = F.softmax((F.log_softmax(alphas, dim=-1) + gumbels) / tau, dim=-1)
        if not (torch.isinf(gumbels).any() or torch.isnan(soft).any()):
            break
    index = soft.argmax(dim=-1, keepdim=True)
    hard = torch.zeros_like(soft).scatter_(-1, index, 1.0)
    return hard - soft.detach() + soft, index


def sampled_cell(cell: SearchCell, x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """Compute a cell by one candidate an edge.

    Args:
        cell: the cell with all candidates.
        x: its input, f32[N,C,H,W].
        weights: hard weights, a row an edge in the order of `EDGES`, f32[E,O].
        index: the candidate taken on each edge, i64[E,1].

    Returns:
        The cell's output, of x's shape.
    """
    nodes = [x]
    for i in range(1, NODES):
        inter_nodes = []
        for j in range(i):
            edge = EDGES.index(f"{i}<-{j}")
            w, argmax = weights[edge], index[edge].item()
            ops = cell.edges[EDGES[edge]]._ops
            inter_nodes.append(sum(w[k] * op(nodes[j]) if k == argmax else w[k] for k, op in enumerate(ops)))
        nodes.append(sum(inter_nodes))
    return nodes[-1]  # f32[N,C,H,W]


class GDASSupernet(NASBench201Supernet):
    """The whole supernet; arguments and methods are those of `NASBench201Supernet`.

    Attributes:
        tau: the temperature, which searches anneal from 10 to 0.1.
    """

    def __init__(self, *args: Any, tau: float = 10.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.tau = tau

    def set_tau(self, tau: float) -> None:
        """Set the temperature: high makes the candidates equally likely to be taken, and low follows the alphas."""
        self.tau = tau

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        weights, index = self._sample()
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = sampled_cell(cell, x, weights, index) if isinstance(cell, SearchCell) else cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def _sample(self) -> tuple[Tensor, Tensor]:
        """Return hard weights with the gradient of soft ones, f32[E,O], and the candidates taken, i64[E,1]."""
        return hard_gumbel_softmax(self.alphas, self.tau)

    def new(self) -> GDASSupernet:
        """Return a network of the same configuration with fresh weights and a copy of the alphas."""
        network = GDASSupernet(**self.config, tau=self.tau).to(self.classifier.weight)
        network.alphas.data = self.alphas.data.clone()  # device and type too: a plain tensor does not follow .to()
        return network
