"""Random modules, most of them no supernets: what simplify returns does what the module did, or the error is clear."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import toponas_fx
from random_modules import Source, random_source
from toponas_fx.module_tree.tensor_paths import model_tensors

TOLERANCE = 1e-8
OBSERVED = ("output", "gradients", "tensors of the model", "inputs", "torch's draws", "Python's draws", "numpy's draws")


class _Raised:
    """What a call of the user's own forward raised."""

    def __init__(self, error: Exception) -> None:
        self.kind, self.text = type(error), str(error)


def calls(model: Any, source: Source) -> Iterator[Any]:
    """Run a model in both modes on batches of several sizes, and yield all that each run leaves behind."""
    for seed, (training, batch) in enumerate(((True, 3), (False, 3), (True, 2), (True, 3))):
        model.train(training)
        yield one_call(model, source, batch, source.seed * 10 + seed)


def seed_all(seed: int) -> None:
    for draw in (torch.manual_seed, random.seed, numpy.random.seed):
        draw(seed)


def one_call(model: Any, source: Source, batch: int, seed: int, forward: Any = None) -> Any:
    seed_all(seed)
    args, kwargs = source.arguments(batch, seed)
    given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    for leaf in given:
        leaf.requires_grad_(leaf.is_floating_point() and source.seed % 3 == 0)
    try:
        output = (forward or model)(*args, **kwargs)
    except Exception as error:
        return _Raised(error)
    draws = torch.rand(1), random.random(), numpy.random.rand()
    leaves, spec = pytree.tree_flatten(output)
    differentiable = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    tensors = dict(sorted((str(path), tensor) for path, tensor in model_tensors(model)))
    wanted = [t for t in (*tensors.values(), *given) if t.requires_grad and t.is_leaf]
    gradients: Any = []
    if differentiable:
        loss = sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in differentiable)
        try:
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
        except RuntimeError as error:  # the module wrote over what its own backward needs
            return _Raised(error)
    found = (leaves, list(gradients), list(tensors.values()), given, *draws)
    return spec, pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), found)


def assert_alike(found: Any, expected: Any) -> None:
    if isinstance(expected, _Raised):
        assert isinstance(found, _Raised), f"the original raises {expected.kind.__name__}: {expected.text}"
        assert found.kind is expected.kind, f"{found.kind.__name__}: {found.text}"
        return
    assert not isinstance(found, _Raised), f"{found.kind.__name__}: {found.text}"
    assert found[0] == expected[0]
    names = (
        "output",
        "gradients",
        "tensors of the model",
        "inputs",
        "torch's draws",
        "Python's draws",
        "numpy's draws",
    )
    for name, left, right in zip(names, found[1], expected[1], strict=True):
        for one, other in zip(pytree.tree_leaves(left), pytree.tree_leaves(right), strict=True):
            if name == "gradients" and one is None and other is not None:
                one = torch.zeros_like(other)  # all that led there was a dropped candidate "none"
            assert_near(one, other, name)


def assert_near(found: Any, expected: Any, what: str, tolerance: float = TOLERANCE) -> None:
    if not isinstance(expected, Tensor):
        assert type(found) is type(expected), what
        assert found == expected, what
        return
    assert isinstance(found, Tensor), what
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    if torch.equal(found, expected):
        return
    scale = max(1.0, expected.nan_to_num().abs().max().item())
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def simplified(model: Any, source: Source, mode: str) -> Any:
    """Simplify a module; None, after a look at the error, where that raises."""
    args, kwargs = source.arguments(3)
    inputs = (*args, *([kwargs["y"]] if "y" in kwargs else []))
    seed_all(5)
    failure: Exception | None = None
    try:
        return toponas_fx.simplify(model, inputs, mode=mode)
    except Exception as error:
        failure = error
    if isinstance(failure, toponas_fx.ToponasError):
        assert not isinstance(failure, toponas_fx.errors.PassError), f"a pass failed: {failure}"
        assert "\n" not in str(failure)
        return None
    with torch.random.fork_rng():
        found = one_call(source.build().train(), source, 3, 5)
    assert isinstance(found, _Raised), f"{type(failure).__name__}: {failure}"
    assert found.kind is type(failure)
    return None


