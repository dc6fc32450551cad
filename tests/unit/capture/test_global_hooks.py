"""Hooks that torch runs around every module's call, set before and after `simplify`, changed and removed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs
from torch.utils.flop_counter import FlopCounterMode

import toponas_fx


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4)) for k in (1, 3)
        )
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total: Tensor = sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))
        return total


def after(module: nn.Module, given: Any, result: Any) -> Any:
    return result * 2 if isinstance(module, nn.Conv2d) else None


def others(module: nn.Module, given: Any, result: Any) -> Any:
    return result.tanh() if isinstance(module, nn.BatchNorm2d) else None


def before(module: nn.Module, given: Any) -> Any:
    return tuple(x * 3 for x in given) if isinstance(module, nn.ReLU) else None


def backward(module: nn.Module, to_inputs: Any, to_outputs: Any) -> Any:
    return tuple(g if g is None else g * 1.5 for g in to_inputs) if isinstance(module, nn.ReLU) else None


HOOKS: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
    (torchs.register_module_forward_hook, after),
    (torchs.register_module_forward_hook, others),
    (torchs.register_module_forward_pre_hook, before),
    (torchs.register_module_full_backward_hook, backward),
)
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
X = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _unhooked() -> Iterator[None]:
    yield
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(torchs, f"_global{name}").clear()


def assert_agree(fast: Any, original: Any) -> None:
    for _ in range(2):
        found, expected = (
            [value := model(X), *torch.autograd.grad(value.square().sum(), list(model.parameters()))]
            for model in (fast, original)
        )
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("register", "hook"), HOOKS)
@pytest.mark.parametrize("is_called", [False, True])
def test_set_after_simplify_and_removed(register: Callable[..., Any], hook: Any, is_called: bool) -> None:
    original = Mix().double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact")
    if is_called:
        assert_agree(fast, original)
    handle = register(hook)
    assert_agree(fast, original)
    handle.remove()
    assert_agree(fast, original)


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize(("register", "hook"), HOOKS)
def test_set_before_simplify_and_removed(register: Callable[..., Any], hook: Any) -> None:
    original = Mix().double()
    handle = register(hook)
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact")
    assert_agree(fast, original)
    handle.remove()
    programs = list(fast._toponas.programs)
    assert not programs, "it runs as written while the hook is there"
    assert_agree(fast, original)
    assert fast._toponas.programs, "and is compiled without it"
    assert not fast._toponas.audits.found


def test_one_in_the_place_of_another() -> None:
    original = Mix().double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), X, mode="exact")
    for hook in (after, others, after):
        handle = torchs.register_module_forward_hook(hook)
        assert_agree(fast, original)
        handle.remove()


def test_the_reason_names_the_hook() -> None:
    torchs.register_module_forward_hook(after)
    with pytest.warns(UserWarning, match="the hook `after` runs around every module's call; register hooks on the mod"):
        toponas_fx.simplify(Mix().double(), X)


def test_torchs_own_only_look_on() -> None:
    fast: Any = toponas_fx.simplify(Mix().double(), X, mode="exact")
    fast(X)
    with FlopCounterMode(display=False) as counter:
        fast(X)
    assert counter.get_total_flops() > 0
    assert len(fast._toponas.programs) == 2
    assert not fast._toponas.as_written
