"""Names in checkpoints: each tensor once and as the user's model has it; originals load, nothing stale comes back."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image
from small_darts import CANDIDATES, EDGES, Network, batch, network, set_vertex
from toponas_fx.module_tree.tensor_paths import model_tensors


def simplified(seed: int = 0, mode: str = "share") -> tuple[Network, Any]:
    model = network(seed=seed)
    return model, toponas_fx.simplify(model, batch()[0], mode=mode)


def wrapped(module: nn.Module) -> nn.Module:
    """Return a module that holds another under a name, as parallel wrappers and trainers do."""
    outer = nn.Module()
    outer.module = module
    outer.head = nn.Linear(2, 2).double()
    return outer


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_names_are_the_users_and_unique(mode: str) -> None:
    model, fast = simplified(mode=mode)
    names = list(fast.state_dict())
    original = list(model.state_dict())
    assert names == [name for name in original if name in names], "in the user's order"
    tensors = fast.state_dict(keep_vars=True)
    assert len({id(tensor) for tensor in tensors.values()}) == len(tensors)
    assert {name for name, _ in fast.named_parameters()} <= set(names)
    assert {name for name, _ in fast.named_buffers()} <= set(names)
    gone = {"share": 2 * 3, "exact": 0}[mode]
    assert len(original) - len(names) == gone, "three buffers of a norm an edge"
    state = fast.state_dict()
    assert isinstance(state, OrderedDict)
    assert hasattr(state, "_metadata")
    prefixed = wrapped(fast).state_dict()
    assert [name for name in prefixed if name.startswith("module.")] == [f"module.{name}" for name in names]


@pytest.mark.parametrize("affine", [True, False])
def test_an_unrolled_step_is_not_undone_by_a_stale_twin(affine: bool) -> None:
    """The unrolled step of DARTS: update by ``named_parameters``, then load over the old model's ``state_dict``."""
    fast = toponas_fx.simplify(network(affine=affine), batch()[0])
    fresh = fast.new()
    state = fast.state_dict()
    theta = torch.cat([parameter.detach().view(-1) for parameter in fast.parameters()]) + 1.0
    offset, params = 0, {}
    for name, parameter in fast.named_parameters():
        params[name] = theta[offset : offset + parameter.numel()].view(parameter.size())
        offset += parameter.numel()
    assert offset == theta.numel()
    state.update(params)
    fresh.load_state_dict(state)
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, params[name]), name
    for (name, buffer), (_, other) in zip(fresh.named_buffers(), fast.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name
    torch._foreach_add_([buffer for buffer in fast.buffers() if buffer.is_floating_point()], 1.0)
    fresh.load_state_dict(fast.state_dict())
    for (name, buffer), (_, other) in zip(fresh.named_buffers(), fast.named_buffers(), strict=True):
        assert torch.equal(buffer, other), name


class LastFirst(nn.Module):
    """Its candidates run in another order than they are registered in."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.BatchNorm2d(4)) for k in (1, 3)
        ).double()
        self.alphas = nn.Parameter(torch.tensor([0.25, 0.75], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.alphas[1] * self.ops[1](x) + self.alphas[0] * self.ops[0](x)


def test_a_module_shared_from_a_later_path_has_one_name_everywhere() -> None:
    fast = toponas_fx.simplify(LastFirst(), image())
    assert fast._toponas.sharing.ties == {"ops.0.1": "ops.1.1"}
    names, state = [name for name, _ in fast.named_parameters()], fast.state_dict()
    assert "ops.1.1.weight" in names
    assert set(names) <= set(state)
    for duplicates in (False, True):
        paths = [path for path, _ in wrapped(fast).named_modules(remove_duplicate=not duplicates)]
        assert "module.ops.1.1" in paths
        assert "module.ops.0.1" not in paths
    state.update({name: parameter.detach() + 1 for name, parameter in fast.named_parameters()})
    twin = copy.deepcopy(fast)
    twin.load_state_dict(state)
    for left, right in zip(twin.parameters(), fast.parameters(), strict=True):
        assert torch.equal(left, right + 1)
    before = dict(fast.named_parameters())
    found = torch.func.functional_call(fast, {name: parameter + 1 for name, parameter in before.items()}, (image(),))
    assert torch.allclose(found, twin(image()), rtol=0, atol=1e-12)
    after = dict(fast.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items()), "torch put back what was there"


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "wrapped"])
@pytest.mark.parametrize("mode", ["share", "exact"])
def test_checkpoints_of_the_original_and_its_own_load_strictly(mode: str, outer: bool) -> None:
    first, fast = simplified(0, mode)
    other, target = simplified(1, mode)
    x = batch()[0]
    wrap = wrapped if outer else lambda module: module
    for source in (first, fast):
        target.load_state_dict(network(seed=2).state_dict())
        holder = wrap(target)
        state = wrap(source).state_dict()
        names = list(state)
        found = holder.load_state_dict(state)
        assert not found.missing_keys
        assert not found.unexpected_keys
        assert list(state) == names, "the caller's dict was changed"
        target.alphas_normal.data.copy_(fast.alphas_normal)
        for training in (True, False):
            target.train(training), fast.train(training)
            assert torch.equal(target.reference(x), fast.reference(x))
    assert other.stem[0].weight is target.stem[0].weight
    assert torch.equal(other.stem[0].weight, first.stem[0].weight)


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "wrapped"])
def test_wrong_names_still_raise(outer: bool) -> None:
    model, fast = simplified()
    wrap = wrapped if outer else lambda module: module
    prefix = "module." if outer else ""
    holder = wrap(fast)
    good = wrap(model).state_dict()
    kept, removed = "cells.0._ops.2.op.2.running_mean", "cells.0._ops.3.op.2.running_mean"
    for change, message in (
        (lambda s: s.update({f"{prefix}extra": torch.ones(1)}), "Unexpected"),
        (lambda s: s.update({f"{prefix}cells.0.extra": torch.ones(1)}), "Unexpected"),
        (lambda s: s.update({f"{prefix}cells.0._ops.3.op.7.weight": torch.ones(1)}), "Unexpected"),
        (lambda s: s.pop(f"{prefix}classifier.weight"), "Missing"),
        (lambda s: s.pop(f"{prefix}{kept}"), "Missing"),
        (lambda s: s.update({f"{prefix}classifier.weight": torch.ones(1)}), "size mismatch"),
    ):
        state = OrderedDict(good)
        change(state)
        with pytest.raises(RuntimeError, match=message):
            holder.load_state_dict(state)
    state = OrderedDict(good)
    state.pop(f"{prefix}{removed}")
    holder.load_state_dict(state)
    state.pop(f"{prefix}{kept}")
    assert holder.load_state_dict(state, strict=False).missing_keys


def test_a_replaced_module_takes_the_first_candidates_value() -> None:
    model, fast = simplified()
    state = model.state_dict()
    state["cells.0._ops.2.op.2.running_mean"] = torch.full((4,), 5.0, dtype=torch.float64)
    state["cells.0._ops.3.op.2.running_mean"] = torch.full((4,), 7.0, dtype=torch.float64)
    fast.load_state_dict(state)
    for position in (2, 3):
        assert bool((fast.cells[0]._ops[position].op[2].running_mean == 5).all())


def test_assigned_state_and_options_of_torch() -> None:
    model, fast = simplified()
    x = batch()[0]
    fresh = fast.new()
    values = {name: value.clone() for name, value in fast.state_dict().items()}
    fresh.load_state_dict(values, assign=True)
    assert fresh.classifier.weight.data_ptr() == values["classifier.weight"].data_ptr()
    assert torch.equal(fresh.eval()(x), fast.eval()(x))
    assert list(fast.state_dict(prefix="a.")) == [f"a.{name}" for name in fast.state_dict()]
    target: dict[str, Any] = OrderedDict()
    fast.state_dict(destination=target)
    assert target.keys() == fast.state_dict().keys()
    assert model.state_dict().keys() == network().state_dict().keys()


def test_registered_weights_and_weights_tied_by_the_user() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.zeros(2))
            self.ops = nn.ModuleList(
                [nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.BatchNorm2d(4)) for k in (1, 3)]
            )
            self.below = nn.Module()
            self.below.alphas = self.alphas
            self.again = self.ops[1]
            self.double()

        def forward(self, x: Tensor) -> Any:
            return sum(w * op(x) for w, op in zip(self.below.alphas, self.ops, strict=True)) + self.again(x)

    model = Tied()
    for mode in ("share", "exact"):
        fast = toponas_fx.simplify(model, image(), mode=mode)
        assert list(fast.state_dict()) == list(model.state_dict()), "what the user tied keeps both names"
        fast.load_state_dict(model.state_dict())
        fast.load_state_dict(fast.state_dict())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("affine", [True, False])
def test_restored_equals_fast_at_every_vertex(affine: bool, training: bool) -> None:
    model, x = network(affine=affine), batch()[0]
    fast = toponas_fx.simplify(model, x)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(1.7)
    for first in range(len(CANDIDATES)):
        for second in range(len(CANDIDATES)):
            set_vertex(model, first, second)
            restored = toponas_fx.restore(fast)
            restored.train(training), fast.train(training)
            twin = copy.deepcopy(fast)
            assert torch.allclose(restored(x), twin(x), rtol=0, atol=1e-7)


def test_restored_is_a_plain_untied_copy_of_the_users_class() -> None:
    model, fast = simplified()
    fast.drop_path_prob = 0.4
    fast.eval()
    before = {name: value.clone() for name, value in fast.state_dict().items()}
    restored = toponas_fx.restore(fast)
    assert type(restored) is Network
    assert vars(restored).keys() == vars(model).keys()
    assert restored.drop_path_prob == 0.4
    assert [name for name, _ in restored.named_modules()] == [name for name, _ in model.named_modules()]
    assert list(restored.state_dict()) == list(model.state_dict())
    assert [name for name, _ in restored.named_parameters()] == [name for name, _ in model.named_parameters()]
    restored.load_state_dict(model.state_dict())
    model.load_state_dict(toponas_fx.restore(fast).state_dict())
    assert not {id(t) for _, t in model_tensors(restored)} & {id(t) for _, t in model_tensors(fast)}
    storages = [tensor.untyped_storage().data_ptr() for _, tensor in model_tensors(restored)]
    assert len(storages) == len(set(storages)) + 1, "alphas_normal and its alias in the list, nothing else"
    assert restored.arch_parameters()[0] is restored.alphas_normal
    assert all(torch.equal(value, before[name]) for name, value in fast.state_dict().items() if "cells" not in name)
    restored.train()
    restored(batch()[0]).sum().backward()
    assert type(restored.new()) is Network


def test_restored_kernels_are_normalized_and_others_untouched() -> None:
    model, fast = simplified()
    restored = toponas_fx.restore(fast)
    for edge in range(EDGES):
        for position in (2, 3):
            kernel = restored.cells[edge]._ops[position].op[1].weight
            assert torch.allclose(kernel.norm(), torch.tensor(4.0, dtype=torch.float64).sqrt(), rtol=1e-12)
            own = fast.cells[edge]._ops[position].op[1].weight
            assert torch.allclose(kernel / kernel.norm(), own / own.norm(), rtol=0, atol=1e-12)
    assert torch.equal(restored.stem[0].weight, model.stem[0].weight)
    assert torch.equal(restored.auxiliary.weight, model.auxiliary.weight)
    exact = toponas_fx.restore(toponas_fx.simplify(network(seed=3), batch()[0], mode="exact"))
    for (name, value), other in zip(exact.state_dict().items(), network(seed=3).state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_kernels_scale_does_not_matter_in_the_shared_model() -> None:
    model, fast = simplified()
    x = batch()[0]
    for training in (True, False):
        fast.train(training)
        before = fast(x), fast.reference(x)
        for factor in (10.0, 0.1):
            with torch.no_grad():
                model.cells[0]._ops[2].op[1].weight.mul_(factor)
            if training:
                assert torch.allclose(fast.reference(x), before[1], rtol=0, atol=1e-7)
            assert torch.allclose(copy.deepcopy(fast)(x), fast(x), rtol=0, atol=1e-7)
    fast.eval()
    before = fast(x)
    with torch.no_grad():
        model.cells[1]._ops[3].op[1].weight.mul_(10)
    assert torch.allclose(fast(x), before, rtol=0, atol=1e-9)


def test_a_module_put_where_another_was_shared_is_seen_at_once() -> None:
    _, fast = simplified()
    candidate = fast.cells[0]._ops[3].op
    assert candidate[2] is fast.cells[0]._ops[2].op[2]
    candidate[2] = nn.BatchNorm2d(4).double()
    assert "cells.0._ops.3.op.2.running_mean" in fast.state_dict()
    assert any(parameter is candidate[2].weight for parameter in fast.parameters())
