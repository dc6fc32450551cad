"""Numbers that change become inputs of a program: set at each step they cost no capture, and are never stale."""

from __future__ import annotations

import copy
import math
import pickle
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, counted_captures, image, no_capture

RISING = [0.3 + 0.17 * step for step in range(12)]


class Cell(nn.Module):
    """A cell that drops paths of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)
        self.drop_prob = 0.2

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        if self.training and self.drop_prob > 0.0:
            keep = 1.0 - self.drop_prob
            y = y / keep * torch.rand(len(y), 1, 1, 1, dtype=y.dtype).lt(keep)
        return y


class Net(nn.Module):
    """A mixture; ``use`` says what becomes of the number ``t``."""

    scale = 2.0

    def __init__(self, use: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 3))
        self.cells = nn.ModuleList((Cell(), Cell()))
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0, 1.5]))
        self.use = use
        self.t = 1.0
        self.table = {True: 0.5, False: 2.0}
        self.double()

    @property
    def inverse(self) -> float:
        return 1.0 / self.t

    def mix(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def soft(m: Net, x: Tensor, t: Any) -> Tensor:
    return m.mix(x, F.softmax(m.alphas / t, 0))


def path(m: Net, x: Tensor) -> Tensor:
    return m.mix(x, m.alphas) if m.t > 1.0 else x * m.alphas[0] * m.t


def clipped(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, min(max(m.t, 0.6), 1.4))


def cells(m: Net, x: Tensor) -> Tensor:
    for cell in m.cells:
        x = cell(x)
    return m.mix(x, m.alphas)


def scheduled(m: Net, x: Tensor) -> Tensor:
    warm = 0.1 if m.t < 0.5 else m.t**2 - m.t / 3 + 2 // m.t + m.t % 0.4 - abs(-m.t)
    return soft(m, x, 1 + warm * m.scale)


STAY_SYMBOLIC = {
    "divided": lambda m, x: soft(m, x, m.t),
    "inverse of a property": lambda m, x: m.mix(x, F.softmax(m.alphas * m.inverse, 0)),
    "by text": lambda m, x: soft(m, x, getattr(m, "t")),  # noqa: B009
    "a path taken": path,
    "clipped": clipped,
    "gumbel": lambda m, x: m.mix(x, F.gumbel_softmax(m.alphas, tau=m.t)),
    "hard gumbel": lambda m, x: m.mix(x, F.gumbel_softmax(m.alphas, m.t, hard=True)),
    "weights of candidates": lambda m, x: m.t * m.ops[0](x) + (1 - m.t) * m.ops[1](x),
    "a factor of a mixture": lambda m, x: m.t * m.mix(x, m.alphas) + x,
    "made a tensor": lambda m, x: soft(m, x, torch.tensor(m.t, dtype=x.dtype)),
    "filled in": lambda m, x: soft(m, x, torch.full((3,), m.t, dtype=x.dtype)),
    "in place": lambda m, x: m.mix(x, m.alphas).mul_(m.t).add_(x, alpha=m.t),
    "compared with numbers": lambda m, x: m.mix(torch.where(x > m.t, x, x * m.t), m.alphas),
    "a slope": lambda m, x: m.mix(F.leaky_relu(x, m.t), m.alphas),
    "clamped": lambda m, x: m.mix(x.clamp(-m.t, m.t), m.alphas),
    "dropped": lambda m, x: m.mix(F.dropout(x, m.t / 3, m.training), m.alphas),
    "read twice": lambda m, x: soft(m, soft(m, x, m.t), m.t + 1),
    "scheduled": scheduled,
    "any of several": lambda m, x: soft(m, x, sorted([m.t, 1.0, 0.5])[1]),
    "true or not": lambda m, x: soft(m, x, m.t or 1.0),
    "a chain": lambda m, x: soft(m, x, 1.0 if 0.7 < m.t < 1.3 else 2.0),
}


def by_text(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, {"0.3": 4.0, "0.5": 0.5}.get(f"{m.t:.1f}", 1.0))


def by_old_text(m: Net, x: Tensor) -> Tensor:
    return soft(m, x, {"0": 4.0, "1": 0.5}.get("%.0f" % m.t, 1.0))  # noqa: UP031


BECOME_CONSTANTS = {
    "int": lambda m, x: soft(m, x, 1 + int(m.t)),
    "rounded": lambda m, x: soft(m, x, 1 + round(m.t)),
    "floored": lambda m, x: soft(m, x, 1 + math.floor(m.t)),
    "floored by operator": lambda m, x: soft(m, x, 1 + m.t.__floor__()),
    "exponential": lambda m, x: soft(m, x, math.exp(-m.t)),
    "floor of an exponential": lambda m, x: soft(m, x, 1 + int(math.exp(m.t))),
    "clipped by numpy": lambda m, x: soft(m, x, float(numpy.clip(m.t, 0.9, 1.2))),
    "a ufunc": lambda m, x: soft(m, x, 1 + float(numpy.floor(m.t))),
    "numpy's number": lambda m, x: soft(m, x, 2.0 if numpy.float64(m.t) > 0.9 else 1.0),
    "an array": lambda m, x: soft(m, x, 1 + float(numpy.array([m.t, 1.0]).argmax())),
    "a decimal": lambda m, x: soft(m, x, 1 + int(Decimal(m.t))),
    "close": lambda m, x: soft(m, x, 2.0 if math.isclose(m.t, 1.32, abs_tol=0.01) else 1.0),
    "a sign": lambda m, x: soft(m, x, 2 + math.copysign(1.0, m.t - 0.9)),
    "a text": by_text,
    "an old text": by_old_text,
    "a table": lambda m, x: soft(m, x, {0.3: 0.7, 0.3 + 0.17 * 5: 3.0}.get(m.t, 1.0)),
    "a cut": lambda m, x: m.mix(torch.cat([x[:, : int(1 + m.t)], x[:, int(1 + m.t) :] * 2], 1), m.alphas),
    "an index": lambda m, x: soft(m, x, m.table[bool(int(m.t))]),
    "a table of attributes": lambda m, x: soft(m, x, vars(m)["t"]),
    "made an integer by its ratio": lambda m, x: soft(m, x, 1 + m.t.as_integer_ratio()[0] % 7),
    "its real part": lambda m, x: soft(m, x, 1 + m.t.real),
    "whole": lambda m, x: soft(m, x, 2.0 if (m.t + 0.7).is_integer() else 1.0),
}


def follow(model: Any, fast: Any, values: Iterable[Any], x: Tensor) -> None:
    """Assert that both do the same at each of the values."""
    for value in values:
        fast.t = model.t = value
        assert_runs_like(fast, model, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use", STAY_SYMBOLIC)
def test_a_number_set_at_each_step_costs_one_capture_a_path(
    use: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = Net(STAY_SYMBOLIC[use]).train(training), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    with counted_captures(monkeypatch) as found:
        follow(model, fast, RISING, x)
        follow(model, fast, reversed(RISING), x)
    assert not fast._toponas.as_written
    assert len(found) <= 4
    with no_capture(monkeypatch):
        follow(model, fast, (0.35, 1.45, 0.61, 1.0), x)
    for odd in (1, 2, -0.0, -1.5, 0.3, 1e300):
        model.t = odd
        try:
            is_finite = bool(model(x).isfinite().all())
        except (ArithmeticError, ValueError, RuntimeError):
            is_finite = False
        if is_finite:
            follow(model, fast, (odd, 0.9), x)


@pytest.mark.filterwarnings("ignore:.*keeps changing:UserWarning")
@pytest.mark.parametrize("use", BECOME_CONSTANTS)
def test_a_number_that_is_looked_into_is_never_stale(use: str) -> None:
    model, x = Net(BECOME_CONSTANTS[use]), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    follow(model, fast, [*RISING, *reversed(RISING), 0.301, 0.302, 1.0, 1.32, 1.33], x)


def test_sixty_temperatures_in_sixty_steps_in_the_shared_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(Net(STAY_SYMBOLIC["divided"]), image(4))
    x = image(4)
    with counted_captures(monkeypatch) as found:
        for step in range(60):
            fast.t = 5.0 - 0.08 * step
            given = x.clone().requires_grad_()
            outputs = fast(given), fast.reference(given)
            gradients = [torch.autograd.grad(y.square().sum(), [given, fast.alphas]) for y in outputs]
            for left, right in zip((outputs[0], *gradients[0]), (outputs[1], *gradients[1]), strict=True):
                assert torch.allclose(left, right, rtol=1e-9, atol=1e-11)
    assert len(found) <= 3
    assert not fast._toponas.as_written


def test_paths_are_dropped_ever_more_often_in_each_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Net(cells), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    with counted_captures(monkeypatch) as found:
        for step in range(20):
            for net in (model, fast):
                for number, cell in enumerate(net.cells):
                    cell.drop_prob = 0.02 * step + 0.01 * number * (step % 3)
            assert_runs_like(fast, model, x)
    assert len(found) <= 5
    assert not fast._toponas.as_written


def test_another_batch_size_mode_and_copy_keep_numbers_symbolic(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net(STAY_SYMBOLIC["divided"])
    fast = toponas_fx.simplify(model, image(4), mode="exact")
    follow(model, fast, RISING[:3], image(4))
    with no_capture(monkeypatch):
        follow(model, fast, RISING[3:6], image(7))
    follow(model.eval(), fast.eval(), RISING[:2], image(5))
    with no_capture(monkeypatch):
        follow(model, fast, RISING[2:8], image(5))
    for original, twin in (copy.deepcopy((model, fast)), (model, fast)):
        with no_capture(monkeypatch):
            follow(original, twin, RISING[4:], image(3))


def test_a_program_with_numbers_can_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Pickled()
    fast = toponas_fx.simplify(model, image(4), mode="exact")
    follow(model, fast, RISING[:3], image(4))
    model, twin = pickle.loads(pickle.dumps((model, fast)))
    with no_capture(monkeypatch):
        follow(model, twin, (0.7, 0.8, 0.9), image(4))


class Pickled(Net):
    def __init__(self) -> None:
        super().__init__(path)


def test_captures_for_a_path_are_told_by_what_was_asked(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Net(path), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    with caplog.at_level("INFO", "toponas_fx"):
        follow(model, fast, (0.4, 0.5, 1.2, 1.5), x)
    assert any("since `the model.t` was 1.0" in text for text in caplog.messages)
    assert any("since gt(`the model.t`, 1.0) was False" in text for text in caplog.messages)


def test_a_step_with_another_temperature_takes_the_time_of_one_with_the_same() -> None:
    fast = toponas_fx.simplify(Net(STAY_SYMBOLIC["divided"]), image(4), mode="exact")
    for value in RISING[:4]:
        fast.t = value
        fast(image(4))

    def seconds(values: Iterable[float]) -> float:
        start = time.process_time()
        for value in values:
            fast.t = value
            fast(image(4))
        return time.process_time() - start

    ratios = sorted(seconds(0.5 + 0.01 * k for k in range(60)) / seconds([0.5] * 60) for _ in range(7))
    assert ratios[0] < 1.05
