"""On a GPU: simplified there or moved there, under autocast and a scaled loss."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import toponas_fx
from equality import assert_same, double
from supernets.nasbench201 import NASBench201Supernet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = "cuda"
TOLERANCE = 1e-9  # float64; a GPU adds up in another order


def supernet(alphas: str = "parameter", **options: Any) -> nn.Module:
    model = NASBench201Supernet(C=4, N=1, alphas=alphas, **options)
    model.alphas.data.normal_()
    return model


def images(dtype: torch.dtype = torch.float64, size: int = 4) -> Tensor:
    return torch.randn(size, 3, 8, 8, dtype=dtype).to(CUDA)


def move_plain(model: Any) -> None:
    """Move what ``.to`` leaves behind, as search loops do."""
    if not isinstance(model.alphas, nn.Parameter):
        model.alphas.data = model.alphas.data.to(CUDA)


def tensors(model: Any) -> list[Tensor]:
    return [*model.weight_parameters(), *model.arch_parameters()]


def assert_same_as(fast: Any, original: Any) -> None:
    for training in (True, False):
        fast.train(training)
        original.train(training)
        for size in (4, 6):
            x = images(size=size)
            found = run_on(fast, x), run_on(original, x)
            assert_same(*found, TOLERANCE)


def run_on(model: Any, x: Tensor) -> Any:
    """Return output and gradients, on the CPU; buffers are put back."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    output = model(x)
    assert output.device.type == CUDA
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=CUDA).view_as(output)
    gradients = torch.autograd.grad((output * weights).sum(), tensors(model), allow_unused=True)
    for buffer, value in saved:
        buffer.data.copy_(value)
    return output.cpu(), [None if gradient is None else gradient.cpu() for gradient in gradients]


@pytest.mark.parametrize("alphas", ["parameter", "tensor"])
def test_simplified_on_the_device(alphas: str) -> None:
    model = double(supernet(alphas)).to(CUDA)
    move_plain(model)
    original = copy.deepcopy(model)
    fast = toponas_fx.simplify(model, images(), mode="exact")
    assert not fast._toponas.as_written
    assert_same_as(fast, original)


@pytest.mark.parametrize("alphas", ["parameter", "tensor"])
def test_simplified_on_the_cpu_and_moved(alphas: str) -> None:
    model = double(supernet(alphas))
    original = copy.deepcopy(model).to(CUDA)
    move_plain(original)
    fast = toponas_fx.simplify(model, images().cpu(), mode="exact").to(CUDA)
    move_plain(fast)
    assert_same_as(fast, original)
    assert not fast._toponas.as_written


def test_shared_modules_at_the_strongest_candidates() -> None:
    model = double(supernet()).to(CUDA)
    fast = toponas_fx.simplify(model, images())
    strongest = model.alphas.argmax(-1)
    with torch.no_grad():
        model.alphas.fill_(-1e5)
        model.alphas[torch.arange(len(strongest)), strongest] = 0.0
    for training in (True, False):
        fast.train(training)
        x = images()
        torch.testing.assert_close(fast(x), fast.reference(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_and_a_scaled_loss(dtype: torch.dtype) -> None:
    """A step leaves finite weights, and starts from the loss that the user's model has, to the digits of the type."""
    original = supernet("tensor").to(CUDA)
    move_plain(original)
    fast = toponas_fx.simplify(copy.deepcopy(original), images(torch.float32), mode="exact")
    x, target = images(torch.float32), torch.arange(4, device=CUDA)
    losses = []
    for model in (original, fast):
        optimizer = optim.SGD(tensors(model), lr=1e-3)
        scaler = torch.amp.GradScaler(CUDA, enabled=dtype is torch.float16)
        for _ in range(3):
            optimizer.zero_grad()
            with torch.autocast(CUDA, dtype):
                loss = model._loss(x, target)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        losses.append(loss.item())
        assert all(torch.isfinite(tensor).all() for tensor in tensors(model))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def test_a_checkpoint_goes_from_the_device_to_the_cpu() -> None:
    fast = toponas_fx.simplify(double(supernet()).to(CUDA), images())
    other = toponas_fx.simplify(double(supernet()), images().cpu())
    other.load_state_dict(fast.state_dict())
    fast.eval(), other.eval()
    x = images()
    torch.testing.assert_close(other(x.cpu()), fast(x).cpu(), rtol=TOLERANCE, atol=TOLERANCE)


def test_compiled() -> None:
    fast = toponas_fx.simplify(supernet().to(CUDA), images(torch.float32), mode="exact").eval()
    x = images(torch.float32)
    expected = fast(x)
    torch.testing.assert_close(torch.compile(fast, backend="eager", fullgraph=True)(x), expected)


def test_draws_of_the_device_are_put_back() -> None:
    """Simplifying leaves the device's generator alone, and so does the oracle."""
    model = double(supernet()).to(CUDA)
    before = torch.cuda.get_rng_state()
    fast = toponas_fx.simplify(model, images())
    fast.reference(images())
    assert torch.equal(torch.cuda.get_rng_state(), before)
