"""DARTS, first and second order, and PC-DARTS: alphas are plain tensors, the unrolled model is a new one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn import functional as F
from torch.optim import SGD, Adam

from search_loops_field.parts import CLASSES, PRIMITIVES, Journal, MixedOp, Parallel, Sizes, accuracy, seed_all
from supernets.pcdarts import channel_shuffle
from supernets.primitives import preprocess

STEPS = 2
EDGES = 5


class Cell(nn.Module):
    def __init__(self, C_prev_prev: int, C_prev: int, C: int, reduction: bool, partial: int) -> None:
        super().__init__()
        self.reduction, self.partial = reduction, partial
        self.preprocess0 = preprocess(C_prev_prev, C, halves=False)
        self.preprocess1 = preprocess(C_prev, C, halves=False)
        self._ops = nn.ModuleList()
        for i in range(STEPS):
            for j in range(2 + i):
                self._ops.append(MixedOp(C // partial, 2 if reduction and j < 2 else 1))

    def edge(self, number: int, x: Tensor, weights: Tensor, **drop: Any) -> Tensor:
        if self.partial == 1:
            return self._ops[number](x, weights, **drop)
        some, rest = x[:, : x.shape[1] // self.partial], x[:, x.shape[1] // self.partial :]
        mixed = self._ops[number](some, weights, **drop)
        rest = rest if mixed.shape[2] == x.shape[2] else F.max_pool2d(rest, 2, 2)
        return channel_shuffle(torch.cat([mixed, rest], dim=1), self.partial)

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, weights2: Tensor | None, **drop: Any) -> Tensor:
        states: list[Any] = [self.preprocess0(s0), self.preprocess1(s1)]
        offset = 0
        for _ in range(STEPS):
            edges = [self.edge(offset + j, h, weights[offset + j], **drop) for j, h in enumerate(states)]
            if weights2 is not None:
                edges = [weights2[offset + j] * edge for j, edge in enumerate(edges)]
            offset += len(states)
            states.append(sum(edges))
        return torch.cat(states[-STEPS:], dim=1)


class Network(nn.Module):
    """A normal cell and a reduction cell, an auxiliary head between them that runs in training."""

    def __init__(self, C: int, num_classes: int, criterion: nn.Module, partial: int = 1, mask: str = "empty") -> None:
        super().__init__()
        self._C, self._num_classes, self._criterion, self._partial, self._mask = (
            C,
            num_classes,
            criterion,
            partial,
            mask,
        )
        self.drop_path_prob = 0.0
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList()
        self.cells += [Cell(C, C, C, False, partial), Cell(C, STEPS * C, 2 * C, True, partial)]
        self.auxiliary_head = nn.Linear(STEPS * C, num_classes)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(STEPS * 2 * C, num_classes)
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        self.alphas_normal = Variable(1e-3 * torch.randn(EDGES, len(PRIMITIVES)), requires_grad=True)
        self.alphas_reduce = Variable(1e-3 * torch.randn(EDGES, len(PRIMITIVES)), requires_grad=True)
        self._arch_parameters = [self.alphas_normal, self.alphas_reduce]
        if self._partial > 1:
            self.betas_normal = Variable(1e-3 * torch.randn(EDGES), requires_grad=True)
            self.betas_reduce = Variable(1e-3 * torch.randn(EDGES), requires_grad=True)
            self._arch_parameters += [self.betas_normal, self.betas_reduce]

    def new(self) -> Network:
        model_new = Network(self._C, self._num_classes, self._criterion, self._partial, self._mask)
        model_new.to(self.classifier.weight.dtype)
        for x, y in zip(model_new.arch_parameters(), self.arch_parameters(), strict=True):
            x.data = x.data.to(y.dtype)
            x.data.copy_(y.data)
        model_new.drop_path_prob = self.drop_path_prob
        return model_new

    def arch_parameters(self) -> list[Tensor]:
        return self._arch_parameters

    def edge_weights(self, reduction: bool) -> Tensor | None:
        if self._partial == 1:
            return None
        betas, n, start = self.betas_reduce if reduction else self.betas_normal, 3, 2
        weights2 = F.softmax(betas[0:2], dim=-1)
        for _ in range(STEPS - 1):
            weights2 = torch.cat([weights2, F.softmax(betas[start : start + n], dim=-1)], dim=0)
            start, n = start + n, n + 1
        return weights2

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None]:
        s0 = s1 = self.stem(input)
        logits_aux = None
        for i, cell in enumerate(self.cells):
            alphas = self.alphas_reduce if cell.reduction else self.alphas_normal
            drop = {"drop_prob": self.drop_path_prob, "mask": self._mask}
            weights = F.softmax(alphas, dim=-1)
            s0, s1 = s1, cell(s0, s1, weights, self.edge_weights(cell.reduction), **drop)
            if i == 0 and self.training:
                logits_aux = self.auxiliary_head(s1.mean((2, 3)))
        out = self.global_pooling(s1)
        return self.classifier(out.view(out.size(0), -1)), logits_aux

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        logits, logits_aux = self(input)
        loss = self._criterion(logits, target)
        return loss if logits_aux is None else loss + 0.4 * self._criterion(logits_aux, target)

    def genotype(self) -> list[list[str]]:
        none = PRIMITIVES.index("none")
        found = []
        for alphas in (self.alphas_normal, self.alphas_reduce):
            weights = F.softmax(alphas, dim=-1).data.cpu().numpy()
            found.append([PRIMITIVES[max(range(len(w)), key=lambda k: (k != none, w[k]))] for w in weights])
        return found


def _concat(xs: Iterable[Tensor]) -> Tensor:
    return torch.cat([x.view(-1) for x in xs])


class Architect:
    """Flattens all weights with ``view(-1)``, steps them as one vector, and writes gradients into ``.grad.data``."""

    def __init__(self, model: Any, momentum: float = 0.9, weight_decay: float = 3e-4) -> None:
        self.model, self.network_momentum, self.network_weight_decay = model, momentum, weight_decay
        self.optimizer = Adam(model.arch_parameters(), lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)

    def step(self, train: Any, valid: Any, eta: float, network_optimizer: SGD, unrolled: bool) -> None:
        self.optimizer.zero_grad()
        if unrolled:
            self._backward_step_unrolled(train, valid, eta, network_optimizer)
        else:
            self.model._loss(*valid).backward()
        self.optimizer.step()

    def _compute_unrolled_model(self, train: Any, eta: float, network_optimizer: SGD) -> Any:
        loss = self.model._loss(*train)
        theta = _concat(self.model.parameters()).data
        try:
            state = network_optimizer.state
            moment = _concat(state[v]["momentum_buffer"] for v in self.model.parameters()).mul_(self.network_momentum)
        except KeyError:
            moment = torch.zeros_like(theta)
        dtheta = _concat(torch.autograd.grad(loss, list(self.model.parameters()))).data
        dtheta = dtheta + self.network_weight_decay * theta
        return self._construct_model_from_theta(theta.sub(moment + dtheta, alpha=eta))

    def _construct_model_from_theta(self, theta: Tensor) -> Any:
        model_new, model_dict = self.model.new(), self.model.state_dict()
        params, offset = {}, 0
        for k, v in self.model.named_parameters():
            params[k] = theta[offset : offset + v.numel()].view(v.size())
            offset += v.numel()
        assert offset == len(theta)
        model_dict.update(params)
        model_new.load_state_dict(model_dict)
        return model_new

    def _backward_step_unrolled(self, train: Any, valid: Any, eta: float, network_optimizer: SGD) -> None:
        unrolled_model = self._compute_unrolled_model(train, eta, network_optimizer)
        unrolled_model._loss(*valid).backward()
        dalpha = [v.grad for v in unrolled_model.arch_parameters()]
        vector = [v.grad.data for v in unrolled_model.parameters()]
        for g, ig in zip(dalpha, self._hessian_vector_product(vector, train), strict=True):
            g.data.sub_(ig.data, alpha=eta)
        for v, g in zip(self.model.arch_parameters(), dalpha, strict=True):
            if v.grad is None:
                v.grad = Variable(g.data)
            else:
                v.grad.data.copy_(g.data)

    def _hessian_vector_product(self, vector: list[Tensor], train: Any, r: float = 1e-2) -> list[Tensor]:
        R = r / _concat(vector).norm()
        sides = []
        for sign in (1, -2):
            for p, v in zip(self.model.parameters(), vector, strict=True):
                p.data.add_(v, alpha=float(sign * R))
            sides.append(torch.autograd.grad(self.model._loss(*train), self.model.arch_parameters()))
        for p, v in zip(self.model.parameters(), vector, strict=True):
            p.data.add_(v, alpha=float(R))
        return [(x - y).div_(2 * R) for x, y in zip(*sides, strict=True)]


def search(
    model: Any, sizes: Sizes, unrolled: bool = False, warmup: int = 0, resume: Callable[[], Any] | None = None
) -> Journal:
    """Search for two epochs; ``resume`` makes another model, which goes on from the first epoch's checkpoint."""
    journal, criterion, epochs = Journal(), nn.CrossEntropyLoss(), 2
    model, network, optimizer, scheduler, architect = started(model, epochs)
    for epoch in range(epochs):
        network.module.drop_path_prob = 0.3 * epoch / epochs
        lr = scheduler.get_last_lr()[0]
        journal.genotypes.append(model.genotype())
        queues = zip(sizes.batches(epoch), sizes.batches(10 + epoch), strict=True)
        for step, ((input, target), valid) in enumerate(queues):
            seed_all(100 * epoch + step)
            model.train()
            if epoch >= warmup:
                architect.step((input, target), valid, lr, optimizer, unrolled)
            optimizer.zero_grad()
            logits, logits_aux = network(input)
            loss = criterion(logits, target) + 0.4 * criterion(logits_aux, target)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5)
            optimizer.step()
            journal.note(loss)
        scheduler.step()
        model.eval()
        with torch.no_grad():
            for input, target in sizes.batches(20 + epoch):
                logits, logits_aux = network(input)
                assert logits_aux is None
                assert 0 <= accuracy(logits, target) <= 1
                journal.note(criterion(logits, target))
        saved = io.BytesIO()
        stateful = (model, optimizer, scheduler, architect.optimizer)
        torch.save([model.arch_parameters(), *(one.state_dict() for one in stateful)], saved)
        if resume is not None and epoch == 0:
            saved.seek(0)
            alphas, *states = torch.load(saved, weights_only=False)
            model, network, optimizer, scheduler, architect = started(resume(), epochs)
            for one, state in zip((model, optimizer, scheduler, architect.optimizer), states, strict=True):
                one.load_state_dict(state)
            for x, y in zip(model.arch_parameters(), alphas, strict=True):
                x.data.copy_(y.data)
    tensors = dict(model.named_parameters()) | {f"arch {i}": t for i, t in enumerate(model.arch_parameters())}
    journal.without_gradient = {name for name, tensor in tensors.items() if tensor.grad is None}
    return journal.end(model)


def started(model: Any, epochs: int) -> tuple[Any, ...]:
    optimizer = SGD(model.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, float(epochs), eta_min=0.001)
    return model, Parallel(model), optimizer, scheduler, Architect(model)


def network(sizes: Sizes, partial: int = 1, mask: str = "empty") -> Network:
    torch.manual_seed(0)
    model = Network(sizes.C if partial == 1 else 2 * partial, CLASSES, nn.CrossEntropyLoss(), partial, mask).to(
        sizes.dtype
    )
    for alphas in model.arch_parameters():
        alphas.data = alphas.data.to(sizes.dtype)
    return model
