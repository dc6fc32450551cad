"""Random chains of ordinary layers, alone and as candidates, at sizes where every float32 implementation runs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

C, SIDE, BATCH = 8, 16, 16

CONVOLUTIONS: tuple[Callable[[random.Random], nn.Module], ...] = (
    lambda draw: nn.Conv2d(C, C, 3, padding=1, groups=C, bias=draw.random() < 0.3),
    lambda draw: nn.Conv2d(C, C, 5, padding=2, groups=C, bias=False),
    lambda draw: nn.Conv2d(C, C, 3, padding=2, dilation=2, groups=C, bias=False),
    lambda draw: nn.Conv2d(C, C, (1, 5), padding=(0, 2), groups=C, bias=False),
    lambda draw: nn.Conv2d(C, C, 3, padding=2, dilation=2),
    lambda draw: nn.Conv2d(C, C, 3, padding=1, groups=draw.choice((2, 4))),
    lambda draw: nn.Conv2d(C, C, 1, bias=draw.random() < 0.5),
    lambda draw: nn.Conv2d(C, C, 3, padding=1, padding_mode=draw.choice(("zeros", "zeros", "reflect"))),
    lambda draw: nn.ConvTranspose2d(C, C, 3, padding=1),
    lambda draw: nn.Sequential(nn.Conv2d(C, 2 * C, 1), nn.ReLU6(), nn.Conv2d(2 * C, C, 1)),
)
POOLINGS: tuple[Callable[[random.Random], nn.Module], ...] = (
    lambda draw: nn.AvgPool2d(3, 1, 1, count_include_pad=draw.random() < 0.5),
    lambda draw: nn.MaxPool2d(3, 1, 1),
    lambda draw: nn.AvgPool2d(5, 1, 2),
)
NORMS: tuple[Callable[[random.Random], nn.Module], ...] = (
    lambda draw: nn.BatchNorm2d(C, affine=draw.random() < 0.5, momentum=draw.choice((0.1, 0.3))),
    lambda draw: nn.BatchNorm2d(C, track_running_stats=False),
    lambda draw: nn.GroupNorm(draw.choice((1, 4)), C),
    lambda draw: nn.InstanceNorm2d(C),
)
ACTIVATIONS: tuple[Callable[[random.Random], nn.Module], ...] = (
    lambda draw: nn.ReLU(inplace=draw.random() < 0.2),
    lambda draw: nn.ReLU(),
    lambda draw: nn.LeakyReLU(0.1),
    lambda draw: draw.choice((nn.GELU, nn.SiLU, nn.Hardswish, nn.Tanh, nn.Sigmoid, nn.PReLU))(),
    lambda draw: nn.Dropout(0.0),
    lambda draw: nn.Identity(),
    lambda draw: nn.ChannelShuffle(2),
)
SAVING = (nn.ReLU, nn.Tanh, nn.Sigmoid)
KINDS = (CONVOLUTIONS, CONVOLUTIONS, POOLINGS, NORMS, ACTIVATIONS)


def chain(draw: random.Random, depth: int) -> nn.Sequential:
    """Return ``depth`` layers in a row; now and then some of them beside a skip connection."""
    layers: list[nn.Module] = [draw.choice(draw.choice(KINDS))(draw) for _ in range(depth)]
    for before, layer in itertools.pairwise([None, *layers]):
        if isinstance(layer, nn.ReLU) and isinstance(before, (type(None), *SAVING)):
            layer.inplace = False  # or else torch itself says that what it needs was written over
    if depth > 2 and draw.random() < 0.2:
        layers[1:] = [Residual(nn.Sequential(*layers[1:]))]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class RandomLayers(nn.Module):
    """A chain, or a stem and an edge whose candidates are chains, by a seed.

    Attributes:
        rows: how many candidates there are; 0 in a chain, which has no architecture parameters.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.rows = draw.choice((0, 0, 2, 3, 4))
        if not self.rows:
            self.body = chain(draw, draw.randint(1, 6))
            return
        self.stem = chain(draw, draw.randint(1, 2))
        self.candidates = nn.ModuleList(chain(draw, draw.randint(1, 4)) for _ in range(self.rows))
        self.alphas = nn.Parameter(torch.randn(self.rows))

    def forward(self, x: Tensor) -> Any:
        if not self.rows:
            return self.body(x)
        x = self.stem(x)
        return sum(w * op(x) for w, op in zip(self.alphas, self.candidates, strict=True))

    def set_one_hot(self, index: int) -> None:
        """Let one candidate be the architecture."""
        self.alphas.data.zero_()[index] = 1.0


def image(seed: int) -> Tensor:
    """Return a batch of features, ``f32[16,8,16,16]``."""
    return torch.randn(BATCH, C, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
