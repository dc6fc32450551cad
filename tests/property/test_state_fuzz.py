"""Numbers that forward reads through random chains of Python, changed at random: none is stale at the next call."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import toponas_fx
from exactness import image
from random_state import VALUES, RandomState

STEPS = 7


@pytest.fixture
def name() -> Iterator[str]:
    """Give a Python module's name, and forget the module afterwards."""
    yield "toponas_fuzz_state"
    sys.modules.pop("toponas_fuzz_state", None)


def check(seed: int, name: str) -> tuple[bool, bool]:
    """Run one program; return whether it was compiled, and whether a change mattered."""
    program = RandomState(seed)
    rng = random.Random(-seed)
    made: Any = program.module(name)
    torch.manual_seed(seed)
    model, x = made.Net(), image(channels=3)
    matters = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(model, x, mode="exact")
        compiled = bool(fast._toponas.programs)
        before = model(x)
        for step in range(STEPS):
            if step:
                made.change((model, fast), rng.randrange(len(program.names)), rng.choice(VALUES))
            expected, found = model(x), fast(x)
            assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10), f"{program.names}\n{program.source}"
            matters |= not torch.equal(expected, before)
    return compiled, matters


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_stale(seed: int, name: str) -> None:
    check(seed, name)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(40, 300, 20))
def test_nothing_is_stale_in_many(start: int, name: str) -> None:
    for seed in range(start, start + 20):
        check(seed, name)


@pytest.mark.slow
def test_most_programs_are_compiled_and_their_changes_matter(name: str) -> None:
    outcomes = [check(seed, name) for seed in range(20)]
    assert sum(compiled for compiled, _ in outcomes) >= 10
    assert sum(matters for _, matters in outcomes) >= 15
