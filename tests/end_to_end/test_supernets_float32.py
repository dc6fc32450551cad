"""Every idiom once in float32, where other implementations run than in float64: the same outputs and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import toponas_fx
from collected import IDIOMS
from exactness import observe
from idiom import Idiom
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.testing.differences import scatter_statistics

COMPILED = [kind for kind in IDIOMS if kind.as_written is None]


def single(kind: type[Idiom]) -> Any:
    """Build a supernet whose tensors are all float32."""
    torch.manual_seed(0)
    model = kind()
    for _, tensor in model_tensors(model):
        if tensor.is_floating_point():
            tensor.data = tensor.data.float()
    scatter_statistics(model)
    return model


def in_float32(model: Any) -> Any:
    """Return what forward takes."""
    given = model.inputs(3), model.keywords()
    return pytree.tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, given)


@pytest.mark.parametrize("kind", COMPILED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mode", ["exact", "share"])
def test_float32_gives_what_the_original_or_the_reference_gives(kind: type[Idiom], mode: str) -> None:
    model: Any = single(kind)
    fast = toponas_fx.simplify(model, in_float32(model)[0], mode=mode)
    if mode == "share" and not kind.has_vertices:
        return
    for training in (True, False):
        fast.train(training)
        model.train(training)
        if mode == "share":
            model.set_vertex(1)
        inputs, keywords = in_float32(model)
        other, owner = (model, model) if mode == "exact" else (fast.reference, fast)
        found, expected = (observe(call, owner, *inputs, **keywords) for call in (fast, other))
        arch = {id(tensor) for tensor in model.arch()} if mode == "share" else set()
        wanted = [tensor for _, tensor in {id(t): (p, t) for p, t in model_tensors(owner)}.values()]
        wanted = [tensor for tensor in wanted if tensor.requires_grad and tensor.is_leaf]
        pairs = list(zip(pytree.tree_leaves(found.output), pytree.tree_leaves(expected.output), strict=True))
        gradients = zip(wanted, found.gradients, expected.gradients, strict=False)
        pairs += [(left, right) for tensor, left, right in gradients if id(tensor) not in arch]
        scale = max([1.0, *(right.abs().max().item() for _, right in pairs if isinstance(right, Tensor))])
        for left, right in pairs:
            assert_near(left, right, scale)


def assert_near(found: Any, expected: Any, scale: float) -> None:
    """Assert that values agree at 1e-3 of the largest; None is zero here."""
    if not isinstance(found, Tensor) and not isinstance(expected, Tensor):
        assert found == pytest.approx(expected, rel=1e-3) if isinstance(found, float) else found == expected
        return
    found = torch.zeros_like(expected) if found is None else found
    expected = torch.zeros_like(found) if expected is None else expected
    assert found.dtype == expected.dtype
    assert (found - expected).detach().abs().max().item() <= 1e-3 * scale
