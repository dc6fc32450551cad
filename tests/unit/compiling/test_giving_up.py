"""A model that changes too often for captures says so, is right all the while, and recovers as its programs run."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image
from toponas_fx.compiling.compiler import MAX_CAPTURES, RUNS_PER_CAPTURE


class Edge(nn.Module):
    """Candidates whose weights are scaled by what a size, or data, makes Python say."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2, bias=False) for k in (1, 3, 5))
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.double()

    def scale(self, x: Tensor) -> float:
        """Another path for each width."""
        return float(f"{x.size(3)}")

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        scale = self.scale(x)
        return sum(w * op(x) * scale for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))  # type: ignore[return-value]


class OfData(Edge):
    """The text of a number that differs from batch to batch."""

    def scale(self, x: Tensor) -> float:
        """Another path for each batch."""
        return float(f"{x.mean():.4f}")


WIDTHS = range(4, 24)


def compare(fast: nn.Module, model: nn.Module, x: Tensor) -> None:
    assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-10)


def test_many_sizes_are_told_and_then_compiled_one_by_one() -> None:
    model = Edge()
    fast = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for side in WIDTHS:
            compare(fast, model, image(side=side))
    assert "keeps changing, and each change costs a capture" in str(caught[0].message)
    assert len(caught) == 1, "said once"
    assert sum("keeps changing" in note for note in fast.report.notes) == 1
    assert fast._toponas.as_written
    known = [side for side in WIDTHS if _has_program(fast, side)]
    assert 0 < len(known) < MAX_CAPTURES + 1
    fresh = next(side for side in WIDTHS if side not in known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is not said again
        for _ in range(3 * RUNS_PER_CAPTURE):
            compare(fast, model, image(side=known[-1]))
        for _ in range(2):
            compare(fast, model, image(side=fresh))
        assert _has_program(fast, fresh), "after calm, a new size is compiled"
        assert not fast._toponas.as_written


def _has_program(fast: nn.Module, side: int) -> bool:
    before = fast._toponas.runs
    fast(image(side=side))
    return bool(fast._toponas.runs > before)


def test_what_data_decide_is_right_and_costs_no_more_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OfData()
    fast = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    made: list[object] = []
    real = toponas_fx.compiling.compiler.compile_call
    monkeypatch.setattr("toponas_fx.facade.dispatch.compile_call", lambda *args: made.append(1) or real(*args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(40):
            compare(fast, model, image(seed=seed))
    assert 0 < len(made) <= MAX_CAPTURES
    assert fast._toponas.as_written


def test_the_log_says_that_data_decide(caplog: pytest.LogCaptureFixture) -> None:
    fast = toponas_fx.simplify(OfData(), image(), mode="exact")
    with caplog.at_level("INFO", "toponas_fx"):
        fast(image(seed=5))
    assert "for other values of what Python reads from data" in caplog.text


class Stepped(Edge):
    """Its loop gives it the number of the step."""

    def forward(self, x: Tensor, step: int = 0) -> Tensor:  # type: ignore[override]
        return super().forward(x) / (1 + 0.1 * step)


def test_an_integer_that_is_another_at_each_call_costs_few_captures() -> None:
    model = Stepped()
    fast = toponas_fx.simplify(copy.deepcopy(model), (image(), 0), mode="exact")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(60):
            torch.testing.assert_close(fast(image(), step), model(image(), step))
    state = fast._toponas
    assert len(state.programs) <= MAX_CAPTURES + 1
    assert (len(state.captures), len(state.as_written), len(state.refusals.in_turn)) == (1, 1, 0)
    (warning,) = caught
    assert "best given as a float or a tensor" in str(warning.message)
    for step in (1, 2, 3):  # those that are known run on
        runs = state.runs
        fast(image(), step)
        assert state.runs == runs + 1
