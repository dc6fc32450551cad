"""Python state is never frozen: whatever forward read and the user changes, the next run computes anew."""

from __future__ import annotations

import enum
import functools
import re
from argparse import Namespace
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, compiled, counted_captures, image, no_capture, weights


class Mode(enum.Enum):
    SOFT = 1
    HARD = 2


@dataclass
class Config:
    tau: float = 1.0
    edges: list[int] = field(default_factory=lambda: [0, 1])


class Slotted:
    __slots__ = ("tau",)

    def __init__(self, tau: float) -> None:
        self.tau = tau


class Mixed(nn.Module):
    """Candidates with a drop-path probability of their own, as P-DARTS and DrNAS keep one on each mixed op."""

    count = 2
    act = staticmethod(torch.relu)

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()])
        self.p = 0.0
        self.double()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        total = sum(v * op(x) for v, op in zip(w, self.ops, strict=False))
        return F.dropout(total, self.p, self.training) if self.p > 0 else total


class Supernet(nn.Module):
    """State of many kinds, and a body under test, ``forward(self, x)``."""

    level = 1.0

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(3)
        self.mixed = Mixed()
        self.other = Mixed()
        self.selected = [0, 1, 2]
        self.nested = {"a": [(1, {"b": 2.0})], "gone": 1}
        self.settings = Config()
        self.args = Namespace(tau=1.0)
        self.slotted = Slotted(1.0)
        self.mode: Any = Mode.SOFT
        self.tau: Any = 1.0
        self.window = deque([1.0, 2.0])
        self.kept = {1, 2}
        self.array = numpy.array([1.0, 2.0])
        self.number = numpy.float32(2.0)
        self.range, self.slice = range(3), slice(0, 2)
        self.half = functools.partial(F.leaky_relu, negative_slope=0.5)
        self.order = [self.mixed.ops[0], self.mixed.ops[1]]
        self.hidden = [nn.ReLU()]

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)

    def mix(self, x: Tensor) -> Tensor:
        return self.mixed(x, F.softmax(self.alphas, -1))


def soft(m: Any) -> Tensor:
    return F.softmax(m.alphas / m.tau, -1)


Change = Callable[[Any], Any]
CHANGES: dict[str, tuple[Callable[[Any, Tensor], Any], Change]] = {
    "tau": (lambda m, x: m.mixed(x, soft(m)), lambda m: setattr(m, "tau", 0.3)),
    "numpy_tau": (lambda m, x: m.mixed(x, soft(m)), lambda m: setattr(m, "tau", numpy.float64(0.3))),
    "below": (lambda m, x: m.mix(x), lambda m: setattr(m.mixed, "p", 0.4)),
    "text": (lambda m, x: x if m.mode == "skip" else m.mix(x), lambda m: setattr(m, "mode", "skip")),
    "enum": (lambda m, x: x if m.mode is Mode.HARD else m.mix(x), lambda m: setattr(m, "mode", Mode.HARD)),
    "list": (lambda m, x: sum(soft(m)[i] * m.mixed.ops[i](x) for i in m.selected), lambda m: m.selected.remove(1)),
    "item": (lambda m, x: x * m.nested["a"][0][1]["b"], lambda m: m.nested["a"][0][1].update(b=3.0)),
    "key": (lambda m, x: x * len(m.nested), lambda m: m.nested.pop("gone")),
    "order": (lambda m, x: x * list(m.nested).index("a"), lambda m: m.nested.update(a=m.nested.pop("a"))),
    "set": (lambda m, x: x * (1 in m.kept), lambda m: m.kept.discard(1)),
    "deque": (lambda m, x: x * m.window[0], lambda m: m.window.rotate()),
    "array": (lambda m, x: x * float(m.array[0]), lambda m: m.array.__setitem__(0, 5.0)),
    "number": (lambda m, x: x * float(m.number), lambda m: setattr(m, "number", numpy.float32(3.0))),
    "range": (lambda m, x: x * len(m.range), lambda m: setattr(m, "range", range(5))),
    "slice": (lambda m, x: x[:, m.slice], lambda m: setattr(m, "slice", slice(1, 3))),
    "record": (lambda m, x: x * m.settings.tau, lambda m: setattr(m.settings, "tau", 2.0)),
    "in_record": (lambda m, x: x * len(m.settings.edges), lambda m: m.settings.edges.append(3)),
    "namespace": (lambda m, x: x * m.args.tau, lambda m: setattr(m.args, "tau", 2.0)),
    "slots": (lambda m, x: x * m.slotted.tau, lambda m: setattr(m.slotted, "tau", 2.0)),
    "function": (lambda m, x: m.mixed.act(x), lambda m: setattr(m.mixed, "act", torch.tanh)),
    "partial": (lambda m, x: m.half(x), lambda m: setattr(m, "half", functools.partial(F.leaky_relu, inplace=False))),
    "missing": (lambda m, x: x * 2 if getattr(m, "discrete", False) else x, lambda m: setattr(m, "discrete", True)),
    "asked": (lambda m, x: x * 2 if hasattr(m.mixed, "flag") else x, lambda m: setattr(m.mixed, "flag", None)),
    "deleted": (lambda m, x: x * getattr(m, "tau", 5.0), lambda m: delattr(m, "tau")),
    "class": (lambda m, x: x * m.mixed.count, lambda m: setattr(m.mixed, "count", 4)),
    "training": (lambda m, x: F.dropout(m.mix(x), 0.5, m.other.training), lambda m: m.other.eval()),
    "leaf": (lambda m, x: F.dropout(m.mix(x), 0.5, m.other.ops[2].training), lambda m: m.other.ops[2].eval()),
    "modules": (lambda m, x: m.order[0](x) - 2 * m.order[1](x), lambda m: m.order.reverse()),
    "hidden": (lambda m, x: m.hidden[0](x), lambda m: m.hidden.__setitem__(0, nn.Tanh())),
    "hidden_option": (lambda m, x: m.hidden[0](x), lambda m: m.hidden.__setitem__(0, nn.ReLU(inplace=True))),
    "replaced": (lambda m, x: m.mix(x), lambda m: m.mixed.ops.__setitem__(1, nn.Sigmoid())),
    "appended": (lambda m, x: sum(op(x) for op in m.mixed.ops), lambda m: m.mixed.ops.append(nn.Sigmoid())),
    "deleted_op": (lambda m, x: sum(op(x) for op in m.mixed.ops), lambda m: m.mixed.ops.__delitem__(0)),
    "swapped": (lambda m, x: next(op(x) for op in m.mixed.ops), lambda m: _swap(m.mixed.ops)),
    "branch": (lambda m, x: m.mix(x), lambda m: setattr(m, "mixed", m.other)),
    "alphas": (lambda m, x: m.mix(x), lambda m: setattr(m, "alphas", weights(3, seed=8))),
    "alphas_data": (lambda m, x: m.mix(x), lambda m: setattr(m.alphas, "data", torch.eye(3, dtype=torch.float64)[1])),
    "alphas_type": (lambda m, x: x * m.alphas.to(x.dtype)[0], lambda m: setattr(m, "alphas", torch.ones(3))),
    "alphas_none": (lambda m, x: x if m.alphas is None else m.mix(x), lambda m: setattr(m, "alphas", None)),
    "parameter": (lambda m, x: m.mix(x), lambda m: setattr(m, "alphas", nn.Parameter(weights(3, seed=8)))),
    "own_forward": (lambda m, x: m.mix(x), lambda m: setattr(m.mixed, "forward", lambda x, w: x * w[0])),
}  # fmt: skip


