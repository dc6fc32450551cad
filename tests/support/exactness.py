"""How tests compare a compiled model with the user's own: everything that one run leaves behind, at 1e-10."""

from __future__ import annotations

import importlib
import random
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import toponas_fx
from toponas_fx.module_tree.tensor_paths import model_tensors

TOLERANCE = 1e-10


@dataclass
class Run:
    """What one run did: output, gradients (None where there is none), all tensors of the model and inputs after."""

    output: Any
    gradients: list[Tensor | None]
    tensors: list[Tensor]
    drawn: Tensor


def observe(call: Any, owner: nn.Module, *args: Any, seed: int = 0, **kwargs: Any) -> Run:
    """Run a call and its backward pass from a seed, then put all tensors of ``owner`` back as they were."""
    tensors = {id(tensor): tensor for _, tensor in model_tensors(owner)}
    saved = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
    copies: dict[int, Tensor] = {}

    def own(tensor: Tensor) -> Tensor:
        return copies.setdefault(id(tensor), tensor if tensor.requires_grad else tensor.clone())

    args, kwargs = pytree.tree_map_only(Tensor, own, (args, kwargs))
    torch.manual_seed(seed)
    random.seed(seed)
    output = call(*args, **kwargs)
    drawn = torch.rand(1)
    leaves = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
    wanted = [t for t in (*tensors.values(), *pytree.tree_leaves((args, kwargs))) if _wants_gradient(t)]
    gradients: Sequence[Tensor | None] = [None] * len(wanted)
    if leaves:
        loss = sum((t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in leaves)
        gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    after = [tensor.detach().clone() for tensor in (*tensors.values(), *copies.values())]
    for tensor, value in saved:
        if not torch.equal(tensor, value):
            tensor.data.copy_(value)
    return Run(output, list(gradients), after, drawn)


def _wants_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and value.is_leaf


def assert_runs_like(fast: Any, model: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Assert that two models over the same tensors do the same: output, gradients, buffers, draws."""
    expected = observe(model, model, *args, **kwargs)
    for _ in range(2):  # the second run is of a program that the first may just have made
        found = observe(fast, model, *args, **kwargs)
        left, left_spec = pytree.tree_flatten(found.output)
        right, right_spec = pytree.tree_flatten(expected.output)
        assert left_spec == right_spec
        for one, other in zip(left, right, strict=True):
            assert_close(one, other)
        for one, other in zip(found.gradients, expected.gradients, strict=True):
            assert_close(one, other)
        for one, other in zip(found.tensors, expected.tensors, strict=True):
            assert_close(one, other)
        assert torch.equal(found.drawn, expected.drawn), "another number of random draws"


def assert_close(found: Any, expected: Any) -> None:
    """Assert that two values agree; None is not zero."""
    if not isinstance(expected, Tensor):
        assert found == expected
        return
    assert isinstance(found, Tensor)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def compiled(model: nn.Module, *inputs: Any, passes: Any = (), mode: str = "exact") -> Any:
    """Return the model simplified (by no pass unless told), after asserting that it did compile."""
    fast = toponas_fx.simplify(model, inputs, mode=mode, passes=passes)
    assert not fast._toponas.as_written
    return fast


def left_as_written(model: nn.Module, *inputs: Any, reason: str) -> Any:
    """Return the model simplified, after asserting that it runs as written, for a reason that names a place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = toponas_fx.simplify(model, inputs, mode="exact")
    assert caught
    assert all(reason in str(warning.message) for warning in caught), [str(warning.message) for warning in caught]
    for found in fast._toponas.as_written.values():
        assert reason in found
        where = found.split(":")
        assert where[0].endswith(".py"), found
        assert where[1].isdigit(), found
        assert any(found in note for note in fast.report.notes)
    assert len(set(fast._toponas.as_written.values())) == len(caught)
    return fast


@contextmanager
def counted_captures(monkeypatch: Any) -> Iterator[list[Any]]:
    """Yield a list that grows by one for every call that is captured inside, in how many runs whatsoever."""
    found: list[Any] = []
    with monkeypatch.context() as patch:
        for place, name in (("toponas_fx.facade.dispatch", "compile_call"), ("toponas_fx.api", "record_call")):
            module = importlib.import_module(place)
            real = getattr(module, name)

            def count(*args: Any, _real: Any = real, **kwargs: Any) -> Any:
                found.append(args)
                return _real(*args, **kwargs)

            patch.setattr(module, name, count)
        yield found


def compile_modes_apart(monkeypatch: Any) -> None:
    """Let evaluation have a program of its own, though it takes the path of training."""
    module = importlib.import_module("toponas_fx.api")
    real = module.record_call
    monkeypatch.setattr(module, "record_call", lambda *args, **_: real(*args))


@contextmanager
def no_capture(monkeypatch: Any) -> Iterator[None]:
    """Fail where anything inside captured."""
    with counted_captures(monkeypatch) as found:
        yield
    assert not found, "captured again"


def image(batch: int = 3, channels: int = 4, side: int = 6, seed: int = 1) -> Tensor:
    """Return an input, f64[N,C,H,W]."""
    return torch.randn(batch, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights(*shape: int, seed: int = 2) -> Tensor:
    """Return architecture weights, f64[...], that want a gradient."""
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return values.requires_grad_()
