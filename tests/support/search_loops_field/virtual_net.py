"""A controller that holds the network as ``net``, and an architect with a second controller for the virtual step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from search_loops_field.darts import STEPS, Cell
from search_loops_field.parts import CLASSES, PRIMITIVES, Journal, Sizes, seed_all


class SearchCNN(nn.Module):
    """The network: its weights of edges are arguments, a list with a tensor for each node."""

    def __init__(self, C: int, n_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, 1, 1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList([Cell(C, C, C, False, 1), Cell(C, STEPS * C, 2 * C, True, 1)])
        self.linear = nn.Linear(STEPS * 2 * C, n_classes)

    def forward(self, x: Tensor, weights_normal: list[Tensor], weights_reduce: list[Tensor]) -> Tensor:
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            weights = torch.cat(weights_reduce if cell.reduction else weights_normal)
            s0, s1 = s1, cell(s0, s1, weights, None)
        out = F.adaptive_avg_pool2d(s1, 1)
        return self.linear(out.view(out.size(0), -1))


class Controller(nn.Module):
    """Alphas in lists of parameters, found again by their names; all that loops call."""

    def __init__(self, C: int, n_classes: int, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion
        self.alpha_normal, self.alpha_reduce = nn.ParameterList(), nn.ParameterList()
        for i in range(STEPS):
            self.alpha_normal.append(nn.Parameter(1e-3 * torch.randn(i + 2, len(PRIMITIVES))))
            self.alpha_reduce.append(nn.Parameter(1e-3 * torch.randn(i + 2, len(PRIMITIVES))))
        self._alphas = [(n, p) for n, p in self.named_parameters() if "alpha" in n]
        self.net = SearchCNN(C, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        weights_normal = [F.softmax(alpha, dim=-1) for alpha in self.alpha_normal]
        weights_reduce = [F.softmax(alpha, dim=-1) for alpha in self.alpha_reduce]
        return self.net(x, weights_normal, weights_reduce)

    def loss(self, X: Tensor, y: Tensor) -> Tensor:
        return self.criterion(self.forward(X), y)

    def weights(self) -> Iterator[nn.Parameter]:
        return self.net.parameters()

    def alphas(self) -> Iterator[nn.Parameter]:
        for _, p in self._alphas:
            yield p

    def genotype(self) -> list[list[str]]:
        lists = (self.alpha_normal, self.alpha_reduce)
        return [[PRIMITIVES[1:][k] for a in alphas for k in a[:, 1:].argmax(-1).tolist()] for alphas in lists]


class Architect:
    """Writes the virtual step into the copy, in place and under no_grad, weight by weight."""

    def __init__(self, net: Any, w_momentum: float = 0.9, w_weight_decay: float = 3e-4) -> None:
        self.net, self.v_net = net, copy.deepcopy(net)
        self.w_momentum, self.w_weight_decay = w_momentum, w_weight_decay

    def virtual_step(self, train: Any, xi: float, w_optim: SGD) -> None:
        gradients = torch.autograd.grad(self.net.loss(*train), list(self.net.weights()))
        with torch.no_grad():
            for w, vw, g in zip(self.net.weights(), self.v_net.weights(), gradients, strict=True):
                m = w_optim.state[w].get("momentum_buffer", 0.0) * self.w_momentum
                vw.copy_(w - xi * (m + g + self.w_weight_decay * w))
            for a, va in zip(self.net.alphas(), self.v_net.alphas(), strict=True):
                va.copy_(a)

    def unrolled_backward(self, train: Any, valid: Any, xi: float, w_optim: SGD) -> None:
        self.virtual_step(train, xi, w_optim)
        v_alphas, v_weights = tuple(self.v_net.alphas()), tuple(self.v_net.weights())
        v_grads = torch.autograd.grad(self.v_net.loss(*valid), v_alphas + v_weights)
        dalpha, dw = v_grads[: len(v_alphas)], v_grads[len(v_alphas) :]
        hessian = self.compute_hessian(dw, train)
        with torch.no_grad():
            for alpha, da, h in zip(self.net.alphas(), dalpha, hessian, strict=True):
                alpha.grad = da - xi * h

    def compute_hessian(self, dw: Any, train: Any) -> list[Tensor]:
        eps = 0.01 / torch.cat([w.view(-1) for w in dw]).norm()
        sides = []
        for factor in (eps, -2.0 * eps):
            with torch.no_grad():
                for p, d in zip(self.net.weights(), dw, strict=True):
                    p += factor * d
            sides.append(torch.autograd.grad(self.net.loss(*train), list(self.net.alphas())))
        with torch.no_grad():
            for p, d in zip(self.net.weights(), dw, strict=True):
                p += eps * d
        return [(p - n) / (2.0 * eps) for p, n in zip(*sides, strict=True)]


def search(model: Any, sizes: Sizes) -> Journal:
    journal = Journal()
    w_optim = SGD(model.weights(), 0.025, momentum=0.9, weight_decay=3e-4)
    alpha_optim = Adam(model.alphas(), 3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(w_optim, 2, eta_min=0.001)
    architect = Architect(model)
    for epoch in range(2):
        lr = lr_scheduler.get_last_lr()[0]
        model.train()
        for step, (train, valid) in enumerate(zip(sizes.batches(epoch), sizes.batches(10 + epoch), strict=True)):
            seed_all(100 * epoch + step)
            alpha_optim.zero_grad()
            architect.unrolled_backward(train, valid, lr, w_optim)
            alpha_optim.step()
            w_optim.zero_grad()
            loss = model.criterion(model(train[0]), train[1])
            loss.backward()
            nn.utils.clip_grad_norm_(model.weights(), 5.0)
            w_optim.step()
            journal.note(loss)
        model.eval()
        with torch.no_grad():
            for X, y in sizes.batches(20 + epoch):
                journal.note(model.criterion(model(X), y))
        journal.genotypes.append(model.genotype())
        lr_scheduler.step()
    journal.without_gradient = {name for name, p in model.named_parameters() if p.grad is None}
    return journal.end(model)


def controller(sizes: Sizes) -> Controller:
    torch.manual_seed(0)
    return Controller(sizes.C, CLASSES, nn.CrossEntropyLoss()).to(sizes.dtype)
