"""ProxylessNAS: the weights are trained by one sampled path, the architecture by two of which a gate opens one.

Cai, Zhu and Han, "ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware" (arXiv 1812.00332),
section 3.2.1 and appendix B, without the latency in the loss. A step of the architecture moves the alphas of the two
active candidates of a block; both are then shifted by

    log(sum of exp(alpha) before) - log(sum of exp(alpha) after),

the sums over the two, so that the probabilities of the candidates that were not sampled stay as they are.

Shapes: O candidates of a block.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

from architect import Batch
from image_data import SearchData
from search_loop import Method, Search
from supernets.proxyless import ProxylessSupernet
from supernets.spos_mobile import CHOICES


class GateArchitect:
    """Trains a supernet's alphas on held-out batches, two candidates a block at a time."""

    def __init__(self, model: ProxylessSupernet, *, lr: float, **options: Any) -> None:
        """Make an Adam optimizer without memory of other steps' candidates; see `Architect` for the options."""
        self.model = model
        self.optimizer = Adam(model.arch_parameters(), lr=lr, betas=(0.0, 0.999))

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Take one step of the architecture weights; arguments as in `Architect.step`, first order only."""
        self.model.draw_paths(2)
        before = self._masses()
        self.optimizer.zero_grad()
        self.model._loss(*valid).backward()
        self.optimizer.step()
        for block, old, new in zip(self.model.blocks, before, self._masses(), strict=True):
            block.alphas.data[block.active] += old - new

    def _masses(self) -> list[Tensor]:
        """Return for each block log(sum(exp(alpha))) of its active candidates, f32[]."""
        return [torch.logsumexp(block.alphas.detach()[block.active], dim=-1) for block in self.model.blocks]


class ProxylessSearch(Search):
    """A search whose weights are trained by one path at a time, and which validates the strongest one.

    Its steps mix two candidates of each block, others each time: what two of them share says nothing of the rest.
    """

    mode = "exact"

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of the weights on a sampled path."""
        self.model.draw_paths(1)
        return super().loss(images, targets)

    def accuracy(self, loader: DataLoader, limit: int | None, device: torch.device) -> float:
        """Return the accuracy of the path of the strongest candidates, in percent."""
        self.model.take_strongest()
        return super().accuracy(loader, limit, device)


def _supernet(args: argparse.Namespace, data: SearchData) -> ProxylessSupernet:
    return ProxylessSupernet(args.C, args.layers or 1, data.num_classes, data.in_channels)


METHOD = Method(
    "ProxylessNAS on mobile blocks",
    _supernet,
    "\n".join,
    CHOICES,
    GateArchitect,
    search=ProxylessSearch,
)
