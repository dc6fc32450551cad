"""Random supernets through both modes: nothing may be wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import toponas_fx
from toponas_fx.testing import RandomSupernet, assert_exact, assert_one_hot, random_supernets

FAST = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FEW = settings(FAST, max_examples=15)
THOROUGH = settings(FAST, max_examples=200)


def check_shared(model: RandomSupernet) -> None:
    x = model.example_input()
    assert_one_hot(model, x)
    fast = toponas_fx.simplify(model, x)
    with torch.no_grad():
        model.alphas.normal_()
    output = fast(x)
    gradients = torch.autograd.grad(output.square().sum(), [*fast.parameters(), model.alphas], allow_unused=True)
    assert all(torch.isfinite(value).all() for value in (output, *gradients) if value is not None)


@FAST
@given(random_supernets())
def test_exact_mode(model: RandomSupernet) -> None:
    assert_exact(model, model.example_input())


@FEW
@given(random_supernets())
def test_shared_at_one_hot_architectures(model: RandomSupernet) -> None:
    check_shared(model)


@pytest.mark.slow
@THOROUGH
@given(random_supernets())
def test_exact_mode_thoroughly(model: RandomSupernet) -> None:
    assert_exact(model, model.example_input())


@pytest.mark.slow
@THOROUGH
@given(random_supernets())
def test_shared_at_one_hot_architectures_thoroughly(model: RandomSupernet) -> None:
    check_shared(model)
