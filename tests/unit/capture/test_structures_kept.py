"""Structures that a model keeps and a search sets: choices once two of them were met, then no step costs a capture."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, counted_captures, no_capture
from forced_paths import X
from sampled.given import AttributeSet
from sampled.kept import StructureSet
from sampled.side_by_side import Side, built, run_alike, simplified

IMAGES = X.double()


class Kept(nn.Module):
    """Two edges of three candidates; which run is kept in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList([nn.Identity(), nn.Tanh(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))])
            for _ in range(2)
        )
        self.path: Any = [0, 0]

    def set_path(self, path: Any) -> None:
        self.path = list(path)

    def forward(self, x: Tensor) -> Tensor:
        for edge, k in zip(self.edges, self.path, strict=True):
            x = edge[k](x)
        return x


PATHS = list(itertools.product(range(3), repeat=2))


def both(kind: Callable[[], Any] = Kept, paths: Any = ()) -> tuple[Any, Any]:
    """Return a model, and one over the same tensors that is simplified and ran some paths."""
    model = kind().double()
    fast = toponas_fx.simplify(model, IMAGES, mode="exact")
    for path in paths:
        assert_alike(fast, model, path)
    return model, fast


def assert_alike(fast: Any, model: Any, path: Any) -> None:
    fast.set_path(path), model.set_path(path)
    assert_runs_like(fast, model, IMAGES)


LEARNT = ((1, 2), (2, 0))
"""Two paths after the first, each of which changes all that is kept."""


