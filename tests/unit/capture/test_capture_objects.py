"""Objects of the user's that answer to any name, or to none: what they are, their type and their own table say."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from exactness import assert_runs_like, compiled, image, weights


class DotDict(dict[str, Any]):
    """The settings of many a search script."""

    __getattr__ = dict.get
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


class Echo:
    """Answers every question with itself."""

    def __init__(self) -> None:
        self.scale = 2.0

    def __getattr__(self, name: str) -> Any:
        return self


class Refuses:
    """Knows two names, and raises no AttributeError for another."""

    def __init__(self, error: type[Exception]) -> None:
        self.scale, self._error = 2.0, error

    def __getattr__(self, name: str) -> Any:
        raise self._error(name)


class Called(Refuses):
    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale


def settings_module() -> ModuleType:
    module = ModuleType("settings_of_a_search")
    vars(module).update(scale=2.0, torch=torch)
    return module


KINDS: dict[str, Callable[[], Any]] = {
    "dot_dict": lambda: DotDict(scale=2.0, inner=DotDict(depth=1)),
    "echo": Echo,
    "mock": lambda: mock.Mock(scale=2.0),
    "magic_mock": lambda: mock.MagicMock(scale=2.0),
    "mock_of_a_tensor": lambda: mock.Mock(spec=Tensor, scale=2.0),
    "key_error": lambda: Refuses(KeyError),
    "runtime_error": lambda: Refuses(RuntimeError),
    "callable": lambda: Called(KeyError),
    "python_module": settings_module,
}
GLOBAL: Any = None


class Held(nn.Module):
    def __init__(self, args: Any) -> None:
        super().__init__()
        self.alphas = weights(2)
        self.args = args

    def forward(self, x: Tensor) -> Any:
        return (self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x)) * self.args.scale


class Global(Held):
    def forward(self, x: Tensor) -> Any:
        return (self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x)) * GLOBAL.scale


@pytest.mark.parametrize("kind", KINDS)
def test_held_by_the_model(kind: str) -> None:
    model = Held(KINDS[kind]())
    fast = compiled(model, image())
    assert_runs_like(fast, model, image())
    for one in (model, fast):
        one.args.scale = 3.0
    assert_runs_like(fast, model, image())


@pytest.mark.parametrize("kind", KINDS)
def test_as_a_global(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "GLOBAL", KINDS[kind]())
    model = Global(None)
    fast = compiled(model, image())
    assert_runs_like(fast, model, image())
    GLOBAL.scale = 3.0
    assert_runs_like(fast, model, image())


def test_a_library_held_by_the_model() -> None:
    model = Held(DotDict(scale=2.0))
    model.torch = torch
    fast = compiled(model, image())
    assert fast.torch is torch
    assert_runs_like(fast, model, image())


class Closed(nn.Module):
    """Its forward, or a part of it, is a function that was made where ``self`` was at hand."""

    def __init__(self, is_forward: bool) -> None:
        super().__init__()
        self.alphas, self.tau = weights(2), 2.0
        self.ops = nn.ModuleList([nn.BatchNorm2d(4), nn.Dropout(0.5)]).double()

        def mixed(x: Tensor, *, scale: float = 1.0) -> Any:
            return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True)) * self.tau * scale

        if is_forward:
            self.forward = mixed
        else:
            self.mixed = mixed

    def forward(self, x: Tensor) -> Any:
        return self.mixed(x)


@pytest.mark.parametrize("is_forward", [False, True])
def test_functions_that_enclose_the_model(is_forward: bool) -> None:
    model = Closed(is_forward)
    fast = compiled(model, image())
    for training in (False, True):
        model.train(training), fast.train(training)
        assert_runs_like(fast, model, image())
    for one in (model, fast):
        one.tau = 3.0
        one.ops[0].eval()
    assert_runs_like(fast, model, image())
    model.tau = 5.0
    assert torch.equal(fast.eval()(image()), fast.reference(image()))
