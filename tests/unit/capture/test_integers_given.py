"""Integers that forward is given: choices where they change and name candidates, and as before where they are none."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, counted_captures, no_capture
from forced_paths import X

IMAGES = X.double()


class Spos(nn.Module):
    """A chain of two edges with three candidates; forward is given which it takes, as SPOS's is."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList([nn.Identity(), nn.Tanh(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))])
            for _ in range(2)
        )

    def forward(self, x: Tensor, path: Any) -> Tensor:
        for edge, k in zip(self.edges, path, strict=True):
            x = edge[k](x)
        return x


class Named(Spos):
    """Given by name."""

    def forward(self, x: Tensor, *, first: int, second: int = 0) -> Tensor:  # type: ignore[override]
        return super().forward(x, (first, second))


class Mixed(Spos):
    """One of them is a size, another a mode."""

    def forward(self, x: Tensor, path: Any, repeats: int = 1, *, scaled: bool = False) -> Tensor:  # type: ignore[override]
        for _ in range(repeats):
            x = super().forward(x, path)
        return x * 2 if scaled else x


def both(kind: type[nn.Module], *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Return a model, and one over the same tensors that is simplified for a call's arguments."""
    model = kind().double()
    fast = toponas_fx.simplify(model, args, example_kwargs=kwargs, mode="exact")
    return model, fast


def assert_compiled(fast: Any) -> None:
    assert not fast._toponas.as_written, fast._toponas.as_written
    assert fast._toponas.programs


PATHS = list(itertools.product(range(3), repeat=2))


def test_after_the_second_path_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Spos, IMAGES, (0, 0))
    with counted_captures(monkeypatch) as found:
        assert_runs_like(fast, model, IMAGES, (0, 0))
        assert not found
        assert_runs_like(fast, model, IMAGES, (1, 2))
        assert len(found) == 1
    with no_capture(monkeypatch):
        for path in PATHS:
            assert_runs_like(fast, model, IMAGES, path)
    assert_compiled(fast)
    assert fast._toponas.programs[0].chooses


class Uneven(Spos):
    """The second edge has fewer candidates than the first."""

    def __init__(self) -> None:
        super().__init__()
        del self.edges[1][2]


def test_edges_may_have_unlike_numbers_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Uneven, IMAGES, (0, 0))
    assert_runs_like(fast, model, IMAGES, (1, 1))
    assert fast._toponas.programs[0].values == (None, frozenset((0, 1, 2)), frozenset((0, 1)))
    with no_capture(monkeypatch):
        for path in itertools.product(range(3), range(2)):
            assert_runs_like(fast, model, IMAGES, path)


def test_other_batches_need_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Spos, IMAGES, (0, 0))
    assert_runs_like(fast, model, IMAGES, (1, 2))
    with no_capture(monkeypatch):
        for path, batch in zip(PATHS, (1, 2, 3, 4, 5, 6, 7, 8, 9), strict=True):
            assert_runs_like(fast, model, IMAGES[:1].repeat(batch, 1, 1, 1), path)


def test_lists_and_tuples_are_kinds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Spos, IMAGES, (0, 0))
    for path in ((1, 2), [0, 1], [2, 2]):
        assert_runs_like(fast, model, IMAGES, path)
    with no_capture(monkeypatch):
        for path in PATHS:
            assert_runs_like(fast, model, IMAGES, path)
            assert_runs_like(fast, model, IMAGES, list(path))


def test_integers_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Named, IMAGES, first=0, second=1)
    assert_runs_like(fast, model, IMAGES, first=2, second=1)
    with no_capture(monkeypatch):
        for first, second in PATHS:
            assert_runs_like(fast, model, IMAGES, first=first, second=second)
    for first in (0, 1, 2):
        assert_runs_like(fast, model, IMAGES, first=first)
    assert_compiled(fast)


def test_training_and_evaluation_learn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Spos, IMAGES, (0, 0))
    for training in (True, False):
        model.train(training)
        fast.train(training)
        for path in ((0, 0), (1, 2), (2, 0)):
            assert_runs_like(fast, model, IMAGES, path)
    with no_capture(monkeypatch):
        for training, path in itertools.product((False, True), PATHS):
            model.train(training)
            fast.train(training)
            assert_runs_like(fast, model, IMAGES, path)
    assert_compiled(fast)


# -- values that no recorded run had -----------------------------------------------------------------------------------


def learnt(kind: type[nn.Module] = Spos) -> tuple[Any, Any]:
    """Return both, once the integers are known to be choices."""
    model, fast = both(kind, IMAGES, (0, 0))
    assert_runs_like(fast, model, IMAGES, (1, 2))
    return model, fast


