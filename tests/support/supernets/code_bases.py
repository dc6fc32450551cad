"""Supernets of code bases that are unlike the plain one in several ways at once."""

from __future__ import annotations

import functools
import operator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exactness import weights
from idiom import C, Expected, Idiom, Zero, conv, pool, separable


class PartialChannels(Idiom):
    """A quarter of the channels is searched, channels are shuffled, edges have weights of their own (PC-DARTS)."""

    expected = Expected(5, (24, 12), (15, 9))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.betas = weights(3, 5), weights(3, seed=3)
        self.edges = nn.ModuleList(
            nn.ModuleList([Zero(), nn.Identity(), separable(3, 1), separable(5, 1), pool(1)]) for _ in range(3)
        )

    def mix(self, ops: Any, x: Tensor, w: Tensor) -> Tensor:
        searched, kept = x[:, : x.shape[1] // 4], x[:, x.shape[1] // 4 :]
        mixed = sum(v * op(searched) for v, op in zip(w, ops, strict=True))
        out = torch.cat([mixed, kept if mixed.shape[2] == x.shape[2] else F.max_pool2d(kept, 2)], 1)  # type: ignore
        n, c, h, width = out.data.size()
        return out.view(n, 4, c // 4, h, width).transpose(1, 2).contiguous().view(n, -1, h, width)

    def forward(self, x: Tensor) -> Tensor:
        w, n, start = F.softmax(self.alphas, -1), 2, 0
        betas = []
        while start < 3:
            betas.append(F.softmax(self.betas[start : start + n], -1))
            start, n = start + n, n - 1
        b = torch.cat(betas)
        node: Any = sum(b[j] * self.mix(self.edges[j], h, w[j]) for j, h in enumerate((x, x.tanh())))
        return node + b[2] * self.mix(self.edges[2], node, w[2])


class DropPath(Idiom):
    """Each candidate but the skip may be dropped for a whole image."""

    expected = Expected(4, (2, 2), (2, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.p = weights(4), 0.3
        self.ops = nn.ModuleList([Zero(), nn.Identity(), conv(1), conv(3)])

    def forward(self, x: Tensor) -> Any:
        terms = []
        for w, op in zip(self.alphas.softmax(-1), self.ops, strict=True):
            out = op(x)
            if self.training and self.p > 0 and not isinstance(op, nn.Identity):
                mask = torch.empty(out.size(0), 1, 1, 1, dtype=out.dtype).bernoulli_(1 - self.p)
                out = out.div(1 - self.p).mul_(mask)
            terms.append(w * out)
        return sum(terms)


class Ragged(Idiom):
    """Other candidates on each edge, picked by switches; a dropout after the skip (P-DARTS)."""

    expected = Expected(3, (3, 2), (4, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.switches = weights(3, 5), [[0, 1], [1, 3, 4], [0, 1, 2, 3]]
        make = (Zero, nn.Identity, pool, lambda: conv(1), lambda: conv(3))
        self.edges = nn.ModuleList(nn.ModuleList([make[i]() for i in row]) for row in self.switches)
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Any:
        out: Any = x
        for row, ops, alphas in zip(self.switches, self.edges, self.alphas, strict=True):
            w = F.softmax(alphas[row], dim=-1)
            terms = (self.drop(op(out)) if isinstance(op, nn.Identity) else op(out) for op in ops)
            out = sum(v * term for v, term in zip(w, terms, strict=True))
        return out

    def set_vertex(self, seed: int) -> None:
        with torch.no_grad():
            self.alphas.fill_(-1e5)
            for row, alphas in zip(self.switches, self.alphas, strict=True):
                alphas[row[seed % len(row)]] = 0.0


class SharedCells(Idiom):
    """One cell's candidates run several times, weights are written into a table, sizes change (Auto-DeepLab)."""

    expected = Expected(5, (8, 8), (10, 10))
    is_raw: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.betas = nn.Parameter(weights(2, 3).detach()), nn.Parameter(weights(3, 2).detach())
        self.cells = nn.ModuleList(
            [nn.ModuleList([nn.Identity(), conv(3), conv(1)]), None, nn.ModuleList([conv(3), pool(), conv(1)])]  # type: ignore
        )

    def mix(self, cell: int, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas[cell // 2], self.cells[cell], strict=True))

    def forward(self, x: Tensor) -> Any:
        table = torch.randn(3, 2, dtype=x.dtype)
        for i in range(len(self.betas)):
            table[i] = F.softmax(self.betas[i], -1)
            if i == 0:
                table[i][:1] = F.softmax(self.betas[i][:1], -1) * (2 / 3)
        large = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        out = table[0][0] * self.mix(0, x) + table[0][1] * F.interpolate(self.mix(0, large), size=x.shape[2:])
        for cell in self.cells:
            out = out if cell is None else self.mix(2, out) * table[1][0]
        return out, out.mean()


class TwoOutputs(Idiom):
    """A dict of logits and an auxiliary head that exists in training only."""

    expected = Expected(2, (4, 2), (4, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = weights(2, 4)
        self.edges = nn.ModuleList(
            nn.ModuleList([nn.Identity(), conv(1, affine=True), conv(3, affine=True), Zero()]) for _ in range(2)
        )
        self.head, self.auxiliary = nn.Linear(C, 3), nn.Linear(C, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        w = F.softmax(self.alphas, -1)
        first: Any = sum(op(x) * v for op, v in zip(self.edges[0], w[0], strict=True))
        second: Any = sum(op(first) * v for op, v in zip(self.edges[1], w[1], strict=True))
        extra = self.auxiliary(first.mean((2, 3))) if self.training else None
        return {"logits": self.head(second.mean((2, 3))), "auxiliary": extra}


class Stacked(Idiom):
    """Candidates stacked, weighted by broadcasting and summed (nni); a candidate named "None"."""

    expected = Expected(1, (2, 1), (2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(weights(4).detach())
        self.ops = nn.ModuleDict({"conv_3x3": conv(3), "conv_1x1": conv(1), "skip": nn.Identity(), "None": Zero()})

    def forward(self, x: Tensor) -> Tensor:
        stack = torch.stack([op(x) for op in self.ops.values()])
        return (stack * self.alphas.softmax(-1).view([-1] + [1] * (stack.dim() - 1))).sum(0)


class Helper(Idiom):
    """A weighted sum by a helper function, and a decaying auxiliary skip added in place (DARTS-)."""

    expected = Expected(2, (2, 1), (3, 2))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.decay = nn.Parameter(weights(4).detach()), 0.5
        self.ops = nn.ModuleList([conv(3), conv(1), nn.Identity(), pool()])

    @staticmethod
    def weighted_sum(items: list[Tensor], w: Tensor) -> Tensor:
        total = items[0] * w[0]
        for i in range(1, len(items)):
            total = total + items[i] * w[i]
        return total

    def forward(self, x: Tensor) -> Tensor:
        out = self.weighted_sum([op(x) for op in self.ops], self.alphas.softmax(-1))
        out += x * self.decay
        return out


class Gates(Idiom):
    """Binary gates: the path taken with its gradient, the others detached (ProxylessNAS)."""

    expected = Expected(2, (2, 1), (2, 1))
    is_raw: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.active, self.inactive = nn.Parameter(torch.tensor([0.0, 1.0, 0.0])), [1], [0, 2]
        self.ops = nn.ModuleList([conv(3, affine=True), conv(1, affine=True), Zero()])

    def forward(self, x: Tensor) -> Any:
        out: Any = 0
        for i in self.active:
            out = out + self.alphas[i] * self.ops[i](x)
        for i in self.inactive:
            out = out + self.alphas[i] * self.ops[i](x).detach()
        return out + x


class Entangled(Idiom):
    """One kernel for all sizes, sliced and padded; a second output adds the candidates' costs (FBNet)."""

    expected = Expected(1, (1, 1), (1, 1))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.costs = weights(3), [1.0, 2.5, 4.0]
        self.conv, self.norm = nn.Conv2d(C, C, 5, padding=2, bias=False), nn.BatchNorm2d(C)

    def forward(self, x: Tensor) -> Any:
        w = self.alphas.softmax(0)
        borders = range(len(self.costs))
        kernels = [F.pad(self.conv.weight[:, :, i : 5 - i, i : 5 - i], (i,) * 4) for i in borders]
        kernel = sum(v * k for v, k in zip(w, kernels, strict=True))
        return self.norm(F.conv2d(x, kernel, padding=2)), sum(v * c for v, c in zip(w, self.costs, strict=True))


class Projected(Idiom):
    """Decided edges are written over through ``.data``, zero weights are left out (DARTS-PT); sums by ``reduce``."""

    expected = Expected(2, (5, 3), (5, 3))

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.undecided = weights(3, 4), torch.tensor([True, False, True])
        self.projected = torch.eye(4, dtype=torch.float64)[torch.tensor([2, 2, 1])]
        self.edges = nn.ModuleList(nn.ModuleList([Zero(), nn.Identity(), conv(3), conv(1)]) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        w = F.softmax(self.alphas, -1)
        for i in range(len(w)):
            if not self.undecided[i]:
                w[i].data.copy_(self.projected[i])
        for row, ops in zip(w, self.edges, strict=True):
            x = functools.reduce(operator.add, [v * op.forward(x) for v, op in zip(row, ops, strict=True) if v != 0])
        return x


class Dirichlet(Idiom):
    """Weights drawn from a Dirichlet distribution, masked and normalized again (DrNAS)."""

    expected = Expected(2, (4, 2), (4, 2))
    has_vertices: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.mask = weights(2, 4), torch.tensor([[True] * 4, [True, False, True, True]])
        self.edges = nn.ModuleList(nn.ModuleList([Zero(), nn.Identity(), conv(1), conv(3)]) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        w = torch.stack([torch.distributions.Dirichlet(F.elu(row) + 1).rsample() for row in self.alphas])
        w = torch.where(self.mask, w, torch.zeros_like(w))
        out: Any = x
        for row, ops in zip(w / w.sum(-1, keepdim=True), self.edges, strict=True):
            out = sum(v * op(out) for v, op in zip(row, ops, strict=True) if not v == 0)
        return out
