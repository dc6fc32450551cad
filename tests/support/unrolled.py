"""The second-order gradient of DARTS by autograd through the weights' step: the oracle of the finite difference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import SGD

Batch = tuple[Tensor, Tensor]


def unrolled_gradients(
    supernet: Any, train: Batch, valid: Batch, eta: float, optimizer: SGD
) -> tuple[list[Tensor], list[Tensor]]:
    """Return d_a L_val(w', a) for each architecture weight, and the same where w' is held constant.

    Args:
        supernet: its architecture weights a are those of `arch_parameters`; all other parameters are w.
        train: the batch of the step from w to w'.
        valid: the batch of the loss that is differentiated.
        eta: the length of the step.
        optimizer: of w, with momentum buffers; its momentum and weight decay hold for the step too.
    """
    architecture = supernet.arch_parameters()
    names = {name: w for name, w in supernet.named_parameters() if all(w is not alphas for alphas in architecture)}
    gradients = torch.autograd.grad(supernet._loss(*train), list(names.values()), create_graph=True)
    momentum, decay = (optimizer.param_groups[0][name] for name in ("momentum", "weight_decay"))
    stepped = {
        name: w.detach() - eta * (g + decay * w.detach() + momentum * optimizer.state[w]["momentum_buffer"])
        for (name, w), g in zip(names.items(), gradients, strict=True)
    }

    def gradient(weights: dict[str, Tensor]) -> list[Tensor]:
        loss = torch.nn.functional.cross_entropy(functional_call(supernet, weights, (valid[0],)), valid[1])
        return list(torch.autograd.grad(loss, architecture, retain_graph=True))

    return gradient(stepped), gradient({name: weight.detach() for name, weight in stepped.items()})
