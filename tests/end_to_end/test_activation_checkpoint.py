"""``torch.utils.checkpoint`` around cells in the user's forward, and around the simplified model from outside."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import toponas_fx
from exactness import assert_close
from small_darts import Network, batch, network

SIZES = (4, 7, 5, 4)


class CheckpointedNetwork(Network):
    """A network that stores its cells' inputs alone, and runs each cell again in the backward pass."""

    reentrant = False

    def forward(self, input: Tensor) -> Tensor:
        weights = F.softmax(self.alphas_normal, dim=-1)
        s = self.stem(input)
        for i, cell in enumerate(self.cells):
            s = checkpoint(cell, s, weights[i], use_reentrant=self.reentrant)
        return self.classifier(F.adaptive_avg_pool2d(s, 1).view(s.size(0), -1))


def step(model: Any, call: Any, size: int, lr: float = 0.1) -> list[Tensor]:
    """Train a model by one step; return output, loss' gradients and, behind them, all tensors after the step."""
    images, targets = batch(size)
    images.requires_grad_()
    read = [name for name, _ in model.named_parameters() if not name.startswith("auxiliary")]
    wanted = [*map(model.get_parameter, read), model.alphas_normal]
    optimizer = optim.SGD(wanted, lr=lr)
    optimizer.zero_grad()
    output = call(images)
    F.cross_entropy(output, targets).backward()
    gradients = [tensor.grad.clone() for tensor in (*wanted, images)]
    optimizer.step()
    return [output.detach(), *gradients, *(tensor.detach().clone() for tensor in (*wanted, *model.buffers()))]


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("mode", ["share", "exact"])
def test_around_cells_it_is_the_users_model(mode: str, reentrant: bool) -> None:
    model = network(affine=True)
    model.__class__ = type("Checkpointed", (CheckpointedNetwork,), {"reentrant": reentrant})
    original = copy.deepcopy(model)
    with pytest.warns(UserWarning, match=r"checkpoint\(\) runs a part twice"):
        fast = toponas_fx.simplify(model, batch()[0], mode=mode)
    for size in SIZES:
        for found, expected in zip(step(fast, fast, size), step(original, original, size), strict=True):
            assert_close(found, expected)
    fast.eval(), original.eval()
    assert_close(fast(batch()[0]), original(batch()[0]))


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize("mode", ["share", "exact"])
def test_around_the_simplified_model(mode: str, reentrant: bool) -> None:
    """Also where the call has to be captured: what the capture saves for backward is none of checkpoint's."""
    original = network(affine=True)
    fast = toponas_fx.simplify(copy.deepcopy(original), batch()[0], mode=mode)
    original = original if mode == "exact" else copy.deepcopy(fast)
    for size in SIZES:
        found = step(fast, lambda x: checkpoint(fast, x, use_reentrant=reentrant), size)
        expected = step(original, lambda x: checkpoint(original, x, use_reentrant=reentrant), size)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    assert not fast._toponas.as_written


def test_the_gradients_are_those_without() -> None:
    one = toponas_fx.simplify(network(), batch()[0])
    other = copy.deepcopy(one)
    read = len([name for name, _ in one.named_parameters()]) + 3  # output, alphas, images
    for size in SIZES:
        found = step(one, lambda x: checkpoint(one, x, use_reentrant=False), size)
        expected = step(other, other, size)
        for left, right in zip(found[:read], expected[:read], strict=True):
            assert_close(left, right)


def test_random_draws_are_repeated() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = torch.randn(2, dtype=torch.float64, requires_grad=True)
            self.ops = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.Dropout()), nn.Linear(4, 4)]).double()

        def forward(self, x: Tensor) -> Any:
            return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))

    model = Dropping()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    fast = toponas_fx.simplify(model, x, mode="exact")
    found = []
    for size in (5, 3):
        for call in (lambda x: checkpoint(fast, x, use_reentrant=False), model):
            torch.manual_seed(0)
            output = call(x[:size])
            found.append((output, *torch.autograd.grad(output.square().sum(), [model.alphas, x])))
    for one, other in zip(found[::2], found[1::2], strict=True):
        for left, right in zip(one, other, strict=True):
            assert_close(left, right)
