"""GDAS on the cells of NAS-Bench-201 and of DARTS, as its code base writes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from idiom import Zero, dilated, separable
from sampled.parts import C, Head, Sampled, candidates, sample

NODES = 3


class Residual(nn.Module):
    """A block that halves the image and doubles the channels."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False), nn.BatchNorm2d(c_out))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c_in, c_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.shortcut(x)


class SearchCell(nn.Module):
    """Edges by name, ``2<-1`` and so on; the sum has a term for each candidate, taken or not."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.edges = nn.ModuleDict()
        for i in range(1, NODES):
            for j in range(i):
                self.edges[f"{i}<-{j}"] = nn.ModuleDict({"ops": nn.ModuleList(candidates(c))})
        self.edge2index = {key: i for i, key in enumerate(sorted(self.edges.keys()))}

    def forward(self, inputs: Tensor, hardwts: Tensor, index: Tensor) -> Any:
        nodes: list[Any] = [inputs]
        for i in range(1, NODES):
            inter_nodes = []
            for j in range(i):
                node_str = f"{i}<-{j}"
                weights = hardwts[self.edge2index[node_str]]
                argmaxs = index[self.edge2index[node_str]].item()
                layers = enumerate(self.edges[node_str]["ops"])
                inter_nodes.append(
                    sum(weights[k] * layer(nodes[j]) if k == argmaxs else weights[k] for k, layer in layers)
                )
            nodes.append(sum(inter_nodes))
        return nodes[-1]


class TinyNetworkGDAS(Sampled):
    """The network of NAS-Bench-201: cells, a residual reduction, cells; one draw for all cells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.cells = nn.ModuleList([SearchCell(C), Residual(C, 2 * C), SearchCell(2 * C)])
        self.lastact = nn.Sequential(nn.BatchNorm2d(2 * C), nn.ReLU(inplace=True))
        self.head = Head(2 * C)
        self.arch_alphas, self.tau = nn.Parameter(1e-3 * torch.randn(3, 5)), 10

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hardwts, index = sample(self.arch_alphas, self.tau)
        feature = self.stem(x)
        for cell in self.cells:
            feature = cell(feature, hardwts, index) if isinstance(cell, SearchCell) else cell(feature)
        out = self.lastact(feature)
        return out.mean((2, 3)), self.head(out)


class TinyNetworkAnnealed(TinyNetworkGDAS):
    """The loop lowers tau every few steps, as a float."""

    is_quick = False

    def prepare(self, step: int) -> None:
        self.tau = 10 - 9.9 * min(step // 4, 10) / 10


class TinyNetworkAtEvaluation(TinyNetworkGDAS):
    """In evaluation the strongest candidate runs, without a draw."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            return super().forward(x)
        index = self.arch_alphas.argmax(-1, keepdim=True)
        weights = torch.zeros_like(self.arch_alphas).scatter_(1, index, 1.0)
        feature = self.stem(x)
        for cell in self.cells:
            feature = cell(feature, weights, index) if isinstance(cell, SearchCell) else cell(feature)
        out = self.lastact(feature)
        return out.mean((2, 3)), self.head(out)


class FactorizedReduce(nn.Module):
    """Two convolutions of stride 2, one of them on the image shifted by a pixel."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=False)
        self.convs = nn.ModuleList(nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False) for _ in range(2))
        self.bn = nn.BatchNorm2d(c_out, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.convs[0](x), self.convs[1](x[:, :, 1:, 1:])], dim=1))


class ZeroStrided(nn.Module):
    """None, of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, ::2, ::2].mul(0.0)


class MixedOp(nn.Module):
    """The candidates of DARTS at one stride; only the one taken is computed."""

    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        pooling = nn.Sequential(nn.MaxPool2d(3, stride, 1), nn.BatchNorm2d(c, affine=False))
        if stride == 1:
            self._ops = nn.ModuleList([Zero(), nn.Identity(), pooling, separable(3, c), dilated(3, c)])
            return
        shapes = ((3, 2, 1), (3, 2, 2, 2))
        reduced = [nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, *shape), nn.BatchNorm2d(c)) for shape in shapes]
        self._ops = nn.ModuleList([ZeroStrided(), FactorizedReduce(c, c), pooling, *reduced])

    def forward(self, x: Tensor, weights: Tensor, index: Any) -> Tensor:
        return self._ops[index](x) * weights[index]


class NASNetCell(nn.Module):
    """Two inputs, two nodes, all nodes concatenated; edges from the inputs reduce where the cell does."""

    def __init__(self, c_prev_prev: int, c_prev: int, c: int, reduction: bool, reduction_prev: bool) -> None:
        super().__init__()
        self.reduction = reduction
        self.op0 = FactorizedReduce(c_prev_prev, c) if reduction_prev else nn.Conv2d(c_prev_prev, c, 1)
        self.op1 = nn.Sequential(nn.ReLU(), nn.Conv2d(c_prev, c, 1, bias=False), nn.BatchNorm2d(c, affine=False))
        self.edges = nn.ModuleDict()
        for i in range(2):
            for j in range(2 + i):
                self.edges[f"{i}<-{j}"] = MixedOp(c, 2 if reduction and j < 2 else 1)
        self.edge2index = {key: i for i, key in enumerate(sorted(self.edges.keys()))}

    def forward(self, s0: Tensor, s1: Tensor, weightss: Tensor, indexs: Tensor) -> Tensor:
        states = [self.op0(s0), self.op1(s1)]
        for i in range(2):
            clist = []
            for j, h in enumerate(states):
                node_str = f"{i}<-{j}"
                op = self.edges[node_str]
                weights = weightss[self.edge2index[node_str]]
                index = indexs[self.edge2index[node_str]].item()
                clist.append(op(h, weights, index))
            states.append(sum(clist))
        return torch.cat(states[2:], dim=1)


class NASNetworkGDAS(Sampled):
    """Cells of DARTS, a reduction between; normal and reduction cells have alphas and draws of their own."""

    turns, is_quick = 20, False

    def __init__(self) -> None:
        super().__init__()
        cells = [(C, C, C, False, False), (C, 2 * C, C, True, False), (2 * C, 2 * C, C, False, True)]
        self.cells = nn.ModuleList(NASNetCell(*sizes) for sizes in cells)
        self.head = Head(2 * C)
        self.alphas_normal = nn.Parameter(1e-3 * torch.randn(5, 5))
        self.alphas_reduce = nn.Parameter(1e-3 * torch.randn(5, 5))
        self.tau = 5

    def forward(self, x: Tensor) -> Tensor:
        normal_hardwts, normal_index = sample(self.alphas_normal, self.tau)
        reduce_hardwts, reduce_index = sample(self.alphas_reduce, self.tau)
        s0 = s1 = x
        for cell in self.cells:
            hardwts, index = (reduce_hardwts, reduce_index) if cell.reduction else (normal_hardwts, normal_index)
            s0, s1 = s1, cell(s0, s1, hardwts, index)
        return self.head(s1)