def _swap(ops: nn.ModuleList) -> None:
    ops[0], ops[1] = ops[1], ops[0]


@pytest.mark.parametrize("passes", [(), None], ids=["captured", "rewritten"])
@pytest.mark.parametrize("way", CHANGES)
def test_state_of_modules(way: str, passes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body, change = CHANGES[way]
    model, x = Supernet(body), image()
    fast = compiled(model, x, passes=passes)
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, x)
        torch.manual_seed(0)
        before = fast(x)
    change(model), change(fast)
    if isinstance(model.alphas, Tensor):
        fast.alphas = model.alphas
    torch.manual_seed(0)
    assert fast(x).shape != before.shape or not torch.equal(fast(x), before) or way == "hidden_option"
    assert_runs_like(fast, model, x)
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, x)


def test_going_back_costs_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Supernet(CHANGES["tau"][0]), image()
    fast = compiled(model, x)
    for tau in (1.0, 0.5):
        fast.tau = tau
        fast(x)
    with no_capture(monkeypatch):
        for tau in (1.0, 0.5, 1.0):
            fast.tau = model.tau = tau
            assert_runs_like(fast, model, x)


def test_one_attribute_decides_on_reading_another() -> None:
    model, x = Supernet(lambda m, x: x * m.tau if m.mode == "scaled" else x), image()
    fast = compiled(model, x)
    for mode, tau in (("scaled", 1.0), ("plain", 2.0), ("scaled", 2.0), ("scaled", 3.0)):
        fast.mode = model.mode = mode
        fast.tau = model.tau = tau
        assert_runs_like(fast, model, x)


def test_an_annealed_temperature_stays_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Supernet(CHANGES["tau"][0]), image(2, 4, 3)
    fast = compiled(model, x)
    with counted_captures(monkeypatch) as found:
        for epoch in range(30):
            fast.tau = model.tau = 5.0 - 0.1 * epoch
            for _ in range(20):
                fast(x)
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    assert not fast._toponas.as_written
    assert len(found) == 1
    assert len(fast._toponas.programs) <= 16


@pytest.mark.parametrize("training", [True, False])
def test_state_that_changes_at_every_call_is_given_up(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Supernet(lambda m, x: m.mixed(x, m.alphas.softmax(0) / int(m.tau))), image(2, 4, 3)
    fast = toponas_fx.simplify(model, x, mode="exact")
    fast.train(training), model.train(training)

    def anneal() -> None:
        for step in range(40):
            fast.tau = model.tau = 50.0 - step
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)

    with counted_captures(monkeypatch) as found, pytest.warns(UserWarning, match="tau` keeps changing") as caught:
        anneal()
    assert len(found) <= 3
    assert len(caught) == 1
    (reason,) = fast._toponas.as_written.values()
    assert re.match(r"\S*test_guards\.py:\d+: `the model\.tau` keeps changing", reason)
    assert any(reason in note for note in fast.report.notes)
    with counted_captures(monkeypatch) as found:
        for _ in range(40):  # a value that stays is worth a capture after all
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    assert len(found) == 1


@pytest.mark.parametrize("outer", [True, False])
def test_grad_mode_of_the_caller(outer: bool) -> None:
    model, x = Supernet(lambda m, x: m.mix(x) if torch.is_grad_enabled() else x), image()
    with torch.set_grad_enabled(outer):
        fast = compiled(model, x)
    for enabled in (True, False, True):
        with torch.set_grad_enabled(enabled):
            assert_runs_like(fast, model, x)
            assert fast(x).requires_grad == enabled
