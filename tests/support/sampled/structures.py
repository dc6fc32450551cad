"""Choices that depend on other choices, or on what is sampled inside a candidate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idiom import conv, pool
from sampled.parts import C, Chain, Edge, Head, Sampled, few, sample


class ChoiceAfterChoice(Chain):
    """What the first edge took decides which candidates the second has."""

    turns = 20

    def __init__(self) -> None:
        super().__init__()
        self.others = nn.ModuleList(Edge([conv(1), nn.Tanh()]) for _ in range(3))
        self.other_alphas = nn.Parameter(1e-1 * torch.randn(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        first = index[0].item()
        x = self.edges[0].ops[first](x) * weights[0, first]
        inner, k = sample(self.other_alphas[first : first + 1], self.tau)
        x = self.others[first].ops[k.item()](x) * inner[0, k.item()]
        for number in (1, 2):
            taken = index[number].item()
            x = self.edges[number].ops[taken](x) * weights[number, taken]
        return self.head(x)


class LateChoice(Chain):
    """Another draw is made only where the first candidate was taken."""

    count = 2

    def forward(self, x: Tensor) -> Tensor:
        first = torch.multinomial(self.alphas[0].softmax(0), 1).item()
        x = self.edges[0].ops[first](x) * self.alphas[0, first].exp()
        if first == 0:
            second = torch.multinomial(self.alphas[1].softmax(0), 1).item()
            x = self.edges[1].ops[second](x) * self.alphas[1, second].exp()
        return self.head(x)


class DepthDrawn(Chain):
    """The first draw is how many edges follow, each with a draw of its own."""

    turns = 20

    def __init__(self) -> None:
        super().__init__()
        self.depth_alphas = nn.Parameter(torch.zeros(self.count))

    def forward(self, x: Tensor) -> Tensor:
        probs = self.depth_alphas.softmax(0)
        depth = torch.multinomial(probs, 1).item()
        for number in range(depth + 1):
            row = F.gumbel_softmax(self.alphas[number], self.tau, hard=True)
            k = row.argmax().item()
            x = self.edges[number].ops[k](x) * row[k]
        return self.head(x) * probs[depth]


class InputDrawn(Sampled):
    """Each node draws which earlier state it reads, then what it does with it (ENAS's cells, in forward)."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = nn.ModuleList(Edge(few()) for _ in range(3))
        self.alphas = nn.Parameter(1e-1 * torch.randn(3, 3))
        self.input_alphas = nn.ParameterList(nn.Parameter(torch.zeros(number + 1)) for number in range(3))
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for node, row, inputs in zip(self.nodes, self.alphas, self.input_alphas, strict=True):
            source = torch.multinomial(inputs.softmax(0), 1).item()
            k = torch.multinomial(row.softmax(0), 1).item()
            state = node.ops[k](states[source])
            states.append(state * row.softmax(0)[k] + state * inputs.softmax(0)[source])
        return self.head(states[-1])


class TwoOfFour(Sampled):
    """Two edges of four are kept, both drawn at once without putting back; their order is that of the draw."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList([conv(1), conv(3), pool(), nn.Tanh()])
        self.alphas, self.head = nn.Parameter(torch.zeros(4)), Head()

    def forward(self, x: Tensor) -> Tensor:
        probs = self.alphas.softmax(0)
        first, second = torch.multinomial(probs, 2).tolist()
        return self.head(self.ops[second](self.ops[first](x) * probs[first]) + probs[second])


class InnerChoice(nn.Module):
    """A module that samples by itself, and is a candidate of others."""

    def __init__(self, ops: list[nn.Module]) -> None:
        super().__init__()
        self.ops, self.alpha = nn.ModuleList(ops), nn.Parameter(torch.zeros(len(ops)))

    def forward(self, x: Tensor) -> Tensor:
        row = F.gumbel_softmax(self.alpha, tau=2.0, hard=True)
        k = row.argmax().item()
        return self.ops[k](x) * row[k]


class Nested(Sampled):
    """Sampled modules inside the candidates of sampled modules."""

    turns = 20

    def __init__(self) -> None:
        super().__init__()
        inner = [InnerChoice([conv(1), conv(3)]), nn.Identity(), InnerChoice([pool(), nn.Tanh()])]
        self.outer, self.last, self.head = InnerChoice([*inner]), InnerChoice(few()), Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.outer(x)))


class SharedStates(Sampled):
    """A cell of three nodes: every node adds what its edges took of all states before, reductions of stride 2 first."""

    def __init__(self) -> None:
        super().__init__()
        strided = [nn.Conv2d(C, C, 3, 2, 1), nn.AvgPool2d(2), nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(C))]
        self.reduce, self.edges = Edge(strided), nn.ModuleList(Edge(few()) for _ in range(3))
        self.alphas, self.head = nn.Parameter(1e-1 * torch.randn(4, 3)), Head()

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, 5.0)
        rows = list(zip(weights, index, [self.reduce, *self.edges], strict=True))
        x, b, c, d = x, *rows[1:]
        s0 = self.step(x, *rows[0])
        s1 = self.step(s0, *b)
        s2 = self.step(s0, *c) + self.step(s1, *d)
        return self.head(torch.cat([s0, s1, s2], 0))

    def step(self, x: Tensor, row: Tensor, index: Tensor, edge: Any) -> Tensor:
        return sum(w * op(x) if k == index else w for k, (w, op) in enumerate(zip(row, edge.ops, strict=True)))


class NoneTaken(Sampled):
    """A node all of whose edges took "none" is left out, which Python finds by counting."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(Edge([conv(1), conv(3)]) for _ in range(3))
        self.alphas, self.head = nn.Parameter(torch.zeros(3, 3)), Head()

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, 5.0)
        kept = [(number, k - 1) for number, k in enumerate(index.flatten().tolist()) if k > 0]
        if not kept:
            return self.head(x) * weights[:, 0].prod()
        return self.head(sum(self.edges[number].ops[k](x) * weights[number, k + 1] for number, k in kept) / len(kept))
