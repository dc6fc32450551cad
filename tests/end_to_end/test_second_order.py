"""The second-order DARTS step on simplified models: unrolled weights, and in exact mode the original's result."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

import toponas_fx
from architect import Architect, _named_weights
from equality import double
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet

SUPERNETS = {
    "nasbench201": lambda: NASBench201Supernet(C=4, N=1, num_classes=3),
    "nasbench201-tensor": lambda: NASBench201Supernet(C=4, N=1, num_classes=3, alphas="tensor"),
    "darts": lambda: DARTSSupernet(C=4, layers=2, num_classes=3, steps=2, multiplier=2, reductions=(1,)),
}
ETA, R = 0.025, 1e-4


@pytest.fixture(params=SUPERNETS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return double(SUPERNETS[request.param]())


def batches() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64, generator=generator)
    return (x[0], torch.arange(6) % 3), (x[1], torch.arange(6) % 2)


def warm_optimizer(model: Any, train: tuple[Tensor, Tensor]) -> SGD:
    """Return the weights' optimizer after one step, so that it has momentum to unroll."""
    optimizer = SGD(_named_weights(model).values(), lr=ETA, momentum=0.9, weight_decay=3e-4)
    model._loss(*train).backward()
    optimizer.step()
    optimizer.zero_grad()
    for alphas in model.arch_parameters():
        alphas.grad = None
    return optimizer


def test_unrolled_weights_are_the_stepped_ones(model: Any) -> None:
    train, _ = batches()
    fast = toponas_fx.simplify(model, train[0])
    optimizer = warm_optimizer(fast, train)
    architect = Architect(fast, r=R)
    frozen = copy.deepcopy(fast)
    unrolled = architect._unrolled_model(train, ETA, optimizer)
    assert isinstance(unrolled, type(model))
    assert isinstance(unrolled, toponas_fx.SimplifiedModule)
    weights = _named_weights(frozen)
    gradients = torch.autograd.grad(frozen._loss(*train), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        momentum = optimizer.state[fast.get_parameter(name)]["momentum_buffer"]
        stepped = weight - ETA * (0.9 * momentum + gradient + 3e-4 * weight)
        torch.testing.assert_close(unrolled.get_parameter(name), stepped, rtol=1e-10, atol=1e-10)
        assert unrolled.get_parameter(name) is not fast.get_parameter(name)
    for removed, kept in fast.meta["sharing"].ties.items():
        assert unrolled.get_submodule(removed) is unrolled.get_submodule(kept)


def test_exact_mode_takes_the_original_step(model: Any) -> None:
    train, valid = batches()
    fast = toponas_fx.simplify(copy.deepcopy(model), train[0], mode="exact")
    found = []
    for one in (model, fast):
        optimizer = warm_optimizer(one, train)
        Architect(one, r=R).backward_unrolled(train, valid, ETA, optimizer)
        found.append([*(alphas.grad for alphas in one.arch_parameters()), *one.buffers(), *one.parameters()])
    for expected, value in zip(*found, strict=True):
        assert value is not None
        # a difference of two gradients over 2R: rounding of 1e-14 may come back as 1e-10
        torch.testing.assert_close(value, expected, rtol=1e-7, atol=1e-9)


def test_steps_of_a_search_on_the_shared_model(model: Any) -> None:
    train, valid = batches()
    fast = toponas_fx.simplify(model, train[0])
    before = [alphas.detach().clone() for alphas in model.arch_parameters()]
    weights = [parameter.detach().clone() for parameter in fast.parameters()]
    optimizer = warm_optimizer(fast, train)
    architect = Architect(fast, r=1e-2)
    for _ in range(2):
        architect.step(train, valid, ETA, optimizer, unrolled=True)
        optimizer.zero_grad()
        fast._loss(*train).backward()
        nn.utils.clip_grad_norm_(fast.parameters(), 5.0)
        optimizer.step()
    assert all(a is b for a, b in zip(fast.arch_parameters(), model.arch_parameters(), strict=True))
    for old, new in zip(before, model.arch_parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new)
    unchanged = [torch.equal(old, new) for old, new in zip(weights, fast.parameters(), strict=True)]
    assert not any(unchanged)
