"""Less common idioms of the field end to end: exact mode is the original, shared mode its reference at the vertices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import toponas_fx
from equality import double, scatter_statistics
from exactness import assert_runs_like, image, observe
from odd_supernets import (
    Dirichlet,
    DropPath,
    Entangled,
    Gates,
    Helper,
    Odd,
    PartialChannels,
    Projected,
    Ragged,
    SharedCells,
    Stacked,
    TwoOutputs,
)
from toponas_fx.capture.owners import model_tensors

FIXED = [DropPath, Entangled, Gates, Helper, PartialChannels, Projected, Ragged, SharedCells, Stacked, TwoOutputs]


def supernet(kind: type[Odd]) -> Any:
    torch.manual_seed(0)
    model = double(kind())
    scatter_statistics(model)
    return model


@pytest.mark.parametrize("kind", [*FIXED, Dirichlet])
def test_exact_mode_is_the_original(kind: type[Odd]) -> None:
    model, x = supernet(kind), image(3)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert not fast._toponas.as_written
    for seed in range(3):
        if seed:
            model.set_random(seed)
        for training in (True, False):
            fast.train(training)
            model.train(training)
            assert_runs_like(fast, model, x)
            assert_runs_like(fast, model, image(2))
    if kind is not Dirichlet:
        model.set_vertex(1)
        assert_runs_like(fast.train(), model.train(), x)


@pytest.mark.parametrize("kind", FIXED)
def test_shared_mode_is_its_reference_and_what_restore_gives_at_vertices(kind: type[Odd]) -> None:
    model, x = supernet(kind), image(3)
    fast = toponas_fx.simplify(model, x)
    assert not fast._toponas.as_written
    arch = {id(tensor) for tensor in model.arch()}
    tensors = {id(tensor): tensor for _, tensor in model_tensors(fast)}
    wanted = [key for key, tensor in tensors.items() if tensor.requires_grad and tensor.is_leaf]
    for seed in range(4):
        model.set_vertex(seed)
        restored = toponas_fx.restore(fast)
        for training in (True, False):
            fast.train(training)
            found, expected = observe(fast, fast, x), observe(fast.reference, fast, x)
            alone = observe(restored.train(training), restored, x)
            for one, other in ((found, expected), (found, alone)):
                for left, right in zip(pytree.tree_leaves(one.output), pytree.tree_leaves(other.output), strict=True):
                    assert_near(left, right)
            for key, left, right in zip(wanted, found.gradients, expected.gradients, strict=True):
                if key not in arch:
                    assert_near(left, right)


def assert_near(found: Any, expected: Any) -> None:
    """Assert that values agree at 1e-6 of their size, the rounding of norms whose eps is 1e-10; None is zero here."""
    if found is None and expected is None:
        return
    if not isinstance(found, Tensor) and not isinstance(expected, Tensor):
        assert found == expected
        return
    found = torch.zeros_like(expected) if found is None else found
    expected = torch.zeros_like(found) if expected is None else expected
    scale = max(1.0, expected.detach().abs().max().item())
    assert (found - expected).detach().abs().max().item() <= 1e-6 * scale
