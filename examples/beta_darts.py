"""Beta-decay: a regulariser on the architecture weights, which keeps a search from running to skip connections.

Ye et al., "beta-DARTS: Beta-Decay Regularization for Differentiable Architecture Search" (arXiv 2203.01665): the
architecture's loss has one more term, the smooth maximum of an edge's alphas, averaged over the edges,

    L_val(w, a) + strength * mean_e log(sum_o exp(a_eo)),

whose strength grows linearly during the search.

Shapes: E edges of a cell, O candidates of an edge.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from architect import Architect, Batch, DartsModel

STRENGTH = 50.0
"""The strength at the end of a search; 0 at the start."""


def beta_decay(alphas: Iterable[Tensor]) -> Tensor:
    """Return the mean over all rows of logsumexp, f32[].

    Args:
        alphas: architecture weights before the softmax, each f32[E,O].
    """
    return torch.cat([torch.logsumexp(rows, dim=-1) for rows in alphas]).mean()


class BetaArchitect(Architect):
    """Trains a supernet's architecture weights on held-out batches, with beta-decay.

    Attributes:
        strength: what the regulariser counts; the search sets it.
    """

    def __init__(self, model: DartsModel, **options: Any) -> None:
        """Make an Adam optimizer as `Architect` does; options are its own."""
        super().__init__(model, **options)
        self.strength = 0.0

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Take one step of the architecture weights; arguments as in `Architect.step`."""
        self.optimizer.zero_grad()
        if unrolled:
            self.backward_unrolled(train, valid, eta, network_optimizer)
        else:
            self.model._loss(*valid).backward()
        (self.strength * beta_decay(self.model.arch_parameters())).backward()
        self.optimizer.step()