# -- whole searches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AttributeSet, StructureSet], ids=lambda kind: kind.__name__)
def test_a_search_costs_a_handful_of_captures(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random search with integers, ENAS's and RANDOM's with an object that names operations: 200 steps, all alike."""
    model = built(kind)
    sides = Side(model), Side(simplified(model))
    with counted_captures(monkeypatch) as found:
        run_alike(sides, 20)
    assert len(found) <= 4
    with no_capture(monkeypatch):
        run_alike(sides, 180, first=20)
    state = sides[1].model._toponas
    assert not state.as_written
    assert state.programs[0].kept


# -- learning ----------------------------------------------------------------------------------------------------------


def test_after_the_third_path_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both()
    for path in LEARNT:
        with counted_captures(monkeypatch) as found:
            assert_alike(fast, model, path)
        assert len(found) == 1
    with no_capture(monkeypatch):
        for path in PATHS:
            assert_alike(fast, model, path)
    assert fast._toponas.programs[0].values == (None, frozenset(range(3)), frozenset(range(3)))


def test_other_batches_need_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(paths=LEARNT)
    with no_capture(monkeypatch):
        for path, batch in zip(PATHS, range(1, 10), strict=True):
            fast.set_path(path), model.set_path(path)
            assert_runs_like(fast, model, IMAGES[:1].repeat(batch, 1, 1, 1))


def test_evaluation_learns_at_once_what_training_has_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A derived architecture is evaluated: one capture for all of them."""
    model, fast = both(paths=LEARNT)
    fast.eval(), model.eval()
    with counted_captures(monkeypatch) as found:
        for path in PATHS:
            assert_alike(fast, model, path)
    assert len(found) == 1
    with no_capture(monkeypatch):
        for training in (True, False):
            fast.train(training), model.train(training)
            for path in PATHS:
                assert_alike(fast, model, path)


def test_what_changes_later_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second edge keeps its candidate for the first steps."""
    model, fast = both(paths=((1, 0), (2, 0), (0, 0)))
    assert [str(kept) for kept in fast._toponas.programs[0].kept] == ["`the model.path[0]`"]
    with counted_captures(monkeypatch) as found:
        assert_alike(fast, model, (1, 1))
    assert len(found) == 1
    with no_capture(monkeypatch):
        for path in PATHS:
            assert_alike(fast, model, path)


class Uneven(Kept):
    """The second edge has fewer candidates than the first."""

    def __init__(self) -> None:
        super().__init__()
        del self.edges[1][2]


def test_edges_may_have_unlike_numbers_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Uneven, ((1, 1), (2, 0)))
    assert fast._toponas.programs[0].values == (None, frozenset(range(3)), frozenset(range(2)))
    with no_capture(monkeypatch):
        for path in itertools.product(range(3), range(2)):
            assert_alike(fast, model, path)


def test_a_value_out_of_range_raises_what_the_original_raises() -> None:
    model, fast = both(paths=LEARNT)
    before = copy.deepcopy(model.state_dict())
    for one in (fast, model):
        one.set_path((2, 3))
        with pytest.raises(IndexError, match="out of range"):
            one(IMAGES)
        model.load_state_dict(before)
    assert_alike(fast, model, (1, 1))


def test_an_index_from_the_end_is_another_candidate() -> None:
    model, fast = both(paths=LEARNT)
    for path in ((-1, 0), (0, -1), (-1, -3), (2, 2)):
        assert_alike(fast, model, path)
    assert not fast._toponas.as_written


class Named(Kept):
    """Names from a table that the model does not keep: those that are met are known."""

    def set_path(self, path: Any) -> None:
        self.path = ["abc"[k] for k in path]

    def forward(self, x: Tensor) -> Tensor:
        for edge, name in zip(self.edges, self.path, strict=True):
            x = edge[{0: 0, "a": 0, "b": 1, "c": 2}[name]](x)
        return x


class ListedNames(Named):
    """The model lists them, with one that some edges have not."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ["d", "c", "b", "a"]
        self.path = ["a", "a"]


def test_names_that_the_model_lists_are_known_before_they_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(ListedNames, ((1, 1), (0, 0), (1, 1)))
    with counted_captures(monkeypatch):
        assert_alike(fast, model, (0, 1))
        assert_alike(fast, model, (1, 0))
        assert_alike(fast, model, (2, 1))
    assert fast._toponas.programs[0].values[1] == frozenset("abc"), "the one that fails is left out"
    assert_alike(fast, model, (0, 2))
    with no_capture(monkeypatch):
        for path in PATHS:
            assert_alike(fast, model, path)


def test_names_that_nothing_lists_are_no_choice() -> None:
    """A mode by name is none: two values, or three, of which nothing says that they name candidates."""
    model, fast = both(Named)
    for path in PATHS:
        assert_alike(fast, model, path)
    assert not any(program.kept for program in fast._toponas.programs)


class Moded(Kept):
    """A mode that is switched back and forth has a program each, and is no choice."""

    def set_path(self, path: Any) -> None:
        self.path = [0, 0]
        self.mode = path

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if getattr(self, "mode", 0) == 0 else x.sigmoid()


def test_a_mode_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Moded, (0, 1))
    with no_capture(monkeypatch):
        for mode in (0, 1) * 4:
            assert_alike(fast, model, mode)
    for mode in (2, 3, 4, 0, 1):
        assert_alike(fast, model, mode)
    assert not any(program.kept for program in fast._toponas.programs)


# -- copies in the middle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_knows_what_was_learnt_and_goes_its_own_way(
    how: str, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fast = both(paths=LEARNT[:before])
    twin = copy.deepcopy(fast) if how == "deepcopy" else pickle.loads(pickle.dumps(fast))
    owner = Kept().double()
    for name, value in twin.state_dict(keep_vars=True).items():
        place, _, last = name.rpartition(".")
        setattr(owner.get_submodule(place), last, value)
    with counted_captures(monkeypatch) as found:
        for path in (*LEARNT, *PATHS):
            fast.set_path((0, 0))
            assert_alike(twin, owner, path)
    assert len(found) == 2 - before
    with counted_captures(monkeypatch) as found:
        for path in (*LEARNT, *PATHS):
            twin.set_path((0, 0))
            assert_alike(fast, model, path)
    assert len(found) == 2 - before
