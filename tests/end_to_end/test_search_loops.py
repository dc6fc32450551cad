"""Every idiom of ``support/supernets`` in search loops: two models from one seed go through the same and end alike."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from test_supernets import assert_vertex, build, quietly, simplified
from torch import Tensor

import toponas_fx
from collected import IDIOMS
from idiom import Idiom
from search_loops import LOOPS, Journal, backward, loss

pytestmark = [
    pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__),
    pytest.mark.parametrize("loop", LOOPS),
    pytest.mark.filterwarnings("ignore:grad and param do not obey"),  # a user's slice of its weights, the original too
]


@functools.lru_cache(maxsize=2)
def made(kind: type[Idiom], mode: str) -> Any:
    return simplified(build(kind), mode=mode)


def simplified_for(loop: str, kind: type[Idiom], mode: str) -> Any:
    """Return a simplified model; the first loop gets it as it is, the others a copy."""
    return copy.deepcopy(made(kind, mode)) if loop != "first_order" else simplified(build(kind), mode=mode)


def through(loop: str, model: Any) -> Journal:
    journal = Journal()
    LOOPS[loop](model, journal)
    return journal


def assert_alike(found: Journal, expected: Journal) -> None:
    for (what, values), (other, wanted) in zip(found.entries, expected.entries, strict=True):
        assert what == other
        assert list(values) == list(wanted) or sorted(values) == sorted(wanted), what
        for name, value in wanted.items():
            assert_near(values[name], value, f"{what}: {name}", found.tolerance)


def assert_near(found: Any, expected: Any, what: str, tolerance: float) -> None:
    if not isinstance(expected, Tensor):
        assert found == expected, what
        return
    assert found.shape == expected.shape, what
    assert found.dtype == expected.dtype, what
    if not torch.equal(found, expected):
        error = (found - expected).abs().max().item()
        assert error <= tolerance * max(1.0, expected.abs().max().item()), f"{what}: off by {error}"


def test_an_exact_model_ends_as_the_original_does(kind: type[Idiom], loop: str) -> None:
    fast = simplified_for(loop, kind, "exact")
    with quietly(kind):
        expected = through(loop, build(kind))
        assert_alike(through(loop, fast), expected)


def test_a_sharing_model_stays_sound(kind: type[Idiom], loop: str) -> None:
    fast, model = simplified_for(loop, kind, "share"), build(kind)
    with quietly(kind):
        twin = copy.deepcopy(fast)
        found = through(loop, fast)
        assert_alike(found, through(loop, twin))
        for what, values in found.entries:
            assert all(torch.isfinite(v).all() for v in values.values() if isinstance(v, Tensor)), what
        for one in (fast.double(), model):
            one.train().zero_grad()
            backward(loss(one))
        expected = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert {name for name, p in fast.named_parameters() if p.grad is None} & expected == set()
        if fast.has_vertices:
            fast.set_vertex(1)
            assert_vertex(fast, toponas_fx.restore(fast), fast)
