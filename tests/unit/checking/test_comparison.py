"""How far two runs are apart: what counts as an error, and relative to what."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from toponas_fx.checking.comparison import difference, finiteness

NAN, INF = math.nan, math.inf


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        (of(1, 2), of(1, 4), 0.5),
        (of(1e-3), of(2e-3), 0.5),
        (of(0, 0), None, 0),
        (None, of(0, 2), 1),
        (of(NAN, 1), of(NAN, 1), 0),
        (of(INF, 1), of(INF, 1), 0),
        (of(NAN, 1), of(0, 1), INF),
        (of(-INF), of(INF), INF),
        (of(1), of(1, 1), INF),
        (of(1).float(), of(1), INF),
        (torch.tensor([1]), torch.tensor([2]), INF),
        (torch.tensor([True]), torch.tensor([True]), 0),
        (of(), of(), 0),
    ],
)
def test_errors_of_one_tensor(found: Tensor | None, expected: Tensor | None, error: float) -> None:
    assert difference({"a": found}, {"a": expected}).error == error


def test_errors_are_relative_to_their_tensor_unless_that_is_small() -> None:
    worst = difference({"a": of(1.5), "b": of(100)}, {"a": of(2), "b": of(100)})
    assert (worst.error, worst.where) == (0.25, "a")
    assert difference({"a": of(1e-17), "b": of(1)}, {"a": of(2e-17), "b": of(1)}).error == pytest.approx(1e-15)


def test_a_tensor_that_is_missing_counts_as_zeros() -> None:
    assert difference({}, {"a": of(1)}).where == "a"
    assert difference({"a": of(1)}, {}).error == 1


def test_infinite_values_count_where_the_original_has_none() -> None:
    assert finiteness({"a": of(NAN), "b": None}, {"a": of(NAN), "b": None}).error == 0
    assert finiteness({"a": of(1), "b": of(INF)}, {"a": of(NAN), "b": of(1)}).where == "b"
