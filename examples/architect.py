"""The architecture's half of a DARTS step, first and second order.

Liu, Simonyan and Yang, "DARTS: Differentiable Architecture Search" (arXiv 1806.09055), section 2.3. With weights w,
architecture a, losses L_train and L_val, and w' the weights after one step of their optimizer at learning rate eta:

    first order:   d_a L_val(w, a)
    second order:  d_a L_val(w', a) - eta * d_a d_w L_train(w, a) * v,   v = d_w' L_val(w', a)          (equation 7)

where the product with the mixed second derivative is a finite difference, R = r / norm(v)              (equation 8):

    (d_a L_train(w + R*v, a) - d_a L_train(w - R*v, a)) / 2R
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

Batch = tuple[Tensor, Tensor]  # images f32[N,C,H,W], targets i64[N]


class DartsModel(Protocol):
    """What a supernet offers to be searched; `nn.Module` has the rest."""

    def _loss(self, input: Tensor, target: Tensor) -> Tensor: ...

    def new(self) -> nn.Module:
        """Return a network of the same configuration with a copy of the architecture weights."""

    def arch_parameters(self) -> list[Tensor]:
        """Return the tensors to search with, Parameters or not."""


class Architect:
    """Trains a supernet's architecture weights on held-out batches."""

    def __init__(
        self,
        model: DartsModel,
        *,
        lr: float = 3e-4,
        weight_decay: float = 1e-3,
        network_momentum: float = 0.9,
        network_weight_decay: float = 3e-4,
        r: float = 1e-2,
    ) -> None:
        """Make an Adam optimizer for the model's architecture weights.

        Args:
            model: the supernet.
            lr: Adam's learning rate.
            weight_decay: Adam's weight decay.
            network_momentum: the momentum of the weights' optimizer, which the unrolled step imitates.
            network_weight_decay: the weight decay of the weights' optimizer, likewise.
            r: length of the step of the finite difference, in the weights' space.
        """
        self.model = model
        self.network_momentum = network_momentum
        self.network_weight_decay = network_weight_decay
        self.r = r
        self.optimizer = Adam(model.arch_parameters(), lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)

    def step(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        """Take one step of the architecture weights.

        Args:
            train: the batch whose loss trains the weights; the first order does not look at it.
            valid: the batch whose loss trains the architecture.
            eta: the weights' learning rate now.
            network_optimizer: the weights' optimizer, whose momentum the unrolled step imitates.
            unrolled: whether to take the second-order gradient.
        """
        self.optimizer.zero_grad()
        if unrolled:
            self.backward_unrolled(train, valid, eta, network_optimizer)
        else:
            self.model._loss(*valid).backward()
        self.optimizer.step()

    def backward_unrolled(self, train: Batch, valid: Batch, eta: float, network_optimizer: SGD) -> None:
        """Write the second-order gradient to the architecture weights' `grad`; arguments as in `step`."""
        unrolled = self._unrolled_model(train, eta, network_optimizer)
        unrolled._loss(*valid).backward()
        vector = [weight.grad for weight in _named_weights(unrolled).values()]
        implicit = self._hessian_vector_product(vector, train)
        for alpha, stepped, product in zip(
            self.model.arch_parameters(), unrolled.arch_parameters(), implicit, strict=True
        ):
            alpha.grad = stepped.grad - eta * product

    def _unrolled_model(self, train: Batch, eta: float, network_optimizer: SGD) -> nn.Module:
        """Return a new model whose weights have taken one step of the weights' optimizer."""
        weights = _named_weights(self.model)
        gradients = torch.autograd.grad(self.model._loss(*train), list(weights.values()))
        state = self.model.state_dict()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            step = gradient + self.network_weight_decay * weight.detach()
            momentum = network_optimizer.state.get(weight, {}).get("momentum_buffer")
            if momentum is not None:  # none before the optimizer's first step
                step = step + self.network_momentum * momentum
            state[name] = weight.detach() - eta * step
        unrolled = self.model.new()
        unrolled.load_state_dict(state)
        return unrolled

    def _hessian_vector_product(self, vector: Sequence[Tensor], train: Batch) -> list[Tensor]:
        """Return d_a d_w L_train * vector, one tensor an architecture weight."""
        weights = list(_named_weights(self.model).values())
        distance = self.r / torch.cat([v.view(-1) for v in vector]).norm().item()
        _move(weights, vector, distance)
        ahead = torch.autograd.grad(self.model._loss(*train), self.model.arch_parameters())
        _move(weights, vector, -2 * distance)
        behind = torch.autograd.grad(self.model._loss(*train), self.model.arch_parameters())
        _move(weights, vector, distance)
        return [(a - b) / (2 * distance) for a, b in zip(ahead, behind, strict=True)]


def _named_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters without the architecture weights, which are among them only where they are Parameters."""
    architecture = {id(tensor) for tensor in model.arch_parameters()}
    return {name: weight for name, weight in model.named_parameters() if id(weight) not in architecture}


@torch.no_grad()
def _move(weights: Sequence[Tensor], direction: Sequence[Tensor], distance: float) -> None:
    for weight, d in zip(weights, direction, strict=True):
        weight.add_(d, alpha=distance)
