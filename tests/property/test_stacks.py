"""Random stacks through floating, sharing and merging: every one-hot architecture, every sign, and weights at zero."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toponas_fx
from equality import double
from random_stacks import StackMixture, Stacks, example_input, stacks
from toponas_fx.passes import DEFAULT_PASSES, FloatModules
from toponas_fx.rewriting.pass_base import Repeat
from toponas_fx.testing import assert_exact, assert_one_hot

FAST = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
THOROUGH = settings(FAST, max_examples=300)


def last(entry):
    """Place floating modules last."""
    if isinstance(entry, Repeat):
        return Repeat(*map(last, entry.passes))
    return dataclasses.replace(entry, placement="last") if isinstance(entry, FloatModules) else entry


def check(spec: Stacks, at_end: bool) -> None:
    torch.manual_seed(0)
    model = double(StackMixture(spec))
    original = copy.deepcopy(model)
    x = example_input(spec)
    passes = tuple(map(last, DEFAULT_PASSES)) if at_end else None
    fast = toponas_fx.simplify(model, x, passes=passes)
    assert not fast._toponas.as_written
    assert_one_hot(fast, x, tolerance=1e-6)  # where a norm meets a constant, rounding is what its eps lets through
    fast.train()
    for weights in (torch.randn_like(model.alphas), torch.zeros_like(model.alphas), model.alphas.new_tensor(1e-40)):
        with torch.no_grad():
            model.alphas.copy_(weights)
        wanted = [*fast.parameters()]
        gradients = torch.autograd.grad(fast(x).square().sum(), wanted, create_graph=True)
        total = sum(gradient.square().sum() for gradient in gradients)
        second = torch.autograd.grad(total, wanted, allow_unused=True)
        assert all(value.isfinite().all() for value in (*gradients, *second) if value is not None)
    assert_exact(original, x, tolerance=1e-6)  # likewise


@FAST
@given(stacks(), st.booleans())
def test_stacks(spec: Stacks, at_end: bool) -> None:
    check(spec, at_end)


@pytest.mark.slow
@THOROUGH
@given(stacks(), st.booleans())
def test_stacks_thoroughly(spec: Stacks, at_end: bool) -> None:
    check(spec, at_end)
