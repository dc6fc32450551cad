"""One-hot rows that forward reads as floats: each float tells where it is used, and is the same as a plain one."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from forced_paths import Net, X
from toponas_fx.capture.recorded_choices import RecordedReal


def _counted(ops: Any, x: Tensor, row: Tensor) -> Any:
    values = row.tolist()
    assert sum(abs(value) > 1e-10 for value in values) == 1
    return sum(w * op(x) for w, op, value in zip(row, ops, values, strict=True) if abs(value) > 1e-10)


ROWS: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "unequal": lambda ops, x, row: sum(w * op(x) for w, op, v in zip(row, ops, row.tolist(), strict=True) if v != 0),
    "greater": lambda ops, x, row: sum(w * op(x) for w, op, v in zip(row, ops, row.tolist(), strict=True) if v > 0.5),
    "absolute": lambda ops, x, row: sum(
        w * op(x) for w, op, v in zip(row, ops, row.tolist(), strict=True) if abs(v) > 1e-10
    ),
    "absolute, as a tensor": lambda ops, x, row: sum(w * op(x) for w, op in zip(row, ops, strict=True) if abs(w) > 0.1),
    "one by one": lambda ops, x, row: sum(w * op(x) for w, op in zip(row, ops, strict=True) if abs(w.item()) > 0.1),
    "counted before": _counted,
    "times": lambda ops, x, row: sum(op(x) * v for op, v in zip(ops, row.tolist(), strict=True) if int(v) == 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_floats_of_a_one_hot_row_are_choices(name: str) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        for row in F.gumbel_softmax(self.alphas, hard=True):
            x = ROWS[name](self.ops, x, row)
        return x

    model = Net(forward).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X.double(), passes=())
    assert not fast._toponas.as_written, fast._toponas.as_written
    assert len(fast._toponas.programs) == 1
    for seed in range(8):
        torch.testing.assert_close(_step(fast, seed), _step(model, seed), rtol=1e-10, atol=1e-12)


SEARCHED: dict[str, Callable[[Any, Tensor, Tensor], Any]] = {
    "index of the largest": lambda ops, x, row: ops[(values := row.tolist()).index(max(values))](x),
    "truth": lambda ops, x, row: next(op for op, v in zip(ops, row.tolist(), strict=True) if v)(x),
}


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
@pytest.mark.parametrize("name", SEARCHED)
def test_rows_that_are_searched_until_one_is_found_run_as_written(name: str) -> None:
    model = Net(lambda self, x: SEARCHED[name](self.ops, x, F.gumbel_softmax(self.alphas[0], hard=True))).double()
    fast: Any = toponas_fx.simplify(copy.deepcopy(model), X.double(), passes=())
    (reason,) = set(fast._toponas.as_written.values())
    assert "how many choices are made depends on a choice" in reason
    torch.testing.assert_close(_step(fast, 1), _step(model, 1), rtol=1e-10, atol=1e-12)


def _step(model: nn.Module, seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    model.zero_grad()
    x = X.double().requires_grad_()
    output = model(x)
    output.square().mean().backward()
    return output, [leaf.grad for leaf in (x, *model.parameters())], torch.rand(3)


REAL: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "equal": lambda v: v == 0.5,
    "less": lambda v: 0.25 < v,
    "absolute": abs,
    "times": lambda v: 2 * v,
    "rounded": round,
    "int": int,
    "float": float,
    "text": lambda v: f"{v:.3f}{v!r}",
    "hash": hash,
    "method": lambda v: v.is_integer(),
    "maximum": lambda v: max(v, 0.1),
    "math": math.sqrt,
    "tensor": lambda v: torch.tensor([1.0])[0].item() * v,
}


@pytest.mark.parametrize("name", REAL)
def test_a_use_of_a_float_tells(name: str) -> None:
    seen: list[bool] = []
    assert REAL[name](RecordedReal(0.5, lambda: seen.append(True))) == REAL[name](0.5)
    assert seen


def test_a_float_says_that_it_is_one_and_is_none() -> None:
    choice = RecordedReal(0.5)
    assert isinstance(choice, float)
    assert type(choice) is not float
    assert not isinstance(choice, int)
    with pytest.raises(TypeError):
        [1, 2][choice]  # type: ignore[call-overload]
    (found,) = pickle.loads(pickle.dumps([choice]))
    assert (type(found), found) == (float, 0.5)
