"""Search loops as the field writes them, with one line more: the simplified model goes through as the original does."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import toponas_fx
from search_loops_field import darts, sampling_modes, virtual_net
from search_loops_field.parts import LOWERED, SMALL, Journal, Sizes

ALGORITHMS = ("darts-v1", "darts-v2", "gdas", "setn", "random", "enas")


def made(make: Callable[[Sizes], Any], sizes: Sizes, mode: str | None) -> Any:
    model = make(sizes)
    if mode is None:
        return model
    return toponas_fx.simplify(model, next(sizes.batches(0))[0], mode=mode)


def assert_alike(found: Journal, expected: Journal, tolerance: float) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=tolerance, abs=tolerance)
    assert found.genotypes == expected.genotypes
    assert found.without_gradient == expected.without_gradient
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def assert_sound(found: Journal, expected: Journal) -> None:
    assert len(found.losses) == len(expected.losses)
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert all(0 < loss < 10 for loss in found.losses)
    assert len(found.genotypes) == len(expected.genotypes)
    assert found.without_gradient <= expected.without_gradient


DARTS = {
    "first order": (darts.network, darts.search),
    "second order": (darts.network, partial(darts.search, unrolled=True)),
    "partial channels": (partial(darts.network, partial=4), partial(darts.search, warmup=1)),
    "second network": (virtual_net.controller, virtual_net.search),
}
loops = pytest.mark.parametrize("loop", DARTS)


@loops
def test_exact(loop: str) -> None:
    make, search = DARTS[loop]
    expected = search(made(make, SMALL, None), SMALL)
    assert not expected.without_gradient
    assert_alike(search(made(make, SMALL, "exact"), SMALL), expected, 1e-8)


def slow(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


@loops
@pytest.mark.parametrize("mode", ["share", slow("exact")])
def test_lowered(loop: str, mode: str) -> None:
    make, search = DARTS[loop]
    found, expected = (search(made(make, LOWERED, which), LOWERED) for which in (mode, None))
    assert_sound(found, expected)
    if mode == "exact":
        assert found.losses == pytest.approx(expected.losses, rel=0.02)
    assert not found.without_gradient


@pytest.mark.parametrize("mode", [slow("exact"), "share"])
def test_a_search_resumes_from_a_checkpoint_in_another_model(mode: str) -> None:
    make = partial(made, darts.network, SMALL, mode)
    found = darts.search(make(), SMALL, resume=make)
    assert_alike(found, darts.search(make(), SMALL), 1e-8)


@pytest.mark.parametrize("mask", ["new", "new size", "legacy"])
@pytest.mark.filterwarnings("ignore:(?s).*runs as its user wrote it in a later call")
def test_masks_of_drop_path(mask: str) -> None:
    make = partial(darts.network, mask=mask)
    expected = darts.search(made(make, SMALL, None), SMALL)
    assert_alike(darts.search(made(make, SMALL, "exact"), SMALL), expected, 1e-8)


@pytest.fixture
def _samples():
    """Let a model whose forward samples say that it runs as written."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*runs as its user wrote it")
        yield


def ready(sizes: Sizes) -> Any:
    model = sampling_modes.model(sizes)
    model.set_cal_mode("joint")
    return model


algorithms = pytest.mark.parametrize("algo", ALGORITHMS)


@algorithms
@pytest.mark.usefixtures("_samples")
def test_sampling_modes_exact(algo: str) -> None:
    expected = sampling_modes.search(made(ready, SMALL, None), SMALL, algo)
    found = sampling_modes.search(made(ready, SMALL, "exact"), SMALL, algo)
    assert_alike(found, expected, 1e-8)


@algorithms
@pytest.mark.usefixtures("_samples")
def test_sampling_modes_share(algo: str) -> None:
    expected = sampling_modes.search(made(ready, LOWERED, None), LOWERED, algo)
    fast = made(ready, LOWERED, "share")
    found = sampling_modes.search(fast, LOWERED, algo)
    assert_sound(found, expected)
    if algo in ("darts-v1", "darts-v2", "setn"):
        fast.train().set_cal_mode("joint")
        fast.zero_grad()
        fast(next(LOWERED.batches(0))[0])[1].sum().backward()
        assert all(p.grad is not None for p in fast.parameters())
        assert fast.report.mixtures


@pytest.mark.parametrize("algo", ["darts-v1", "setn"])
@pytest.mark.usefixtures("_samples")
@pytest.mark.filterwarnings("ignore:(?s).*forward cannot run yet.*`mode` is None")
def test_a_model_whose_mode_is_not_set_yet(algo: str) -> None:
    """Forward raises until the loop has set a mode: simplify comes before that in the field's scripts."""
    expected = sampling_modes.search(made(sampling_modes.model, SMALL, None), SMALL, algo)
    found = sampling_modes.search(made(sampling_modes.model, SMALL, "exact"), SMALL, algo)
    assert_alike(found, expected, 1e-8)
