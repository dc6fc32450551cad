"""A supernet with several ways of sampling, set before each pass, and the searches that alternate them."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

from search_loops_field.parts import CLASSES, Journal, Parallel, Sizes, seed_all
from supernets.nasbench201 import CANDIDATES, ReLUConvBN, ResidualReduction, Zero

NODES = 4
MODES = ("gdas", "urs", "joint", "select", "dynamic")


def candidate(name: str, C: int) -> nn.Module:
    if name in ("nor_conv_1x1", "nor_conv_3x3"):
        return ReLUConvBN(C, C, int(name[-1]), affine=False)
    return {"none": Zero, "skip_connect": nn.Identity}[name]() if name[0] != "a" else nn.AvgPool2d(3, 1, 1)


class SearchCell(nn.Module):
    """Edges by name, each a list of candidates; one forward for each way of sampling."""

    def __init__(self, C: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict()
        for i in range(1, NODES):
            for j in range(i):
                self.edges[f"{i}<-{j}"] = nn.ModuleList([candidate(name, C) for name in CANDIDATES])
        self.edge2index = {key: i for i, key in enumerate(sorted(self.edges.keys()))}

    def run(self, inputs: Tensor, mix: Any) -> Tensor:
        nodes: list[Any] = [inputs]
        for i in range(1, NODES):
            inter_nodes = []
            for j in range(i):
                node_str = f"{i}<-{j}"
                inter_nodes.append(mix(self.edges[node_str], self.edge2index[node_str], nodes[j], (i, j)))
            nodes.append(sum(inter_nodes))
        return nodes[-1]

    def forward_joint(self, inputs: Tensor, weightss: Tensor) -> Tensor:
        def mix(layers: Any, edge: int, x: Tensor, _: Any) -> Any:
            return sum(layer(x) * w for layer, w in zip(layers, weightss[edge], strict=True))

        return self.run(inputs, mix)

    def forward_gdas(self, inputs: Tensor, hardwts: Tensor, index: Tensor) -> Tensor:
        def mix(layers: Any, edge: int, x: Tensor, _: Any) -> Any:
            weights, argmax = hardwts[edge], index[edge].item()
            return sum(weights[k] * layer(x) if k == argmax else weights[k] for k, layer in enumerate(layers))

        return self.run(inputs, mix)

    def forward_urs(self, inputs: Tensor) -> Tensor:
        return self.run(inputs, lambda layers, edge, x, _: random.choice(layers)(x))

    def forward_select(self, inputs: Tensor, weightss: Tensor) -> Tensor:
        return self.run(inputs, lambda layers, edge, x, _: layers[weightss[edge].argmax().item()](x))

    def forward_dynamic(self, inputs: Tensor, structure: Any) -> Tensor:
        def mix(layers: Any, edge: int, x: Tensor, place: Any) -> Any:
            return layers[CANDIDATES.index(structure[place])](x)

        return self.run(inputs, mix)


class GenericModel(nn.Module):
    """Two stages; ``arch_parameters`` is a Parameter that loops tell apart by its name."""

    def __init__(self, C: int, num_classes: int) -> None:
        super().__init__()
        self._stem = nn.Sequential(nn.Conv2d(3, C, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(C))
        self._cells = nn.ModuleList([SearchCell(C), ResidualReduction(C, 2 * C), SearchCell(2 * C)])
        self.lastact = nn.Sequential(nn.BatchNorm2d(2 * C), nn.ReLU(inplace=True))
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * C, num_classes)
        self._mode: Any = None
        self.dynamic_cell: Any = None
        self._tau: Any = None
        self.arch_parameters = nn.Parameter(1e-3 * torch.randn(6, len(CANDIDATES)))

    def set_cal_mode(self, mode: str, dynamic_cell: Any = None) -> None:
        assert mode in MODES
        self._mode, self.dynamic_cell = mode, copy.deepcopy(dynamic_cell) if mode == "dynamic" else None

    @property
    def mode(self) -> Any:
        return self._mode

    @property
    def weights(self) -> list[nn.Parameter]:
        parts = (self._stem, self._cells, self.lastact, self.global_pooling, self.classifier)
        return [p for part in parts for p in part.parameters()]

    @property
    def alphas(self) -> list[nn.Parameter]:
        return [self.arch_parameters]

    def set_tau(self, tau: float) -> None:
        self._tau = tau

    @property
    def genotype(self) -> dict[Any, str]:
        with torch.no_grad():
            best = self.arch_parameters.argmax(-1).tolist()
        return {
            place: CANDIDATES[best[self._cells[0].edge2index[f"{place[0]}<-{place[1]}"]]] for place in self.places()
        }

    def dync_genotype(self, use_random: bool) -> dict[Any, str]:
        with torch.no_grad():
            alphas_cpu = F.softmax(self.arch_parameters, dim=-1)
        rows = zip(self.places(), alphas_cpu, strict=True)
        draw = (lambda row: random.choice(range(5))) if use_random else (lambda row: torch.multinomial(row, 1).item())
        return {place: CANDIDATES[int(draw(row))] for place, row in rows}

    @staticmethod
    def places() -> list[tuple[int, int]]:
        return [(i, j) for i in range(1, NODES) for j in range(i)]

    def normalize_archp(self) -> tuple[Tensor, Tensor, Tensor]:
        if self.mode != "gdas":
            alphas = F.softmax(self.arch_parameters, dim=-1)
            return alphas, alphas.detach().cpu(), alphas.max(-1, keepdim=True)[1]
        while True:
            gumbels = -torch.empty_like(self.arch_parameters).exponential_().log()
            probs = F.softmax((self.arch_parameters.log_softmax(dim=1) + gumbels) / self._tau, dim=1)
            index = probs.max(-1, keepdim=True)[1]
            hardwts = torch.zeros_like(probs).scatter_(-1, index, 1.0) - probs.detach() + probs
            if not (torch.isinf(gumbels).any() or torch.isnan(probs).any()):
                return hardwts, hardwts.detach().cpu(), index

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        alphas, alphas_cpu, index = self.normalize_archp()
        feature = self._stem(inputs)
        for cell in self._cells:
            if not isinstance(cell, SearchCell):
                feature = cell(feature)
            elif self.mode == "urs":
                feature = cell.forward_urs(feature)
            elif self.mode == "select":
                feature = cell.forward_select(feature, alphas_cpu)
            elif self.mode == "joint":
                feature = cell.forward_joint(feature, alphas)
            elif self.mode == "dynamic":
                feature = cell.forward_dynamic(feature, self.dynamic_cell)
            elif self.mode == "gdas":
                feature = cell.forward_gdas(feature, alphas, index)
            else:
                raise ValueError(f"invalid mode={self.mode}")
        out = self.global_pooling(self.lastact(feature))
        out = out.view(out.size(0), -1)
        return out, self.classifier(out)


def set_mode(network: Any, algo: str, for_weights: bool) -> None:
    if algo in ("setn", "enas") and for_weights:
        network.set_cal_mode("dynamic", network.dync_genotype(algo == "setn"))
    elif algo != "enas":
        network.set_cal_mode({"random": "urs", "gdas": "gdas"}.get(algo, "joint"))


def unrolled_step(network: Any, criterion: nn.Module, base: Any, arch: Any, w_optimizer: SGD) -> Tensor:
    """Take the second-order step of the architecture on a deepcopy that loads the stepped weights by name."""
    group, loss = w_optimizer.param_groups[0], criterion(network(base[0])[1], base[1])
    gradients = torch.autograd.grad(loss, network.weights)
    with torch.no_grad():
        theta = torch.cat([w.view(-1) for w in network.weights])
        moment = torch.cat([w_optimizer.state[w]["momentum_buffer"].view(-1) for w in network.weights])
        dtheta = torch.cat([g.view(-1) for g in gradients]) + group["weight_decay"] * theta
        stepped = theta.sub(group["momentum"] * moment + dtheta, alpha=group["lr"])
    unrolled, offset = copy.deepcopy(network), 0
    model_dict = unrolled.state_dict()
    for k, v in network.named_parameters():
        if "arch_parameters" not in k:
            model_dict[k] = stepped[offset : offset + v.numel()].view(v.size())
            offset += v.numel()
    unrolled.load_state_dict(model_dict)
    unrolled.zero_grad()
    loss = criterion(unrolled(arch[0])[1], arch[1])
    loss.backward()
    network.arch_parameters.grad = copy.deepcopy(unrolled.arch_parameters.grad)
    assert all(v.grad is not None for v in unrolled.weights)
    return loss.detach()


def search(network: Any, sizes: Sizes, algo: str) -> Journal:
    """Search for two epochs of two steps, each with a sampling mode for the weights and one for the architecture."""
    journal, criterion, wrapped = Journal(), nn.CrossEntropyLoss(), Parallel(network)
    w_optimizer = SGD(network.weights, 0.025, momentum=0.9, weight_decay=5e-4, nesterov=True)
    a_optimizer = Adam(network.alphas, lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    for epoch in range(2):
        network.set_tau(10 - 5 * epoch)
        for step, (base, arch) in enumerate(zip(sizes.batches(epoch), sizes.batches(10 + epoch), strict=True)):
            seed_all(100 * epoch + step)
            wrapped.train()
            set_mode(wrapped.module, algo, for_weights=True)
            network.zero_grad()
            loss = journal.note(criterion(wrapped(base[0])[1], base[1]))
            loss.backward()
            w_optimizer.step()
            set_mode(wrapped.module, algo, for_weights=False)
            network.zero_grad()
            if algo == "darts-v2":
                journal.note(unrolled_step(network, criterion, base, arch, w_optimizer))
                a_optimizer.step()
            elif algo in ("random", "enas"):
                with torch.no_grad():
                    journal.note(criterion(wrapped(arch[0])[1], arch[1]))
            else:
                journal.note(criterion(wrapped(arch[0])[1], arch[1])).backward()
                a_optimizer.step()
        journal.genotypes.append(network.genotype)
        wrapped.eval()
        with torch.no_grad():
            for mode in ("dynamic", "select"):
                network.set_cal_mode(mode, network.dync_genotype(use_random=True))
                for X, y in sizes.batches(20 + epoch):
                    journal.note(criterion(wrapped(X)[1], y))
    journal.without_gradient = {name for name, p in network.named_parameters() if p.grad is None}
    return journal.end(network)


def model(sizes: Sizes) -> GenericModel:
    torch.manual_seed(0)
    return GenericModel(sizes.C, CLASSES).to(sizes.dtype)
