"""Random supernets through both modes: nothing may be wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import toponas_fx
from equality import assert_exact, assert_same, assert_vertex, double, run, scatter_statistics
from random_supernets import RandomSupernet, Spec, specs

FAST = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
THOROUGH = settings(FAST, max_examples=200)


def check_exact(spec: Spec) -> None:
    torch.manual_seed(0)
    model = double(RandomSupernet(spec))
    original = copy.deepcopy(model)
    x = torch.randn(4, 2, 6, 6).double()
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert_exact(fast, original, (x,))
    found = run(fast, fast, (x,), [model.alphas])
    assert_same(found, run(original, original, (x,), [original.alphas]), 1e-10)


def check_shared(spec: Spec) -> None:
    torch.manual_seed(0)
    model = double(RandomSupernet(spec))
    x = torch.randn(4, 2, 6, 6).double()
    fast = toponas_fx.simplify(model, x)
    scatter_statistics(fast)
    for training in (True, False):
        fast.train(training)
        for shift in range(max(map(len, spec.edges))):
            with torch.no_grad():
                model.alphas.zero_()
                for edge, names in enumerate(spec.edges):
                    model.alphas[edge, (edge + shift) % len(names)] = 1.0
            assert_vertex(fast, (x,), architecture=[model.alphas])
    with torch.no_grad():
        model.alphas.normal_()
    output = fast(x)
    gradients = torch.autograd.grad(output.square().sum(), [*fast.parameters(), model.alphas], allow_unused=True)
    assert all(torch.isfinite(value).all() for value in (output, *gradients) if value is not None)


@FAST
@given(specs())
def test_exact_mode(spec: Spec) -> None:
    check_exact(spec)


@FAST
@given(specs())
def test_shared_at_vertices(spec: Spec) -> None:
    check_shared(spec)


@pytest.mark.slow
@THOROUGH
@given(specs())
def test_exact_mode_thoroughly(spec: Spec) -> None:
    check_exact(spec)


@pytest.mark.slow
@THOROUGH
@given(specs())
def test_shared_at_vertices_thoroughly(spec: Spec) -> None:
    check_shared(spec)
