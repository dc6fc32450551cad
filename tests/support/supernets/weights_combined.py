"""Supernets whose weights come from several places, or decide which candidates run."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idiom import Expected, Idiom, candidates, edges, mix, parameter


class EdgeWeights(Idiom):
    """Normalized weights of a node's edges multiply their mixed operations, all channels searched (PC-DARTS, GAEA)."""

    expected = Expected(3, (6, 3), (6, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.betas, self.edges = parameter(3, 4), parameter(3, seed=3), edges(3)

    def arch(self) -> list[Tensor]:
        return [self.alphas]

    def forward(self, x: Tensor) -> Any:
        w, states, start = F.softmax(self.alphas, dim=-1), [x], 0
        for n in (1, 2):
            b = F.softmax(self.betas[start : start + n], dim=-1)
            states.append(sum(b[j] * mix(w[start + j], self.edges[start + j], h) for j, h in enumerate(states)))
            start += n
        return states[-1]


class Product(Idiom):
    """Betas multiply alphas before any candidate runs."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.betas, self.edges = parameter(2, 4), parameter(2, seed=3), edges()

    def arch(self) -> list[Tensor]:
        return [self.alphas]

    def forward(self, x: Tensor) -> Any:
        w = self.alphas.softmax(-1) * self.betas.softmax(0).unsqueeze(1)
        return sum(mix(row, ops, x) for row, ops in zip(w, self.edges, strict=True))


class GroupWeights(Idiom):
    """A softmax within each group of candidates, and one over the groups (DOTS)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.groups, self.edges = parameter(2, 4), parameter(2, 2, seed=3), edges()

    def arch(self) -> list[Tensor]:
        return [self.alphas, self.groups]

    def forward(self, x: Tensor) -> Tensor:
        for alphas, group, ops in zip(self.alphas, self.groups, self.edges, strict=True):
            v = F.softmax(group, dim=-1)
            inner = [F.softmax(alphas[i : i + 2], dim=-1) * v[i // 2] for i in (0, 2)]
            x = mix(torch.cat(inner), ops, x)
        return x

    def set_vertex(self, seed: int) -> None:
        super().set_vertex(seed)
        with torch.no_grad():
            self.alphas.fill_(-1e5)
            self.alphas.view(2, 2, 2)[:, :, seed % 2] = 0.0


class _Tempered(nn.Module):
    def __init__(self, alphas: nn.Parameter) -> None:
        super().__init__()
        self.alphas, self.tau, self.ops = alphas, 1.0, nn.ModuleList(candidates())

    def forward(self, x: Tensor) -> Any:
        return mix((self.alphas / self.tau).softmax(-1), self.ops, x)


class SetTau(Idiom):
    """``set_tau`` writes a temperature on every edge's module (nni, AutoDL)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(_Tempered(parameter(4, seed=seed)) for seed in (2, 3))

    def arch(self) -> list[Tensor]:
        return [edge.alphas for edge in self.edges]  # type: ignore[misc]

    def set_tau(self, tau: float) -> None:
        for module in self.modules():
            if isinstance(module, _Tempered):
                module.tau = tau

    def forward(self, x: Tensor) -> Tensor:
        for edge in self.edges:
            x = edge(x)
        return x

    def change_state(self) -> None:
        self.set_tau(0.3)


class Filtered(Idiom):
    """Candidates of weight zero do not run (DrNAS, GAEA)."""

    expected = Expected(2, (3, 2), (3, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()

    def forward(self, x: Tensor) -> Tensor:
        w = self.alphas.softmax(-1)
        for row, ops in zip(torch.where(w > 0.1, w, torch.zeros_like(w)), self.edges, strict=True):
            x = sum(v * op(x) for v, op in zip(row, ops, strict=True) if v != 0)  # type: ignore[assignment]
        return x


class Kept(Idiom):
    """The number of candidates left is state: the others are taken out of the list (progressive shrinking)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges, self.kept = parameter(2, 4), edges(), [[0, 1, 2, 3], [1, 2, 3]]

    def forward(self, x: Tensor) -> Tensor:
        for row, ops, kept in zip(self.alphas, self.edges, self.kept, strict=True):
            x = mix(F.softmax(row[kept], dim=-1), [ops[i] for i in kept], x)
        return x

    def change_state(self) -> None:
        self.kept[1].remove(3)

    def set_vertex(self, seed: int) -> None:
        super().set_vertex(seed)
        with torch.no_grad():
            self.alphas[1] = -1e5
            self.alphas[1, 1 + seed % 3] = 0.0


class Annealed(Idiom):
    """A buffer anneals a mean of all candidates into the softmax."""

    expected = Expected(2, (4, 2), (4, 2))
    has_vertices: ClassVar[bool] = False
    progress: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()
        self.register_buffer("progress", torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        w = self.alphas.softmax(-1).lerp(torch.full_like(self.alphas, 0.25), 1 - self.progress)
        return mix(w[1], self.edges[1], mix(w[0], self.edges[0], x))


class CostBesides(Idiom):
    """The expected latency is a second output: the same weights times numbers (FBNet, ProxylessNAS)."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4), edges()
        self.register_buffer("latency", torch.tensor([[0.0, 0.1, 3.0, 1.0], [0.0, 0.1, 2.0, 1.0]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        w, cost = self.alphas.softmax(-1), torch.zeros(())
        for row, costs, ops in zip(w, self.latency, self.edges, strict=True):  # type: ignore[arg-type]
            x, cost = mix(row, ops, x), cost + (row * costs).sum()
        return x, cost
