"""What a supernet in one idiom of the field tells the battery of ``test_supernets.py``, and the blocks it is made of.

A file of this folder holds the idioms of one kind, each a class below ``Idiom``; ``collected.IDIOMS`` lists them all.
They are restated from public code, none of it is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from exactness import image, weights

C = 4
"""Channels of the test supernets."""


@dataclass(frozen=True)
class Expected:
    """What sharing is to make of an idiom, counted in its training graph; before and after.

    Attributes:
        mixtures: weighted sums over candidates, edge by edge, that the topology holds.
        convolutions: calls of convolutions, before and after; None where there is nothing to say.
        norms: likewise.
    """

    mixtures: int
    convolutions: tuple[int, int] | None = None
    norms: tuple[int, int] | None = None


class Idiom(nn.Module):
    """A supernet whose weights are ``alphas``, logits of a softmax unless it says otherwise.

    Attributes:
        expected: what sharing makes of it; None for one that runs as its user wrote it.
        as_written: a part of the reason where forward cannot be compiled, else None.
        is_raw: the weights are ``alphas`` themselves.
        has_vertices: weights can be made one-hot by ``set_vertex``; not where forward samples them.
        is_deterministic_in_shape: False where another batch size is another model.
    """

    expected: ClassVar[Expected | None] = None
    as_written: ClassVar[str | None] = None
    is_raw: ClassVar[bool] = False
    has_vertices: ClassVar[bool] = True
    alphas: Any

    def arch(self) -> list[Tensor]:
        """Return the architecture weights; each row is one edge's, or one candidate list's."""
        return [self.alphas]

    def inputs(self, batch: int) -> tuple[Any, ...]:
        """Return forward's positional arguments for a batch size."""
        return (image(batch, C),)

    def keywords(self) -> dict[str, Any]:
        """Return forward's keyword arguments."""
        return {}

    def change_state(self) -> None:
        """Change Python state that forward reads so that it computes something else; most idioms have none."""

    @property
    def has_state(self) -> bool:
        """Return whether ``change_state`` does anything."""
        return type(self).change_state is not Idiom.change_state

    def set_vertex(self, seed: int) -> None:
        """Make the weights one-hot, each row's candidate chosen by the seed."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.arch():
                rows = torch.full_like(tensor, 0.0 if self.is_raw else -1e5).reshape(-1, tensor.shape[-1])
                chosen = torch.randint(rows.shape[1], (rows.shape[0],), generator=generator)
                rows[torch.arange(rows.shape[0]), chosen] = 1.0 if self.is_raw else 0.0
                tensor.copy_(rows.view(tensor.shape))

    def set_random(self, seed: int) -> None:
        """Draw new weights."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.arch():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))


def parameter(*shape: int, seed: int = 2) -> nn.Parameter:
    """Return architecture weights as a parameter, f64[...]."""
    return nn.Parameter(weights(*shape, seed=seed).detach())


class Zero(nn.Module):
    """The candidate "none"."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul(0.0)


def conv(k: int, c: int = C, affine: bool = False) -> nn.Module:
    """Return ReLU-conv-BN; the convolution has a bias where the norm has affine weights."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c, c, k, padding=k // 2, bias=affine), nn.BatchNorm2d(c, affine=affine))


def separable(k: int, c: int = C) -> nn.Module:
    """Return the separable convolution of DARTS: ReLU, depthwise, pointwise, norm, twice."""
    stages = [
        layer
        for _ in range(2)
        for layer in (
            nn.ReLU(),
            nn.Conv2d(c, c, k, padding=k // 2, groups=c, bias=False),
            nn.Conv2d(c, c, 1, bias=False),
            nn.BatchNorm2d(c, affine=False),
        )
    ]
    return nn.Sequential(*stages)


def dilated(k: int, c: int = C) -> nn.Module:
    """Return the dilated convolution of DARTS: ReLU, depthwise of dilation 2, pointwise, norm."""
    depthwise = nn.Conv2d(c, c, k, padding=k - 1, dilation=2, groups=c, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c, affine=False))


def pool(c: int = C) -> nn.Module:
    """Return a 3x3 max pooling and its norm."""
    return nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(c, affine=False))


def candidates() -> list[nn.Module]:
    """Return four candidates, two of them convolutions that share."""
    return [Zero(), nn.Identity(), conv(3), conv(1)]


def edges(count: int = 2) -> nn.ModuleList:
    """Return the candidates of several edges."""
    return nn.ModuleList(nn.ModuleList(candidates()) for _ in range(count))


def mix(w: Any, ops: Any, x: Tensor) -> Any:
    """Return the mixed operation of one edge, as most code bases write it."""
    return sum(v * op(x) for v, op in zip(w, ops, strict=True))