@contextmanager
def changed(source: Source, *models: Any) -> Iterator[None]:
    """Change Python state, tensors and modules that forward may read, in the same way in each model."""
    draw = random.Random(source.seed)
    kind = type(source.build())
    module = sys.modules[kind.__module__]
    before, scale = kind.FACTOR, module.SCALE
    kind.FACTOR, module.SCALE = draw.choice((1.5, 2.5)), draw.choice((0.75, 1.25))
    for model in models:
        same = random.Random(source.seed)
        torch.manual_seed(source.seed)
        model.scale, model.flag = same.choice((0.5, 2.0)), same.choice((True, False))
        model.table["k"][1] = same.choice((2.0, 3.0))
        for _, tensor in model_tensors(model):
            if tensor.is_floating_point():
                tensor.data.mul_(0.9).add_(0.05)
        for name, child in list(model.named_children()):
            if type(child) is nn.Conv2d and child.padding == (0, 0) and same.random() < 0.3:
                setattr(model, name, nn.Conv2d(4, 4, 1).double().train(child.training))
            elif same.random() < 0.2:
                child.register_forward_hook(lambda m, a, out: out * 2 if isinstance(out, Tensor) else None)
    try:
        yield
    finally:
        kind.FACTOR, module.SCALE = before, scale


def check_exact(source: Source) -> bool:
    model, original = source.build(), source.build()
    names = [sorted(vars(module)) for module in model.modules()]
    tensors = [tensor.detach().clone() for _, tensor in model_tensors(model)]
    fast = simplified(model, source, "exact")
    if fast is None:
        return False
    drawn = torch.rand(1).item(), random.random(), numpy.random.rand()
    seed_all(5)
    assert drawn == (torch.rand(1).item(), random.random(), numpy.random.rand()), "simplify draws from a generator"
    assert type(model) is type(original)
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert all(torch.equal(a, b) for a, (_, b) in zip(tensors, model_tensors(model), strict=True))
    for found, expected in zip(calls(fast, source), calls(original, source), strict=True):
        assert_alike(found, expected)
    with changed(source, fast, original):
        for found, expected in zip(calls(fast, source), calls(original, source), strict=True):
            assert_alike(found, expected)
    return not fast._toponas.as_written


def check_shared(source: Source) -> None:
    fast, original = simplified(source.build(), source, "share"), source.build()
    if fast is None:
        return
    for found, expected in zip(calls(fast, source), calls(original, source), strict=True):
        if isinstance(expected, _Raised):
            return
        assert not isinstance(found, _Raised), f"{found.kind.__name__}: {found.text}"
        leaves = [leaf for leaf in pytree.tree_leaves(expected[1][:2]) if isinstance(leaf, Tensor)]
        if all(leaf.isfinite().all() for leaf in leaves):
            ours = [leaf for leaf in pytree.tree_leaves(found[1][:2]) if isinstance(leaf, Tensor)]
            assert all(leaf.isfinite().all() for leaf in ours), "no longer finite"
    for chosen in range(3 if source.rows else 0):
        fast.set_vertex(chosen)
        for training in (True, False):
            fast.train(training)
            expected = one_call(fast, source, 3, chosen, fast.reference)
            found = one_call(fast, source, 3, chosen)
            assert isinstance(found, _Raised) == isinstance(expected, _Raised)
            if not isinstance(found, _Raised):
                for one, other in zip(found[1][0], expected[1][0], strict=True):
                    assert_near(one, other, "output at a vertex", 1e-6)


def check(seed: int) -> bool:
    """Check the module of one seed; a failure shows its text. Return whether it compiled."""
    source = random_source(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_shared(source)
            return check_exact(source)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}\n{source.text}") from error


@pytest.mark.parametrize("seed", range(30))
def test_random_modules(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(30, 630, 50))
def test_random_modules_thoroughly(start: int) -> None:
    assert sum(map(check, range(start, start + 50))) > 25, "most compile"
