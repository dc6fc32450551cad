"""Other draws than GDAS's: what torch has for it, and choices that nobody draws."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Gumbel, OneHotCategorical
from torch.nn import functional as F

from idiom import conv, pool, separable
from sampled.parts import Chain, candidates, sample


class GumbelSoftmax(Chain):
    """``F.gumbel_softmax(hard=True)``, an edge at a time, and the argmax of what it returns."""

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            weights = F.gumbel_softmax(self.alphas[number], tau=self.tau, hard=True)
            index = weights.argmax().item()
            x = ops[index](x) * weights[index]
        return self.head(x)


class GumbelSoftmaxRows(Chain):
    """``F.gumbel_softmax(hard=True)`` for all edges, zeros skipped by value."""

    make = candidates

    def forward(self, x: Tensor) -> Tensor:
        rows = F.gumbel_softmax(self.alphas, self.tau, hard=True, dim=-1)
        for number, ops in self.each():
            x = sum(w * op(x) for w, op in zip(rows[number], ops, strict=True) if w.item() != 0)
        return self.head(x)


class GumbelSoftmaxMixed(Chain):
    """All candidates run, weighted by a one-hot row: sampled in weights alone."""

    mode = "exact"

    def forward(self, x: Tensor) -> Tensor:
        rows = F.gumbel_softmax(self.alphas, self.tau, hard=True, dim=-1)
        for number, ops in self.each():
            x = sum(w * op(x) for w, op in zip(rows[number], ops, strict=True))
        return self.head(x)


class MaxWithIndex(Chain):
    """``max(-1)`` gives value and index; the value weights what the index takes."""

    def forward(self, x: Tensor) -> Tensor:
        soft = F.softmax(self.alphas + Gumbel(0.0, 1.0).sample(self.alphas.shape).to(x), dim=-1)
        values, indices = soft.max(-1)
        for number, ops in self.each():
            x = ops[indices[number].item()](x) * values[number]
        return self.head(x)


class TopOne(Chain):
    """``topk(1)`` of noisy alphas."""

    is_quick = False

    def forward(self, x: Tensor) -> Tensor:
        noisy = self.alphas + 0.5 * torch.randn_like(self.alphas)
        for number, ops in self.each():
            values, indices = noisy[number].topk(1)
            x = ops[int(indices)](x) * values.sigmoid()
        return self.head(x)


class MultinomialItem(Chain):
    """``torch.multinomial(probs, 1).item()`` an edge."""

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            probs = self.alphas[number].softmax(-1)
            index = torch.multinomial(probs, 1).item()
            x = ops[index](x) * probs[index]
        return self.head(x)


class MultinomialRows(Chain):
    """One call of multinomial for all edges, and its indexes as a list."""

    def forward(self, x: Tensor) -> Tensor:
        probs = self.alphas.softmax(-1)
        chosen = torch.multinomial(probs.data, 1).squeeze(1).tolist()
        for (number, ops), k in zip(self.each(), chosen, strict=True):
            x = ops[k](x) / probs[number, k].detach() * probs[number, k]
        return self.head(x)


class CategoricalSample(Chain):
    """``Categorical(logits=...).sample()``; its log-probability is returned for REINFORCE."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=x.dtype)
        for number, ops in self.each():
            distribution = Categorical(logits=self.alphas[number])
            action = distribution.sample()
            total = total + distribution.log_prob(action)
            x = ops[action.item()](x)
        return self.head(x), total


class OneHotSample(Chain):
    """``OneHotCategorical`` for all edges; the row's argmax runs (SNAS, DSNAS)."""

    def forward(self, x: Tensor) -> Tensor:
        drawn = OneHotCategorical(logits=self.alphas).sample()
        probs = self.alphas.softmax(-1)
        rows = drawn - probs.detach() + probs
        for number, ops in self.each():
            k = int(drawn[number].argmax())
            x = ops[k](x) * rows[number, k]
        return self.head(x)


class RandomIntegers(Chain):
    """``torch.randint`` draws uniformly in forward; there are no alphas to learn."""

    is_quick = False

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            k = torch.randint(len(ops), ()).item()
            x = ops[k](x) * self.alphas[number, k].exp()
        return self.head(x)


class UniformThreshold(Chain):
    """``torch.rand(1) < p`` takes the first candidate or the last, with a probability that is learnt (gates)."""

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            p = self.alphas[number, 0].sigmoid()
            x = ops[0](x) * p if torch.rand(1) < p else ops[2](x) * (1 - p)
        return self.head(x)

    def candidates(self) -> dict[str, nn.Module]:
        return {name: op for name, op in super().candidates().items() if not name.endswith(".1")}


class PythonChoice(Chain):
    """``random.choice`` in forward (uniform random search)."""

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            x = random.choice(list(ops))(x) + self.alphas[number].sum()
        return self.head(x)


class NumpyChoice(Chain):
    """``numpy.random.choice`` by the softmax of alphas, as an array."""

    is_quick = False

    def forward(self, x: Tensor) -> Tensor:
        for number, ops in self.each():
            probs = self.alphas[number].softmax(-1)
            k = numpy.random.choice(len(ops), p=probs.detach().numpy())
            x = ops[k](x) * probs[k]
        return self.head(x)


class OwnGenerator(Chain):
    """The model draws from a generator of its own, seeded by the loop."""

    is_quick = False

    def __init__(self) -> None:
        super().__init__()
        self.seed = 0

    def prepare(self, step: int) -> None:
        self.seed = step

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        probs = self.alphas.softmax(-1)
        index = torch.multinomial(probs, 1, generator=generator)
        for number, ops in self.each():
            k = index[number].item()
            x = ops[k](x) * probs[number, k]
        return self.head(x)


class StrongestCandidate(Chain):
    """Nobody draws: the argmax of the alphas runs, and changes while they train."""

    turns = 0

    def __init__(self) -> None:
        super().__init__()
        self.alphas.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.alphas.softmax(-1)
        for number, ops in self.each():
            k = weights[number].argmax(-1).item()
            x = ops[k](x) * weights[number, k]
        return self.head(x)


class OfTwo(Chain):
    """Each edge has two candidates."""

    @staticmethod
    def make() -> list[nn.Module]:
        return [pool(), conv(3)]

    def forward(self, x: Tensor) -> Tensor:
        weights, index = sample(self.alphas, self.tau)
        for number, ops in self.each():
            k = index[number].item()
            x = sum(weights[number, i] * op(x) if i == k else weights[number, i] for i, op in enumerate(ops))
        return self.head(x)


class OfNine(OfTwo):
    """Each edge has nine candidates."""

    count, turns, is_quick = 2, 90, False

    @staticmethod
    def make() -> list[nn.Module]:
        more: list[Any] = [nn.MaxPool2d(3, 1, 1), separable(3), conv(5), nn.Conv2d(4, 4, 1)]
        return [*candidates(), *more]
