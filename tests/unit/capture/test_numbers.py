"""Numbers that change become inputs of a program: set at each step they cost no capture, and are never stale."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

import toponas_fx
from exactness import assert_runs_like, counted_captures, image, no_capture
from number_uses import BECOME_CONSTANTS, RISING, STAY_SYMBOLIC, Net, cells, path, soft


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


@pytest.mark.filterwarnings("ignore:.*shares modules from this call on:UserWarning")
@pytest.mark.parametrize("use", STAY_SYMBOLIC)
def test_numbers_in_the_shared_mode(use: str) -> None:
    model, x = Net(STAY_SYMBOLIC[use]), image(4)
    model.alphas.data.abs_()  # weights of both signs share differently: see group_weight
    fast = toponas_fx.simplify(model, x)
    for value in (*RISING, 1, 0.35, 1.45):
        fast.t = value
        found = []
        for run in (fast, fast.reference):
            torch.manual_seed(0)
            given = x.clone().requires_grad_()
            try:
                y = run(given)
            except (ArithmeticError, RuntimeError) as error:
                found.append([type(error)])
                continue
            found.append([y, *torch.autograd.grad(y.square().sum(), [given, fast.alphas], allow_unused=True)])
        for left, right in zip(*found, strict=True):
            assert left is right or torch.allclose(left, right, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("use", ["divided", "a path taken", "clipped", "gumbel"])
def test_numbers_under_torch_compile(use: str) -> None:
    model, x = Net(STAY_SYMBOLIC[use]), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    compiled = torch.compile(fast, backend="eager")
    for value in RISING[:6]:
        fast.t = model.t = value
        found = []
        for run in (compiled, model):
            torch.manual_seed(0)
            found.append(torch.autograd.grad(run(x).square().sum(), model.alphas)[0])
        assert torch.allclose(*found, rtol=1e-9)


def test_errors_that_two_values_have_in_common_are_asked_about_too() -> None:
    def overflowing(m: Net, x: Tensor) -> Tensor:
        try:
            return m.mix(x, m.alphas * (m.t**999 > 0))
        except OverflowError:
            return x * m.alphas[0]

    model, x = Net(overflowing), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    follow(model, fast, (5.0, 6.0, 7.0, 1.0, 0.5, 8.0, 0.7), x)


@pytest.mark.filterwarnings("ignore:.*keeps changing:UserWarning")
def test_a_number_that_is_asked_without_end_stays_a_constant() -> None:
    def stepped(m: Net, x: Tensor) -> Tensor:
        return soft(m, x, 1 + sum(m.t > step / 100 for step in range(200)))

    model, x = Net(stepped), image(4)
    fast = toponas_fx.simplify(model, x, mode="exact")
    follow(model, fast, RISING, x)
    assert not any(program.guards.conditions for program in fast._toponas.programs)


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
