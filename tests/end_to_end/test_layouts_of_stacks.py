"""Weighted sums of stacks: a stack lies in the usual order, whatever its terms do, and `view` counts on that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

Mixing = Callable[[Tensor, list[Tensor]], Tensor]


def rows(weights: Tensor) -> Tensor:
    return weights.view(-1, 1, 1, 1, 1)


MIXINGS: dict[str, Mixing] = {
    "sum": lambda w, terms: (rows(w) * torch.stack(terms)).sum(0),
    "mean": lambda w, terms: (rows(w) * torch.stack(terms)).mean(0),
    "einsum": lambda w, terms: torch.einsum("k,knchw->nchw", w, torch.stack(terms)),
    "tensordot": lambda w, terms: torch.tensordot(w, torch.stack(terms), dims=([0], [0])),
    "last": lambda w, terms: (torch.stack(terms, -1) * w).sum(-1),
    "matmul": lambda w, terms: (w @ torch.stack(terms).flatten(1)).view_as(terms[0]),
    "plain": lambda w, terms: sum(a * term for a, term in zip(w, terms, strict=True)),  # type: ignore[arg-type,misc]
}


class LastNorm(nn.Module):
    """A LayerNorm over channels, whose result lies with channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return result


class Net(nn.Module):
    """A mixed operation whose result is flattened by `view`, as code does that knows a stack."""

    def __init__(self, mixing: str, norm: Callable[[int], nn.Module], channels: int, side: int, flat: bool) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, k, padding=k // 2), norm(channels)) for k in (1, 3)
        )
        self.alphas, self.mixing, self.flat = nn.Parameter(torch.randn(2)), MIXINGS[mixing], flat
        self.head = nn.Linear(channels * side * side, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixing(self.alphas.softmax(0), [op(x) for op in self.ops])
        result: Tensor = self.head(mixed.view(mixed.size(0), -1)) if self.flat else mixed
        return result


def assert_agree(fast: Any, original: Any, x: Tensor, tolerance: float) -> None:
    given = [x.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2)]
    outputs = [model(image) for model, image in zip((fast, original), given, strict=True)]
    assert outputs[0].stride() == outputs[1].stride()
    found, expected = (
        torch.autograd.grad(output.square().mean(), [image, *model.parameters()], allow_unused=True)
        for output, image, model in zip(outputs, given, (fast, original), strict=True)
    )
    for one, other in zip((outputs[0], *found), (outputs[1], *expected), strict=True):
        if one is None or other is None:
            assert one is other
            continue
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        assert one.stride() == other.stride()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, LastNorm])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_channels_last_images_and_terms(mixing: str, norm: Callable[[int], nn.Module], flat: bool) -> None:
    torch.manual_seed(0)
    original = Net(mixing, norm, 4, 6, flat and mixing != "plain").double()
    x = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), x, mode="exact")
    for image in (x, x.contiguous(memory_format=torch.channels_last), x, x[:2]):
        assert_agree(fast, original, image, 1e-9)
    assert not fast._toponas.as_written


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, LastNorm])
@pytest.mark.parametrize("mixing", ["sum", "einsum"])
def test_at_sizes_where_images_are_brought_to_channels_last(mixing: str, norm: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    original, x = Net(mixing, norm, 16, 16, True), torch.randn(16, 16, 16, 16)
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), x, mode="exact")
    assert_agree(fast, original, x, 1e-4)
    assert_agree(fast, original, x.contiguous(memory_format=torch.channels_last), 1e-4)


class Every(nn.Module):
    """A result that is not dense, and goes on: every second channel of two edges."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem, self.alphas = nn.Conv2d(channels, channels, 3, padding=1), nn.Parameter(torch.zeros(2))
        convolution = nn.Conv2d(channels, channels, 3, padding=1)
        self.ops = nn.ModuleList([nn.Sequential(convolution, LastNorm(channels)), LastNorm(channels)])
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)

        def edge() -> Tensor:
            return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))  # type: ignore

        y = torch.cat([edge(), edge()], 1)[:, ::2]
        return y, self.head(y.mean((2, 3)))


@pytest.mark.parametrize("batch", [8, 2, 1])
def test_an_output_that_is_not_dense_goes_on(batch: int) -> None:
    torch.manual_seed(0)
    original, x = Every(), torch.randn(8, 16, 17, 17)
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), x, mode="exact")
    found, expected = (model(x[:batch]) for model in (fast, original))
    gradients = []
    for model, outputs in ((fast, found), (original, expected)):
        loss = outputs[0].square().mean() + outputs[1].square().mean()
        gradients.append(torch.autograd.grad(loss, [outputs[0], *model.parameters()]))
    for one, other in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
