"""Every idiom of ``support/supernets`` goes through the same battery: all that a search loop may do to a supernet."""

from __future__ import annotations

import copy
import functools
import operator
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import toponas_fx
from collected import IDIOMS
from equality import double
from exactness import assert_close, assert_runs_like, observe
from idiom import Idiom
from toponas_fx.module_tree.tensor_paths import TensorPath, model_tensors
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.testing.differences import scatter_statistics
from toponas_fx.tuning.autotune import ANSWERS

pytestmark = pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__)


def build(kind: type[Idiom], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = double(kind())
    scatter_statistics(model)
    return model


def simplified(model: Any, **options: Any) -> Any:
    """Simplify a supernet; it compiles, or is left as written for the reason that the idiom names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = toponas_fx.simplify(model, model.inputs(3), **options)
    if model.as_written is None:
        assert not fast._toponas.as_written
        texts = [str(warning.message) for warning in caught]
        assert all("no mixed operation was found" in text for text in texts) or not model.expected.mixtures, texts
        assert len(texts) <= 1, texts
    for reason in fast._toponas.as_written.values():
        assert model.as_written in reason
        assert ".py:" in reason
    assert bool(fast._toponas.as_written) == (model.as_written is not None)
    return fast


@contextmanager
def quietly(kind: type[Idiom]) -> Iterator[None]:
    """Let an idiom that runs as written say so again where its state changed."""
    with warnings.catch_warnings():
        if kind.as_written is not None:
            warnings.simplefilter("ignore")
        yield


def agrees(fast: Any, model: Any, batch: int = 3) -> None:
    for training in (True, False):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, *model.inputs(batch), **model.keywords())


@pytest.mark.parametrize("passes", [(), None], ids=["captured", "exact"])
def test_it_computes_what_the_original_does(kind: type[Idiom], passes: Any) -> None:
    model = build(kind)
    fast = simplified(model, mode="exact", passes=passes)
    for seed in range(3):
        if seed:
            model.set_random(seed)
        for batch in (3, 2):
            agrees(fast, model, batch)
    if kind.has_vertices:
        model.set_vertex(1)
        agrees(fast, model)


def test_every_tensor_is_read_afresh(kind: type[Idiom]) -> None:
    model = build(kind)
    fast = simplified(model, mode="exact")
    changes = 0
    for _, tensor in list(model_tensors(model)):
        if not tensor.is_floating_point():
            continue
        before = outputs(model)
        tensor.data.add_(torch.rand(tensor.shape, dtype=tensor.dtype))
        after = outputs(fast)
        assert_all_close(after, outputs(model))
        changes += any(not torch.equal(left, right) for left, right in zip(before, after, strict=True))
        tensor.data = tensor.data * 0.5
        assert_all_close(outputs(fast), outputs(model))
    assert changes > 0
    for path, tensor in list(model_tensors(model)):
        if any(tensor is weight for weight in model.arch()):
            fresh = (tensor.detach() + torch.rand(tensor.shape, dtype=tensor.dtype)).requires_grad_()
            fresh = nn.Parameter(fresh.detach()) if isinstance(tensor, nn.Parameter) else fresh
            for side in (fast, model):
                rebind(side, path, fresh)
    agrees(fast, model)


def test_sharing_keeps_every_discrete_architecture(kind: type[Idiom]) -> None:
    model = build(kind)
    fast = simplified(model)
    expected = kind.expected
    assert (expected is None) == (kind.as_written is not None)
    if expected is not None:
        report = fast.train().report
        assert len(report.mixtures) == expected.mixtures
        for name in ("convolutions", "norms"):
            wanted = getattr(expected, name)
            assert wanted is None or (getattr(report.before, name), getattr(report.after, name)) == wanted, name
    with quietly(kind):
        for seed in range(3 if kind.has_vertices else 0):
            model.set_vertex(seed)
            assert_vertex(fast, toponas_fx.restore(fast), model)
        model.set_random(5)
        assert all(torch.isfinite(value).all() for value in outputs(fast))
        if kind.has_vertices and model.has_state:
            for side in (fast, model):
                side.change_state()
            model.set_vertex(1)
            assert_vertex(fast, toponas_fx.restore(fast), model)


def assert_vertex(fast: Any, restored: Any, model: Any) -> None:
    arch = {id(tensor) for tensor in model.arch()}
    tensors = {id(tensor): tensor for _, tensor in model_tensors(fast)}
    wanted = [key for key, tensor in tensors.items() if tensor.requires_grad and tensor.is_leaf]
    inputs, keywords = model.inputs(3), model.keywords()
    for training in (True, False):
        fast.train(training)
        found = observe(fast, fast, *inputs, **keywords)
        expected = observe(fast.reference, fast, *inputs, **keywords)
        alone = observe(restored.train(training), restored, *inputs, **keywords)
        for other in (expected, alone):
            for pair in zip(pytree.tree_leaves(found.output), pytree.tree_leaves(other.output), strict=True):
                assert_near(*pair)
        for key, left, right in zip(wanted, found.gradients, expected.gradients, strict=False):
            if key not in arch:
                assert_near(left, right)


def assert_near(found: Any, expected: Any) -> None:
    """Assert that values agree at 1e-6 of their size, the rounding of norms whose eps is 1e-10; None is zero here."""
    if not isinstance(found, Tensor) and not isinstance(expected, Tensor):
        assert found == expected
        return
    found = torch.zeros_like(expected) if found is None else found
    expected = torch.zeros_like(found) if expected is None else expected
    scale = max(1.0, expected.detach().abs().max().item())
    assert (found - expected).detach().abs().max().item() <= 1e-6 * scale


@pytest.mark.parametrize("mode", ["exact", "share"])
def test_copies_and_checkpoints(kind: type[Idiom], mode: str) -> None:
    model = build(kind)
    with quietly(kind):
        fast = simplified(model, mode=mode)
        expected = outputs(fast)
        twins = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
        other = simplified(build(kind, seed=1), mode=mode)
        other.load_state_dict(fast.state_dict())
        copy_plain_tensors(fast, other)
        for twin in (*twins, other):
            assert isinstance(twin, kind)
            assert_all_close(outputs(twin), expected)
            assert [name for name, _ in twin.named_parameters()] == [name for name, _ in fast.named_parameters()]
        for _, tensor in model_tensors(fast):
            if tensor.is_floating_point():
                tensor.data.add_(torch.rand(tensor.shape, dtype=tensor.dtype))
        assert any(not torch.equal(left, right) for left, right in zip(outputs(fast), expected, strict=True))
        for twin in twins:
            assert_all_close(outputs(twin), expected)
        fast.load_state_dict(build(kind).state_dict())
        original = {name: parameter for name, parameter in build(kind).named_parameters()}
        for name, parameter in fast.named_parameters():
            assert torch.equal(parameter, original[name])


def test_changed_state_is_honoured(kind: type[Idiom]) -> None:
    model = build(kind)
    if not model.has_state:
        pytest.skip("nothing but tensors decides what it computes")
    fast = simplified(model, mode="exact")
    before = [outputs(model, training) for training in (True, False)]
    for side in (fast, model):
        side.change_state()
    after = [outputs(model, training) for training in (True, False)]
    assert any(
        len(left) != len(right) or any(not torch.equal(a, b) for a, b in zip(left, right, strict=True))
        for left, right in zip(before, after, strict=True)
    )
    with quietly(kind):
        agrees(fast, model)


def outputs(model: Any, training: bool = False) -> list[Tensor]:
    """Return all tensors of one run, from one seed."""
    run = observe(model.train(training), model, *model.inputs(3), **model.keywords())
    model.train()
    return [leaf for leaf in pytree.tree_leaves(run.output) if isinstance(leaf, Tensor)]


def assert_all_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert_close(left, right)


def copy_plain_tensors(source: Any, target: Any) -> None:
    """Copy what a state_dict leaves out."""
    with torch.no_grad():
        for (_, left), (_, right) in zip(model_tensors(source), model_tensors(target), strict=True):
            right.copy_(left)


def value_at(model: Any, path: TensorPath) -> Any:
    value = operator.attrgetter(path.target)(model)
    for kind, key in path.steps:
        value = value[key] if kind == "item" else getattr(value, key)
    return value


def rebind(model: Any, path: TensorPath, fresh: Any) -> None:
    """Put another tensor in the place of one of the model's."""
    if path.steps:
        kind, key = path.steps[-1]
        owner = value_at(model, TensorPath(path.target, path.steps[:-1]))
        if kind == "item" and not isinstance(owner, tuple):
            owner[key] = fresh
        elif kind == "attribute":
            setattr(owner, key, fresh)
        return
    owner, _, name = path.target.rpartition(".")
    setattr(model.get_submodule(owner), name, fresh)


def test_recomputing_and_what_tuning_may_choose_change_no_number(kind: type[Idiom]) -> None:
    model = build(kind)
    passes = functools.reduce(lambda passes, answer: answer.change(passes), ANSWERS, DEFAULT_PASSES)
    fast = simplified(model, mode="exact", recompute=True, passes=passes)
    with quietly(kind):
        agrees(fast, model)
