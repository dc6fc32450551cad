"""Supernets that sample a path at each step: simplified, they train as the original does, number for number.

Nothing here asks how they run. Whether a path is compiled or left as written, the same seeds give the same path.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from sampled.collected import SAMPLED
from sampled.draws import GumbelSoftmax
from sampled.gdas import NASNetworkGDAS, TinyNetworkGDAS
from sampled.parts import Sampled
from sampled.readings import IndexOfAList
from sampled.side_by_side import (
    EVENTS,
    TOLERANCE,
    Side,
    assert_alike,
    built,
    deepcopy,
    evaluate,
    load,
    pickled,
    reasons_are_sentences,
    run_alike,
    simplified,
    train,
)

kinds = pytest.mark.parametrize("kind", SAMPLED, ids=lambda kind: kind.__name__)
quick_kinds = pytest.mark.parametrize(
    "kind",
    [kind if kind.is_quick else pytest.param(kind, marks=pytest.mark.slow) for kind in SAMPLED],
    ids=lambda kind: kind.__name__,
)


def sides(kind: type[Sampled], **options: Any) -> tuple[Side, Side]:
    """Return the untouched original, and a copy that is simplified."""
    model = built(kind)
    return Side(model, **options), Side(simplified(model), **options)


@quick_kinds
def test_it_trains_as_the_original_does(kind: type[Sampled]) -> None:
    """Twelve steps, then others in evaluation, of a copy, of what pickle brings back, and from a checkpoint."""
    with reasons_are_sentences():
        run_alike(sides(kind), 18, EVENTS)


@pytest.mark.slow
@kinds
def test_every_candidate_is_taken(kind: type[Sampled]) -> None:
    model, runs = built(kind), Counter[str]()
    for name, op in model.candidates().items():
        op.register_forward_hook(lambda *_, name=name: runs.update([name]))
    side = Side(model)
    for step in range(kind.turns):
        side.step(step)
    assert not kind.turns or set(runs) == set(model.candidates())


@pytest.mark.slow
@kinds
def test_it_trains_as_the_original_does_for_long(kind: type[Sampled]) -> None:
    """As long as the coldest candidate needs; gradients are set to zero, not to None."""
    with reasons_are_sentences():
        run_alike(sides(kind, set_to_none=False), 200)


PAIRS = ((evaluate, pickled), (deepcopy, load))
INTERRUPTED = [(kind, event) for i, kind in enumerate(SAMPLED) for event in PAIRS[i % 2]]
"""Two of the events for each supernet; the plain run above has all of them for each."""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "event"), INTERRUPTED, ids=lambda part: part.__name__)
def test_it_goes_on_as_the_original_does(kind: type[Sampled], event: Callable[[Side], None]) -> None:
    """Each event by itself: after the first step, when little is known, and later, twice in turn."""
    with reasons_are_sentences():
        run_alike(sides(kind), 20, {1: event, 4: train, 10: event, 11: event, 13: train})


@pytest.mark.slow
@kinds
def test_simplified_before_the_weights_are_loaded(kind: type[Sampled]) -> None:
    """Another model's weights, with other architecture parameters, come after ``simplify``."""
    trained = Side(built(kind, 1))
    for step in range(3):
        trained.step(step)
    with reasons_are_sentences():
        both = sides(kind)
        for side in both:
            side.model.load_state_dict(trained.model.state_dict())
        run_alike(both, 10)


@pytest.mark.parametrize("kind", [TinyNetworkGDAS, GumbelSoftmax], ids=lambda kind: kind.__name__)
def test_second_order(kind: type[Sampled]) -> None:
    with reasons_are_sentences():
        both = sides(kind)
        for number in range(8):
            expected, found = (side.second_order(number) for side in both)
            assert_alike(found, expected, TOLERANCE, f"step {number}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SAMPLED if kind.is_smooth], ids=lambda kind: kind.__name__)
def test_second_order_of_all(kind: type[Sampled]) -> None:
    with reasons_are_sentences():
        both = sides(kind)
        for number in range(12):
            expected, found = (side.second_order(number) for side in both)
            assert_alike(found, expected, TOLERANCE, f"step {number}")


@pytest.mark.parametrize("kind", [TinyNetworkGDAS, NASNetworkGDAS], ids=lambda kind: kind.__name__)
def test_float32(kind: type[Sampled]) -> None:
    """At sizes at which other implementations run than in float64; each step from the original's weights."""
    with reasons_are_sentences():
        model = built(kind, dtype=torch.float32)
        both = [Side(one, batch=16, size=16) for one in (model, simplified(model, size=16))]
        for number in range(6):
            both[1].model.load_state_dict(model.state_dict())
            expected, found = (side.step(number) for side in both)
            assert_alike(found, expected, 1e-3, f"step {number}")


def move_a_norm_not_taken(model: Any, output: Tensor) -> None:
    model.edges[0].ops[1][1].num_batches_tracked.add_(1)


DIFFERENCES: dict[str, Callable[[Any, Tensor], Any]] = {
    "torch draws once more": lambda model, output: torch.rand(1) and None,
    "Python draws once more": lambda model, output: random.random() and None,
    "numpy draws once more": lambda model, output: numpy.random.rand() and None,
    "another rounding": lambda model, output: output * (1 + 1e-8),
    "another layout": lambda model, output: output.t().contiguous().t(),
    "a norm not taken moves": move_a_norm_not_taken,
    "a gradient is zero, not None": lambda model, output: output + 0 * sum(p.sum() for p in model.parameters()),
    "a gradient is lost": lambda model, output: output.detach() + (output - output.detach()) * 0.5,
    "another output": lambda model, output: (output,),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_is_seen(name: str) -> None:
    """What this file compares it does compare: each of these is one difference between the sides."""
    model = built(IndexOfAList)
    other = copy.deepcopy(model)
    run_alike((Side(model), Side(copy.deepcopy(model))), 3)
    other.register_forward_hook(lambda module, _, output: DIFFERENCES[name](module, output))
    with pytest.raises(AssertionError, match="step 0"):
        run_alike((Side(built(IndexOfAList)), Side(other)), 1)