def test_values_that_python_takes_otherwise_run_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index from the end; nothing of a path that cannot go on is left, the count of a norm say."""
    model, fast = learnt()
    with no_capture(monkeypatch):
        for path in ((-1, 0), (2, -1), (-3, -2), (2, 2)):
            assert_runs_like(fast, model, IMAGES, path)


@pytest.mark.parametrize("path", [(3, 0), (2, 3), (2, -4)])
def test_values_out_of_range_raise_what_the_original_raises(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = learnt()
    seen: list[Any] = []
    with no_capture(monkeypatch):
        for one in (model, fast):
            before = copy.deepcopy(model.state_dict())
            with pytest.raises(IndexError) as error:
                one(IMAGES, path)
            seen.append((str(error.value), {name: value.tolist() for name, value in model.state_dict().items()}))
            model.load_state_dict(before)
    assert seen[0] == seen[1], "what ran before the error counts as in the original"
    assert_runs_like(fast, model, IMAGES, (2, 1))


@pytest.mark.parametrize("path", [(1,), (1, 2, 0)])
def test_paths_of_another_length_raise_what_the_original_raises(path: Any) -> None:
    model, fast = learnt()
    for one in (model, fast):
        with pytest.raises(ValueError, match="zip"):
            one(IMAGES, path)


def test_truth_values_are_no_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They index a list too; each is a kind of call of its own, as ever."""
    model, fast = learnt()
    for path in ((True, False), (False, 1), (True, True)):
        assert_runs_like(fast, model, IMAGES, path)
    with no_capture(monkeypatch):
        for path in ((True, False), (False, 1), *PATHS):
            assert_runs_like(fast, model, IMAGES, path)


# -- integers that are no choices --------------------------------------------------------------------------------------


class Using(nn.Module):
    """A model that uses an integer for something else."""

    def __init__(self, use: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.conv, self.use = nn.Conv2d(4, 4, 1), (use,)

    def forward(self, x: Tensor, number: int) -> Tensor:
        return self.use[0](self.conv(x), number)


def repeated(x: Tensor, number: int) -> Tensor:
    for _ in range(number):
        x = x.tanh() + x
    return x


OTHER: dict[str, tuple[Callable[[Tensor, int], Tensor], tuple[int, ...]]] = {
    "size": (lambda x, size: nn.functional.interpolate(x, size=(size, size)), (3, 5, 7, 5, 3)),
    "repeats": (repeated, (1, 2, 3, 2, 1, 4)),
    "mode": (lambda x, mode: x.relu() if mode else x, (0, 1, 0, 1)),
    "factor": (lambda x, number: x * number, (1, 2, 3, 50, 2)),
    "groups": (lambda x, number: x.unflatten(1, (number, -1)).sum(1), (1, 2, 4, 2)),
    "epoch": (lambda x, number: x / (1 + 0.5**number), (0, 1, 2, 3, 4, 5)),
    "unread": (lambda x, number: x.exp(), (0, 7, 100, 2)),
    "seed": (lambda x, number: x + torch.rand(1, dtype=x.dtype) * number, (3, 4, 5)),
}


@pytest.mark.parametrize("name", OTHER)
def test_integers_that_are_no_choices_are_right(name: str) -> None:
    use, numbers = OTHER[name]
    model = Using(use).double()
    fast = toponas_fx.simplify(model, (IMAGES, numbers[0]))
    for number in numbers:
        assert_runs_like(fast, model, IMAGES, number)


def test_what_was_tried_in_vain_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    use, _ = OTHER["size"]
    model = Using(use).double()
    fast = toponas_fx.simplify(model, (IMAGES, 3))
    for size in (3, 5, 7):
        assert_runs_like(fast, model, IMAGES, size)
    assert set(fast._toponas.chosen.values()) == {False}
    with no_capture(monkeypatch):
        for size in (7, 5, 3):
            assert_runs_like(fast, model, IMAGES, size)


@pytest.mark.slow
def test_integers_beside_choices_may_be_others() -> None:
    """What counts how often is no choice; all is right, whether it is compiled or not."""
    model, fast = both(Mixed, IMAGES, (0, 0))
    for path, repeats, scaled in (((0, 1), 1, False), ((2, 2), 2, False), ((1, 2), 1, True), ((2, 1), 3, True)):
        assert_runs_like(fast, model, IMAGES, path, repeats, scaled=scaled)


class Scaled(Spos):
    scale = 1

    def forward(self, x: Tensor, path: Any) -> Tensor:
        return super().forward(x, path) * self.scale


def test_integers_that_stay_are_no_choices_because_something_else_changes() -> None:
    model, fast = both(Scaled, IMAGES, (0, 1))
    model.scale = fast.scale = 2
    assert_runs_like(fast, model, IMAGES, (0, 1))
    assert set(fast._toponas.chosen.values()) == {(0, 1)}


def test_an_integer_that_never_changes_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = both(Spos, IMAGES, (2, 1))
    with no_capture(monkeypatch):
        for _ in range(3):
            assert_runs_like(fast, model, IMAGES, (2, 1))
    assert not fast._toponas.programs[0].chooses


# -- copies in the middle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_knows_what_was_learnt(how: str, before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After no step, after the first, and once the integers are choices."""
    model, fast = both(Spos, IMAGES, (0, 0))
    for path in ((0, 0), (1, 2))[:before]:
        assert_runs_like(fast, model, IMAGES, path)
    twin = copy.deepcopy(fast) if how == "deepcopy" else pickle.loads(pickle.dumps(fast))
    owner = Spos().double()
    for name, value in twin.state_dict(keep_vars=True).items():
        place, _, last = name.rpartition(".")
        setattr(owner.get_submodule(place), last, value)
    with counted_captures(monkeypatch) as found:
        for path in PATHS:
            assert_runs_like(twin, owner, IMAGES, path)
        assert len(found) == (before < 2)
        for path in PATHS:
            assert_runs_like(fast, model, IMAGES, path)
        assert len(found) == 2 * (before < 2)
