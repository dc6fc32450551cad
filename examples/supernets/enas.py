"""ENAS on the NAS-Bench-201 space: each forward pass computes the architecture that was set on the supernet before it.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (arXiv 1802.03268), section 2: one supernet
has the weights of all architectures, and a controller (`enas_controller`) samples which to train or to judge. Drawn
uniformly instead it is the random search with weight sharing of Li and Talwalkar, "Random Search and Reproducibility
for Neural Architecture Search" (arXiv 1902.07638), section 3. The space is that of NAS-Bench-201, not ENAS' own.

Shapes: as in `supernets.nasbench201`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supernets.nasbench201 import CANDIDATES, EDGES, NODES, NASBench201Supernet, SearchCell, cell_of

Architecture = tuple[int, ...]
"""The position of each edge's candidate in `CANDIDATES`, in the order of `EDGES`."""


def random_architecture() -> Architecture:
    """Draw an architecture by torch's generator: the candidates of an edge are equally likely."""
    return tuple(torch.randint(len(CANDIDATES), (len(EDGES),)).tolist())


class ChosenCell(SearchCell):
    """A cell that computes one candidate an edge, unweighted; made as `SearchCell` is."""

    def forward(self, x: Tensor, architecture: Sequence[int]) -> Tensor:
        """Map f32[N,C,H,W] to the same shape by the candidates of an architecture."""
        nodes = [x]
        for i in range(1, NODES):
            terms = []
            for j in range(i):
                edge = f"{i}<-{j}"
                terms.append(self.edges[edge]._ops[architecture[EDGES.index(edge)]](nodes[j]))
            nodes.append(sum(terms))
        return nodes[-1]  # f32[N,C,H,W]


class ENASSupernet(NASBench201Supernet):
    """The whole supernet, without architecture weights; arguments and other methods are those of its base.

    Attributes:
        architecture: what forward computes, the same in all cells; a random one until `set_architecture` was called.
    """

    cell = ChosenCell

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        del self.alphas  # the controller is trained instead, and is no part of the network
        self.architecture = random_architecture()

    def set_architecture(self, architecture: Architecture) -> None:
        """Choose what the next forward passes compute."""
        self.architecture = architecture

    def forward(self, x: Tensor) -> Tensor:
        """Map images f32[N,in_channels,H,W], H and W multiples of 4, to logits f32[N,num_classes]."""
        x = self.stem(x)  # f32[N,C,H,W]
        for cell in self.cells:
            x = cell(x, self.architecture) if isinstance(cell, SearchCell) else cell(x)
        x = self.global_pooling(self.lastact(x))  # f32[N,4C,1,1]
        return self.classifier(x.view(x.size(0), -1))

    def arch_parameters(self) -> list[Tensor]:
        """Return nothing: an architecture is set, not trained."""
        return []

    def new(self) -> ENASSupernet:
        """Return a network of the same configuration and architecture with fresh weights."""
        network = ENASSupernet(**self.config).to(self.classifier.weight)
        network.set_architecture(self.architecture)
        return network

    def genotype(self) -> str:
        """Return the cell that is set, as the benchmark writes it; see `cell_of`."""
        return cell_of(self.architecture)
