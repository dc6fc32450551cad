"""Supernets that differ in how they make the weights of candidates from their logits."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from idiom import Expected, Idiom, edges, mix, parameter


class _Made(Idiom):
    """Two edges in a row, the rows of whose weights a subclass makes."""

    expected: ClassVar[Expected | None] = Expected(2, (4, 2), (4, 2))
    seed: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.edges = parameter(2, 4, seed=self.seed), edges()

    def make(self) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.make(), self.edges, strict=True):
            x = mix(w, ops, x)
        return x

    def set_on(self, chosen: float, others: float, seed: int) -> None:
        """Give each row's chosen candidate one logit and the others another."""
        with torch.no_grad():
            self.alphas.fill_(others)
            for row in range(2):
                self.alphas[row, (seed + row) % 4] = chosen


class Sigmoid(_Made):
    """Candidates do not compete (FairDARTS)."""

    def make(self) -> Any:
        return torch.sigmoid(self.alphas)

    def set_vertex(self, seed: int) -> None:
        self.set_on(1e5, -1e5, seed)


class Signed(_Made):
    """Weights between -1 and 1."""

    def make(self) -> Any:
        return self.alphas.tanh()

    def set_vertex(self, seed: int) -> None:
        self.set_on(1.0, 0.0, seed)


class GumbelSoft(_Made):
    """A sample of the relaxed distribution, at a temperature that the search lowers (FBNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.tau = 5.0

    def make(self) -> Any:
        return F.gumbel_softmax(self.alphas, tau=self.tau, dim=-1)

    def change_state(self) -> None:
        self.tau = 0.5


class GumbelHard(_Made):
    """A one-hot sample with the soft one's gradient; every candidate runs."""

    def make(self) -> Any:
        return F.gumbel_softmax(self.alphas, tau=2.0, hard=True)


class Concrete(_Made):
    """The relaxed distribution written out, with its log-probability (SNAS)."""

    def make(self) -> Any:
        noise = -torch.empty_like(self.alphas).exponential_().log()
        return ((self.alphas.log_softmax(-1) + noise) / 0.7).softmax(-1)


class _SparseMax(torch.autograd.Function):
    """The projection of each row onto the simplex."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:  # type: ignore[override]
        ordered, _ = logits.sort(-1, descending=True)
        ranks = torch.arange(1, logits.shape[-1] + 1, dtype=logits.dtype)
        sums = ordered.cumsum(-1) - 1
        count = (ordered * ranks > sums).sum(-1, keepdim=True)
        w = (logits - sums.gather(-1, count - 1) / count).clamp(min=0)
        ctx.save_for_backward(w > 0)
        return w

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        mean = (gradient * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True)
        return kept * (gradient - mean)


class SparseMax(_Made):
    """Sparse weights by an ``autograd.Function`` with a backward of its own (ASAP, Discretization-aware search)."""

    def make(self) -> Any:
        return _SparseMax.apply(self.alphas)


class StraightThrough(_Made):
    """The strongest candidate forward, the softmax backward."""

    seed = 8  # convolutions are the strongest

    def make(self) -> Any:
        soft = self.alphas.softmax(-1)
        index = soft.max(-1, keepdim=True)[1]
        hard = torch.zeros_like(soft).scatter_(-1, index, 1.0)
        return (hard - soft).detach() + soft


class Temperature(_Made):
    """A softmax whose temperature is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.T = 2.0

    def make(self) -> Any:
        return F.softmax(self.alphas / self.T, dim=-1)

    def change_state(self) -> None:
        self.T *= 0.5


class LogSoftmax(_Made):
    """The exponential of a log-softmax."""

    def make(self) -> Any:
        return torch.exp(F.log_softmax(self.alphas, dim=-1))


class Normalized(_Made):
    """Positive numbers over their sum, one edge at a time."""

    def make(self) -> Any:
        return [w / w.sum() for w in self.alphas.exp()]


class DimBySize(_Made):
    """The softmax's dimension is picked by a look at the shape (P-DARTS)."""

    def make(self) -> Any:
        if self.alphas.size(1) == 1:
            return F.softmax(self.alphas, dim=0)
        return F.softmax(self.alphas, dim=-1)


class MaskBuffer(_Made):
    """A buffer of zeros and ones is multiplied in; pruning writes zeros (DrNAS)."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 1.0]]))

    def make(self) -> Any:
        return self.alphas.softmax(-1) * self.mask

    def change_state(self) -> None:
        self.mask[0, 1] = 0.0


class MaskList(_Made):
    """A list of flags for each edge decides which candidates count."""

    def __init__(self) -> None:
        super().__init__()
        self.switches = [[True, True, True, True], [False, True, True, True]]

    def make(self) -> Any:
        rows = zip(self.alphas.softmax(-1), self.switches, strict=True)
        return [[w * float(flag) for w, flag in zip(row, flags, strict=True)] for row, flags in rows]

    def change_state(self) -> None:
        self.switches[1][1] = False


class TopTwo(_Made):
    """Only the two strongest candidates of an edge count."""

    def make(self) -> Any:
        w = self.alphas.softmax(-1)
        values, index = w.topk(2, dim=-1)
        return torch.zeros_like(w).scatter(-1, index, values / values.sum(-1, keepdim=True))


class Noisy(_Made):
    """Logits are perturbed while training (SmoothDARTS); the strongest candidate alone counts in evaluation."""

    seed = 8  # convolutions are the strongest

    def make(self) -> Any:
        if self.training:
            return (self.alphas + torch.zeros_like(self.alphas).uniform_(-0.1, 0.1)).softmax(-1)
        return F.one_hot(self.alphas.argmax(-1), self.alphas.shape[-1]).to(self.alphas)


class Hooked(_Made):
    """Forward registers a hook on the weights that scales their gradient (XNAS); a graph cannot."""

    expected = None
    as_written = "a hook is registered on a tensor inside forward"

    def make(self) -> Any:
        w = self.alphas.softmax(-1)
        if w.requires_grad:
            w.register_hook(lambda gradient: gradient * 2)
        return w
