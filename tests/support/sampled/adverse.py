"""What a compiler of sampled paths may get wrong: choices that are not independent, and what a path leaves behind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sampled.parts import C, Chain, Head, Sampled, sample


class AssertsItsDraw(Chain):
    """Forward asserts that the candidate it takes is the strongest: no other is ever consistent."""

    def forward(self, x: Tensor) -> Tensor:
        soft = F.softmax(self.alphas + torch.rand_like(self.alphas), dim=-1)
        for number, ops in self.each():
            k = soft[number].argmax().item()
            assert soft[number, k] == soft[number].max(), "the argmax is not the largest"
            x = ops[k](x) * soft[number, k]
        return self.head(x)


class SameDrawTwice(Sampled):
    """Two argmaxes of one draw take a convolution and its norm; those of unlike widths do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(C, c, 3, padding=1) for c in (2, 4, 6))
        self.norms = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c), nn.Conv2d(c, C, 1)) for c in (2, 4, 6))
        self.alphas, self.head = nn.Parameter(torch.zeros(3)), Head()

    def forward(self, x: Tensor) -> Tensor:
        soft = (self.alphas + torch.rand_like(self.alphas)).softmax(0)
        hard = torch.zeros_like(soft).scatter_(0, soft.argmax(0, keepdim=True), 1.0)
        x = self.ops[soft.argmax().item()](x)
        return self.head(self.norms[hard.argmax().item()](x)) * soft.max()


class HardByComparison(Chain):
    """Hard weights by comparing with the largest, the index by argmax; a weight of zero is divided by."""

    def forward(self, x: Tensor) -> Tensor:
        soft = F.softmax(self.alphas + torch.rand_like(self.alphas), dim=-1)
        hard = (soft == soft.max(-1, keepdim=True)[0]).to(x.dtype)
        for number, ops in self.each():
            k = soft[number].argmax().item()
            x = ops[k](x) / hard[number, k] * soft[number, k]
        return self.head(x)


class CountedTogether(Chain):
    """What follows depends on the sum of all choices and on how many of them differ."""

    is_quick = False

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        listed = index.flatten().tolist()
        for number, k in sorted(enumerate(listed), key=lambda pair: (pair[1], pair[0])):
            x = self.edges[number].ops[k](x) * weights[number, k]
        for _ in range(sum(listed) % 3):
            x = x.tanh()
        return self.head(x) * len(set(listed))


class Embedded(Chain):
    """A controller inside forward: what an edge drew is embedded and decides with what odds the next one draws."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell = nn.Embedding(4, 5), nn.GRUCell(5, 5)
        self.decide = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state, token = torch.zeros(1, 5, dtype=x.dtype), torch.tensor([3])
        for _, ops in self.each():
            state = self.cell(self.embedding(token), state)
            probs = self.decide(state).softmax(-1)
            token = torch.multinomial(probs, 1).squeeze(1)
            x = ops[token.item()](x) * probs[0, token.item()]
        return self.head(x) + self.alphas.sum()


class EachImageItsOwn(Chain):
    """Each image draws a path of its own: as many choices as images."""

    count = 1

    def forward(self, x: Tensor) -> Tensor:
        probs = self.alphas[0].softmax(0)
        index = torch.multinomial(probs, len(x), replacement=True).tolist()
        rows = [self.edges[0].ops[k](x[i : i + 1]) * probs[k] for i, k in enumerate(index)]
        return self.head(torch.cat(rows))


class GatedByImages(Chain):
    """A gate on the images' mean decides, by a draw (dynamic routing)."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(C, 3) for _ in range(self.count))

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            logits = self.gates[number](x.mean((0, 2, 3))) + self.alphas[number]
            row = F.gumbel_softmax(logits, tau=self.tau, hard=True)
            x = ops[row.argmax().item()](x) * row.max()
        return self.head(x)


class CostReturned(Chain):
    """Candidates have a cost, a plain float, which forward adds up and returns as one."""

    COSTS = (0.0, 1.5, 4.0)

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        weights, index = sample(self.alphas, self.tau)
        cost = 0.0
        for number, ops in self.each():
            k = index[number].item()
            x = ops[k](x) * weights[number, k]
            cost += self.COSTS[k]
        return self.head(x), cost


class PathRemembered(Chain):
    """Forward keeps the drawn indexes, how often each path was taken, and the last output."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: dict[Any, int] = {}
        self.last_index, self.last_output = torch.zeros(self.count, 1, dtype=torch.long), torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        path = tuple(index.flatten().tolist())
        self.paths[path] = self.paths.get(path, 0) + 1
        for number, ops in self.each():
            x = ops[path[number]](x) * weights[number, path[number]]
        self.last_index, self.last_output = index, x.detach().mean()
        return self.head(x)


class SpaceShrinks(Chain):
    """The loop takes candidates out of lists of those alive (progressive shrinking)."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = [[0, 1, 2] for _ in range(self.count)]

    def prepare(self, step: int) -> None:
        if step in (9, 11):
            for number, left in enumerate(self.alive):
                left.remove(left[int(self.alphas[number, left].argmin())])

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            left = self.alive[number]
            probs = self.alphas[number, left].softmax(0)
            drawn = torch.multinomial(probs, 1).item()
            x = ops[left[drawn]](x) * probs[drawn]
        return self.head(x)


class Doubled(nn.Module):
    """Twice what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2.0


class AliasChanged(Chain):
    """What a candidate returned is added to in place; the skip returned the state itself."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [nn.Identity(), Doubled(), nn.Sequential(Doubled(), Doubled())]

    def forward(self, x: Tensor) -> Tensor:
        _, index = sample(self.alphas, self.tau)
        state, total = x * 1.0, 0
        for number, ops in self.each():
            out = ops[index[number].item()](state)
            out += number + 1
            total = total + out
        return self.head(total + state) + self.alphas.sum()


def _count(module: Any, inputs: Any, output: Tensor) -> None:
    module.runs = getattr(module, "runs", 0) + 1


class Hooked(Chain):
    """Hooks count the candidates' runs, and one of them changes the output."""

    def __init__(self) -> None:
        super().__init__()
        for _, ops in self.each():
            for op in ops:
                op.register_forward_hook(_count)
            ops[2].register_forward_hook(_halved)

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            x = ops[index[number].item()](x) * weights[number, index[number].item()]
        return self.head(x)


def _halved(module: Any, inputs: Any, output: Tensor) -> Tensor:
    return output * 0.5


class Sandwich(Chain):
    """A step runs the widest path, the narrowest and a drawn one, the first as the others' teacher (BigNAS)."""

    is_quick = False

    def outputs(self, x: Tensor, step: int) -> tuple[Tensor, ...]:
        paths = [[2] * self.count, [0] * self.count, torch.randint(3, (self.count,)).tolist()]
        teacher, *students = [self(x, path) for path in paths]
        return teacher, *(student - teacher.detach() for student in students)

    def arguments(self, x: Tensor, step: int) -> tuple[Any, ...]:
        return x, [1] * self.count

    def forward(self, x: Tensor, path: Any) -> Tensor:
        for number, ops in self.each():
            x = ops[path[number]](x) * self.alphas[number, path[number]].exp()
        return self.head(x)


class TwoDrawsOneBackward(Chain):
    """A step draws twice, and one backward pass goes through both paths."""

    def outputs(self, x: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return self(x), self(x * 0.5)

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            row = F.gumbel_softmax(self.alphas[number], self.tau, hard=True)
            x = ops[row.argmax().item()](x) * row.max()
        return self.head(x)
