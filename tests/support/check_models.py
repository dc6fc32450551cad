"""Models that ``test_check.py`` names on the command line, or checks in the process."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

C = 4


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def conv(k: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, k, padding=k // 2, bias=False), nn.BatchNorm2d(C, affine=False))


class Supernet(nn.Module):
    """Two edges in a row over plain architecture weights in a dict; subclasses make the weights otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(nn.ModuleList([Zero(), nn.Identity(), conv(1), conv(3)]) for _ in range(2))
        self.held: dict[str, Any] = {"alphas": (1e-3 * torch.randn(2, 4)).requires_grad_()}

    def weights(self) -> Any:
        return self.held["alphas"].softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        for w, ops in zip(self.weights(), self.edges, strict=True):
            x = sum(v * op(x) for v, op in zip(w, ops, strict=True))  # type: ignore[assignment]
        return x


class Annealed(Supernet):
    """No value of alphas makes these weights one-hot."""

    def weights(self) -> Any:
        return 0.5 * super().weights() + 0.125


class Lottery(Supernet):
    """Noise alone decides, and alphas do nothing."""

    def weights(self) -> Any:
        alphas = self.held["alphas"]
        return F.one_hot(torch.rand_like(alphas).argmax(-1), alphas.shape[-1]).to(alphas) + 0 * super().weights()


class Noisy(Supernet):
    """One-hot in each draw, but noise decides where, whatever alphas are."""

    def weights(self) -> Any:
        bounded = self.held["alphas"].tanh()
        chosen = F.one_hot((bounded + 9 * torch.rand_like(bounded)).argmax(-1), bounded.shape[-1]).to(bounded)
        return chosen + bounded - bounded.detach()


class Constant32(Supernet):
    """Cannot run in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) @ torch.eye(x.shape[-1], dtype=torch.float32)


class Rounded32(Supernet):
    """Runs in float64, but not all of it."""

    def weights(self) -> Any:
        return super().weights().float()


class Draws(Supernet):
    """Cannot be compiled: it drops a candidate by Python's random."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if random.random() < 0.5 else 2.0)


class Scored(Supernet):
    """Its weights come from the input, through a module."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(C, 8)

    def forward(self, x: Tensor) -> Tensor:
        rows = F.softmax(self.score(x.mean((0, 2, 3))).view(2, 4), dim=-1)
        for w, ops in zip(rows, self.edges, strict=True):
            x = sum(v * op(x) for v, op in zip(w, ops, strict=True))  # type: ignore[assignment]
        return x


class WeightsGiven(Supernet):
    """Takes its weights as an argument."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:  # type: ignore[override]
        for w, ops in zip(weights, self.edges, strict=True):
            x = sum(v * op(x) for v, op in zip(w, ops, strict=True))  # type: ignore[assignment]
        return x


def breaks() -> nn.Module:
    raise OSError("no such checkpoint")


def leaves() -> nn.Module:
    raise SystemExit(3)


def interrupts() -> nn.Module:
    raise KeyboardInterrupt


class Interrupted(Supernet):
    """The user's interrupt comes while it runs."""

    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


class Given(nn.Module):
    """Keeps what it was given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args, self.kwargs = args, kwargs


class OfWidth(nn.Module):
    """A mixed operation that takes its image by name, made with arguments."""

    def __init__(self, count: int, norm: Any) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Sequential(nn.Conv2d(C, C, 1), norm(C)) for _ in range(count))
        self.alphas = nn.Parameter(torch.zeros(count))

    def forward(self, *, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas.softmax(-1), self.ops, strict=True))


def needs(channels: int) -> nn.Module:
    return nn.Conv2d(channels, channels, 1)


class Names:
    """Holds a factory and a model."""

    make = Supernet
    ready = Supernet()
    number = 3
