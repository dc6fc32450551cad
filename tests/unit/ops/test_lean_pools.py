"""Average pooling as a convolution with a box: values, derivatives, and what is kept for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toponas_fx.ops.average_pooling import Window, _means, _spread, avg_pool2d, scaled_avg_pool2d

WINDOWS = [
    ((7, 8), Window((3, 3), (1, 1), (1, 1), False)),
    ((7, 8), Window((3, 3), (1, 1), (1, 1), True)),
    ((8, 9), Window((3, 3), (2, 2), (1, 1), False)),
    ((8, 8), Window((2, 2), (2, 2), (0, 0), True)),
    ((9, 7), Window((3, 2), (2, 1), (1, 1), False)),
    ((9, 8), Window((2, 2), (3, 3), (1, 1), True)),
]


def stock(x: Tensor, window: Window) -> Tensor:
    return F.avg_pool2d(x, *window[:3], count_include_pad=window.counts_padding)


@pytest.mark.parametrize(("size", "window"), WINDOWS, ids=str)
def test_a_box_pools_and_spreads_as_torch_does(size: Any, window: Window) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = stock(x, window)
    assert torch.allclose(_means(x, window), expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    assert torch.allclose(_spread(weight, x.shape, window), gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "window"), WINDOWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaled_pooling(size: Any, window: Window, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, *size, dtype=dtype, requires_grad=True)
    scale = torch.tensor(0.7, dtype=dtype, requires_grad=True)
    weight = torch.randn_like(stock(x, window))
    results = []
    for value in (scaled_avg_pool2d(x, scale, *window), stock(x, window) * scale):
        first = torch.autograd.grad((value.square() * weight).sum(), (x, scale), create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), (x, scale))
        results.append((value, *first, *second))
    exact = dtype == torch.float64
    for left, right in zip(*results, strict=True):
        assert torch.allclose(left, right, rtol=1e-10 if exact else 1e-3, atol=1e-10 if exact else 1e-4)


@pytest.mark.parametrize(("size", "window"), WINDOWS[:3], ids=str)
def test_plain_pooling_keeps_nothing(size: Any, window: Window) -> None:
    x = torch.randn(2, 3, *size, requires_grad=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = avg_pool2d(x, *window)
    assert not kept
    assert torch.allclose(value, stock(x, window), atol=1e-6)
    found, expected = (torch.autograd.grad(pooled.square().sum(), x)[0] for pooled in (value, stock(x, window)))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_stock_pooling_runs_where_the_box_does_not() -> None:
    window = WINDOWS[0][1]
    for x in (
        torch.randn(2, 3, 7, 8).bfloat16(),
        torch.randn(0, 3, 7, 8),
        torch.randn(3, 7, 8),
        torch.randn(2, 1, 7, 8),
    ):
        assert torch.equal(avg_pool2d(x.requires_grad_(), *window), stock(x, window))
    x = torch.randn(2, 3, 7, 8, requires_grad=True)
    with torch.no_grad():
        assert torch.equal(avg_pool2d(x, *window), stock(x, window))
    with torch.autocast("cpu", torch.bfloat16):
        assert avg_pool2d(x, *window).dtype == stock(x, window).dtype
    scale = torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(scaled_avg_pool2d(x, scale, *window), stock(x, window) * scale)
    batched = torch.func.vmap(lambda scale: scaled_avg_pool2d(x, scale, *window))(torch.tensor([0.5, 2.0]))
    assert torch.allclose(batched[1], stock(x, window) * 2)


def test_the_box_stays_under_torch_compile() -> None:
    graphs: list[str] = []

    def backend(gm: Any, _: Any) -> Any:
        graphs.append(gm.code)
        return gm.forward

    x, scale = torch.randn(2, 3, 7, 8, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    window = Window((3, 3), (1, 1), (1, 1), False)

    def call(x: Tensor, scale: Tensor) -> Tensor:
        return scaled_avg_pool2d(x, scale, *window) + avg_pool2d(x, *window)

    found = torch.autograd.grad(torch.compile(call, backend=backend)(x, scale).sin().sum(), (x, scale))
    assert "autograd_function_apply" in "".join(graphs)
    expected = torch.autograd.grad((stock(x, window) * scale + stock(x, window)).sin().sum(), (x, scale))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
