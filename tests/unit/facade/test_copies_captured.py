"""A copy of a simplified model is captured as the model itself is, at calls that none of its programs holds for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_model import KINDS_OF_COPY

import toponas_fx
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet

SPACES = {
    "nasbench201": lambda: NASBench201Supernet(C=4, N=1),
    "darts": lambda: DARTSSupernet(4, layers=3, steps=1, multiplier=1),
}


@pytest.mark.parametrize("mode", ["share", "exact"])
@pytest.mark.parametrize("kind", KINDS_OF_COPY)
@pytest.mark.parametrize("space", SPACES)
def test_a_copy_is_captured_at_another_size(space: str, kind: str, mode: str, float64: None) -> None:
    model: Any = SPACES[space]()
    fast = toponas_fx.simplify(model, torch.randn(2, 3, 16, 16), mode=mode)
    copied: Callable[[Any], Any] = KINDS_OF_COPY[kind]
    twin, x = copied(fast), torch.randn(2, 3, 12, 12)
    found, expected = twin(x), fast(x)
    assert twin._toponas.as_written == {}
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
