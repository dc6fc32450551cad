"""Searches whose loop sets an architecture or a mode at each step: said once, cheap, and simplified where they mix."""

from __future__ import annotations

import cProfile
import pstats
import random
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, counted_captures, no_capture
from sampled_supernets import (
    Architecture,
    ArchitectureAsserted,
    ArchitectureMissing,
    ArchitectureSet,
    ModeSet,
)
from toponas_fx.runtime.refusals import REST, SETTLED

X = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ARCHITECTURE = Architecture.of("skip", "conv_3x3", "conv_1x1")
WAITING = [ArchitectureSet, ArchitectureMissing, ArchitectureAsserted]


def made(kind: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(**options).double()


def waiting(model: Any) -> Any:
    with pytest.warns(UserWarning, match="forward cannot run yet: `the model.architecture` is") as caught:
        fast = toponas_fx.simplify(model, X)
    assert len(caught) == 1
    assert re.search(r"sampled_supernets\.py:\d+: ", str(caught[0].message))
    return fast


@pytest.mark.parametrize("kind", WAITING)
def test_a_forward_that_waits_for_an_architecture_is_captured_when_it_has_one(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(kind)
    fast = waiting(model)
    with pytest.raises((AttributeError, AssertionError)) as own:
        model(X)
    with pytest.raises(own.type, match=re.escape(str(own.value).replace(kind.__name__, f"Simplified{kind.__name__}"))):
        fast(X)
    for side in (model, fast):
        side.set_architecture(ARCHITECTURE)
    assert_runs_like(fast, model, X)
    assert len(fast._toponas.programs) == 1
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, X)


def test_the_line_of_the_user_is_named() -> None:
    for model, line in ((made(ArchitectureMissing), "cell.chosen"), (made(ArchitectureAsserted), "assert")):
        with pytest.warns(UserWarning, match="cannot run yet") as caught:
            toponas_fx.simplify(model, X)
        place = re.search(r"(\S+\.py):(\d+): ", str(caught[0].message))
        assert place is not None
        with open(place[1]) as source:
            assert line in source.read().splitlines()[int(place[2]) - 1]


class _Waiting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.chosen: Any = None
        self.channels = 3


class WrongShape(_Waiting):
    """What torch refuses is a wrong input, whatever else is not set yet."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if self.chosen is None else x


class Unpacks(_Waiting):
    def forward(self, x: Tensor) -> Tensor:
        if self.chosen is not None:
            return x
        batch, _ = x.shape[: self.channels]
        return x * batch


class Checks(_Waiting):
    def forward(self, x: Tensor) -> Tensor:
        if self.chosen is None and x.shape[1] != self.channels:
            raise ValueError("not an image")
        return self.layer(x)


class Misspells(_Waiting):
    """A tensor has no such method: no state of the model could give it one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sofmax(-1) if self.chosen is None else x  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "error", "sentence"),
    [
        (WrongShape, RuntimeError, "to have 3 channels"),
        (Unpacks, ValueError, "too many values"),
        (Checks, ValueError, "not an image"),
        (Misspells, AttributeError, "sofmax"),
    ],
)
def test_a_wrong_input_is_an_error_at_once(kind: Any, error: Any, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        toponas_fx.simplify(kind(), torch.randn(2, 5, 8, 8))


def test_a_model_without_mixtures_says_so_once() -> None:
    model = made(ArchitectureSet)
    model.set_architecture(ARCHITECTURE)
    with pytest.warns(UserWarning, match="ArchitectureSet: no mixed operation was found") as caught:
        fast = toponas_fx.simplify(model, X)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "only 1 of 5 modules of `cells.0.edges.1<-0`" in text
    assert "4 more lists ran" in text
    assert "w * op(x)" in text
    assert "in another mode" in text
    assert "If the search sets another path before its steps, all paths are recorded" in text
    assert text.partition(": ")[2] in fast.report.details()


class ChildrenByName(nn.Module):
    """Its candidates are children of its own, as NNI's layers keep them, and one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.sampled = "conv"
        self.conv, self.pool, self.skip = nn.Conv2d(3, 3, 1), nn.AvgPool2d(3, 1, 1), nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return getattr(self, self.sampled)(x)


class Ready(nn.Module):
    """It uses all of its children but one, which is no sign of a path."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x))


def test_candidates_that_are_children_of_their_layer_are_said_to_be_one_path() -> None:
    model = nn.Sequential(ChildrenByName(), Ready(), ChildrenByName()).double()
    with pytest.warns(UserWarning, match="no mixed operation was found") as caught:
        toponas_fx.simplify(model, X)
    text = str(caught[0].message)
    assert "only 1 of 3 modules of `0`, 1 of 3 modules of `2` ran: one path" in text
    assert "all modules of its lists ran" not in text


@pytest.mark.parametrize("is_set", [True, False])
def test_an_architecture_a_step_costs_few_captures(is_set: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = made(ArchitectureSet), random.Random(0)
    if is_set:
        model.set_architecture(ARCHITECTURE)
    fast = toponas_fx.simplify(model, X) if is_set else waiting(model)
    with counted_captures(monkeypatch) as found:
        for step in range(30):
            fast.train(step % 3 > 0), model.train(step % 3 > 0)
            fast.architecture = model.architecture = Architecture.drawn(generator)
            assert_same(fast, model)
    assert len(found) <= 6, "two or three for each mode until all that changes is known"
    assert not any("keeps changing" in reason for reason in fast._toponas.as_written.values())
    with no_capture(monkeypatch):
        for step in range(20):
            fast.train(step % 2 > 0), model.train(step % 2 > 0)
            fast.architecture = model.architecture = Architecture.drawn(generator)
            assert_same(fast, model)


def in_sets(architecture: Architecture) -> Architecture:
    """Return it with a set a node: there is no place in that where something could be exchanged."""
    return Architecture([frozenset(node) for node in architecture.nodes])  # type: ignore[misc]


def test_what_cannot_be_a_choice_costs_few_captures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = made(ArchitectureSet), random.Random(0)
    model.set_architecture(in_sets(ARCHITECTURE))
    fast = toponas_fx.simplify(model, X)
    with counted_captures(monkeypatch) as found:
        for step in range(30):
            fast.train(step % 3 > 0), model.train(step % 3 > 0)
            fast.architecture = model.architecture = in_sets(Architecture.drawn(generator))
            assert_same(fast, model)
    assert len(found) <= 4, "three for one mode, one for the other"
    reasons = set(fast._toponas.as_written.values())
    assert any(re.match(r"\S+sampled_supernets\.py:\d+: `the model\.architecture` keeps changing", r) for r in reasons)


def assert_same(fast: Any, model: Any) -> None:
    """Assert equal outputs; statistics are read from the same buffers, so that each runs from the same."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    expected = model(X)
    for buffer, value in saved:
        buffer.copy_(value)
    for left, right in zip(fast(X), expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def as_written(cells: int, kind: Any) -> Any:
    model = made(kind, cells=cells)
    model.architecture = in_sets(ARCHITECTURE)
    with pytest.warns(UserWarning, match="no mixed operation was found|random generator"):
        fast = toponas_fx.simplify(model, X)
    generator = random.Random(0)
    for _ in range(6 if kind is ArchitectureSet else 1):
        fast.architecture = in_sets(Architecture.drawn(generator))
        fast(X)
    fast._toponas.user_forward = lambda self, x: x
    return fast


@pytest.mark.parametrize("kind", [ModeSet, ArchitectureSet])
def test_what_runs_as_written_costs_the_same_few_calls_whatever_its_size(kind: Any) -> None:
    counts = []
    for cells in (1, 6):
        fast = as_written(cells, kind)
        fast(X)
        profile = cProfile.Profile()
        profile.runcall(fast, X)
        counts.append(pstats.Stats(profile).total_calls)
    assert counts[1] - counts[0] < 60, counts
    assert counts[1] < 300


def test_what_runs_as_written_for_long_is_looked_at_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(ModeSet)
    with pytest.warns(UserWarning, match="random generator"):
        fast = toponas_fx.simplify(model, X, mode="exact")
    looks: list[Any] = []
    real = type(fast._toponas).tree
    monkeypatch.setattr(type(fast._toponas), "tree", lambda *args: looks.append(args) or real(*args))
    for _ in range(SETTLED):
        fast(X)
    assert len(looks) == SETTLED
    for _ in range(10 * REST):
        fast(X)
    assert len(looks) == SETTLED + 10
    fast.set_mode("mixed"), model.set_mode("mixed")
    for _ in range(REST):
        assert_same(fast, model)
    assert len(fast._toponas.programs) == 1, "found within as many calls"
    looks.clear()
    for _ in range(3):
        assert_same(fast, model)
    assert len(looks) >= 3, "a program is looked at each time"
