"""Random supernets as a strategy: the same model each time, options that are checked, hypothesis only where needed."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

import toponas_fx
from toponas_fx.testing import RandomSupernet, Spec, random_supernets


def test_the_text_of_a_random_supernet_makes_it_again() -> None:
    spec = Spec((("none", "conv3"),), (0,), (1,), "indexed", 2, True, True, True, 2, 1, False, "softmax", True)
    model, state = RandomSupernet(spec), torch.get_rng_state()
    again = eval(repr(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model(model.example_input()), again(again.example_input()))
    assert not torch.equal(model(model.example_input()), model(2 * model.example_input()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ops": ("conv9",)}, "candidate operations are none, skip, .*; not conv9"),
        ({"ops": ()}, "not none at all"),
        ({"edges": 4}, "1 to 3 edges"),
        ({"candidates": 0}, "one candidate, channel and cell or more"),
    ],
)
def test_options_of_random_supernets_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(toponas_fx.ArgumentError, match=text):
        random_supernets(**options)


def test_hypothesis_is_needed_by_the_strategy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(toponas_fx.ToponasError, match=r'need hypothesis: pip install "toponas-fx\[testing\]"'):
        random_supernets()
