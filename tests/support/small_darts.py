"""A small DARTS-like supernet with plain-tensor weights and all that search loops call, for tests of the facade."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CANDIDATES = ("none", "skip_connect", "conv_1x1", "conv_3x3", "max_pool_3x3")
EDGES = 2
EPS = 1e-10


class Zero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


class ReLUConvBN(nn.Module):
    def __init__(self, C: int, kernel_size: int, affine: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(C, C, kernel_size, padding=kernel_size // 2, bias=False)
        self.op = nn.Sequential(nn.ReLU(inplace=False), conv, nn.BatchNorm2d(C, eps=EPS, affine=affine))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class MixedOp(nn.Module):
    def __init__(self, C: int, affine: bool) -> None:
        super().__init__()
        self._ops = nn.ModuleList(
            [
                Zero(),
                nn.Identity(),
                ReLUConvBN(C, 1, affine),
                ReLUConvBN(C, 3, affine),
                nn.MaxPool2d(3, stride=1, padding=1),
            ]
        )

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self._ops, strict=True))  # type: ignore[return-value]


class Network(nn.Module):
    """A stem, one cell of two edges in a row, a classifier; and a layer that forward never reads."""

    def __init__(self, C: int, num_classes: int, criterion: nn.Module, affine: bool = False) -> None:
        super().__init__()
        self._C, self._num_classes, self._criterion, self._affine = C, num_classes, criterion, affine
        self.drop_path_prob = 0.0
        self.stem = nn.Sequential(nn.Conv2d(3, C, 3, padding=1, bias=False), nn.BatchNorm2d(C, eps=EPS))
        self.cells = nn.ModuleList([MixedOp(C, affine) for _ in range(EDGES)])
        self.auxiliary = nn.Linear(C, num_classes)
        self.classifier = nn.Linear(C, num_classes)
        self._initialize_alphas()

    def _initialize_alphas(self) -> None:
        self.alphas_normal = (1e-1 * torch.randn(EDGES, len(CANDIDATES))).requires_grad_()
        self._arch_parameters = [self.alphas_normal]

    def forward(self, input: Tensor) -> Tensor:
        weights = F.softmax(self.alphas_normal, dim=-1)
        s = self.stem(input)
        for i, cell in enumerate(self.cells):
            s = cell(s, weights[i])
        return self.classifier(F.adaptive_avg_pool2d(s, 1).view(s.size(0), -1))

    def new(self) -> Network:
        model_new = Network(self._C, self._num_classes, self._criterion, self._affine).to(self.classifier.weight)
        for x, y in zip(model_new.arch_parameters(), self.arch_parameters(), strict=True):
            x.data = y.data.clone()
        return model_new

    def wider(self, C: int) -> Any:
        return type(self)(C, self._num_classes, self._criterion, self._affine).to(self.classifier.weight)

    def arch_parameters(self) -> list[Tensor]:
        return self._arch_parameters

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        return self._criterion(self(input), target)

    @property
    def width(self) -> int:
        return self._C

    @staticmethod
    def names() -> tuple[str, ...]:
        return CANDIDATES

    @classmethod
    def tiny(cls) -> Network:
        return cls(2, 2, nn.CrossEntropyLoss())

    def genotype(self) -> list[str]:
        return [CANDIDATES[i] for i in self.alphas_normal.argmax(-1)]


def network(C: int = 4, seed: int = 0, affine: bool = False) -> Network:
    """Return a network in float64, its plain tensors too, whose norms have seen other data than zeros."""
    torch.manual_seed(seed)
    model = Network(C, 3, nn.CrossEntropyLoss(), affine).double()
    model.alphas_normal.data = model.alphas_normal.data.double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model


def batch(size: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return images f64[N,3,6,6] and labels i64[N]."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 6, 6, dtype=torch.float64, generator=generator)
    return images, torch.randint(3, (size,), generator=generator)


def set_vertex(model: Network, *chosen: int) -> None:
    """Make the softmax of the weights one-hot: for each edge the candidate at the given position."""
    with torch.no_grad():
        model.alphas_normal.fill_(-1e5)
        for edge, position in enumerate(chosen):
            model.alphas_normal[edge, position] = 0.0
