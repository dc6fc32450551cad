"""What the loops have in common: candidates, batches, masks of drop path, a wrapper, and what a loop leaves behind."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from supernets.primitives import primitive
from toponas_fx.module_tree.tensor_paths import model_tensors

CLASSES = 3
PRIMITIVES = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")


@dataclass
class Journal:
    """The losses that a loop saw, what it found, and the tensors it ended with."""

    losses: list[float] = field(default_factory=list)
    genotypes: list[Any] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    without_gradient: set[str] = field(default_factory=set)

    def note(self, loss: Tensor) -> Tensor:
        self.losses.append(loss.item())
        return loss

    def end(self, model: nn.Module) -> Journal:
        self.tensors = {str(path): tensor.detach().clone() for path, tensor in model_tensors(model)}
        return self


@dataclass(frozen=True)
class Sizes:
    """How large a search is: float64 to compare numbers, float32 where the lowered operations run."""

    dtype: torch.dtype = torch.float64
    batch: int = 4
    side: int = 8
    C: int = 4

    def batches(self, seed: int, count: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and labels; the last batch is smaller, as a loader's is."""
        generator = torch.Generator().manual_seed(seed)
        for index in range(count):
            size = self.batch if index < count - 1 else self.batch - 1
            images = torch.randn(size, 3, self.side, self.side, generator=generator)
            yield images.to(self.dtype), torch.randint(CLASSES, (size,), generator=generator)


SMALL, LOWERED = Sizes(), Sizes(torch.float32, batch=16, side=16)


def seed_all(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


class Parallel(nn.Module):
    """A wrapper that holds the model as ``module``, as DataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        return self.module(*inputs)


def mask_by_empty(x: Tensor, keep: float) -> Tensor:
    return torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype).bernoulli_(keep)


def mask_by_new(x: Tensor, keep: float) -> Tensor:
    return x.new(x.size(0), 1, 1, 1).bernoulli_(keep)


def mask_by_new_size(x: Tensor, keep: float) -> Tensor:
    return x.new(x.size()).bernoulli_(keep)


def mask_by_legacy(x: Tensor, keep: float) -> Tensor:
    return torch.FloatTensor(x.size(0), 1, 1, 1).bernoulli_(keep).to(x.dtype)


MASKS = {"empty": mask_by_empty, "new": mask_by_new, "new size": mask_by_new_size, "legacy": mask_by_legacy}


class MixedOp(nn.Module):
    """One edge of a DARTS cell; candidates with weights of their own may be dropped for whole images."""

    def __init__(self, C: int, stride: int) -> None:
        super().__init__()
        self._ops = nn.ModuleList([primitive(name, C, stride) for name in PRIMITIVES])

    def forward(self, x: Tensor, weights: Tensor, drop_prob: float = 0.0, mask: str = "empty") -> Any:
        outs = [self.dropped(op(x), drop_prob if index > 2 else 0.0, mask) for index, op in enumerate(self._ops)]
        return sum(w * out for w, out in zip(weights, outs, strict=True))

    def dropped(self, out: Tensor, drop_prob: float, mask: str) -> Tensor:
        if not self.training or drop_prob <= 0.0:
            return out
        out = out.div(1.0 - drop_prob)
        out.mul_(MASKS[mask](out, 1.0 - drop_prob))
        return out


def accuracy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.topk(1, 1)[1].t() == target.view(1, -1)).float().sum() / target.size(0)
