"""Whether a recorded run is a path of a merged graph: one that chooses otherwise in places, or one that leaves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_path_merging import ARMS, drawn, is_taken, row, rows_of_flags, used_again
from torch import Tensor

from forced_paths import Net, X, forced, runs
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.path_merging import merge_paths
from toponas_fx.capture.path_replay import is_same_run, replay
from toponas_fx.capture.path_sections import UnlikePathsError


@pytest.mark.parametrize("forward", [*ARMS, is_taken, rows_of_flags], ids=lambda forward: forward.__name__)
def test_runs_that_choose_otherwise_in_places_are_paths_too(forward: Callable[..., Any]) -> None:
    model = Net(forward)
    found = merge_paths(runs(model))
    for turn in range(3):
        run = forced(model, Forcing(turn, 0), torch.cat([X, X])).graph
        own = replay(found, run)
        assert set(own.values()) <= set(run.nodes)
        assert run.output_node() in own.values()


def dependent(self: Any, x: Tensor) -> Tensor:
    """The second candidate is computed another way, after another first one."""
    first, second = drawn(self), drawn(self, 1)
    x = self.ops[first](x)
    x = self.ops[second](x)
    return x + 1 if first == second else x


def other_input(self: Any, x: Tensor) -> Tensor:
    """What the second reads is what the first left, in the runs that take one candidate everywhere."""
    first, second = drawn(self), drawn(self, 1)
    y = self.ops[first](x)
    return self.ops[second](y if first == second else x)


def more_after(self: Any, x: Tensor) -> Tensor:
    first, second = drawn(self), drawn(self, 1)
    x = self.ops[second](self.ops[first](x))
    return x.exp() if first != second else x


def other_draw(self: Any, x: Tensor) -> Tensor:
    """Which draw the last choice reads is told by the others."""
    first, second, third = self.alphas.argmax(-1)
    fourth = self.alphas[0].argmin()
    k, j = first.item(), second.item()
    x = self.ops[k](x)
    return self.ops[third if k == j else fourth](x)


@pytest.mark.parametrize(
    "forward", [dependent, other_input, more_after, other_draw], ids=lambda forward: forward.__name__
)
def test_refuses_runs_that_leave_the_graph(forward: Callable[..., Any]) -> None:
    model = Net(forward)
    found = merge_paths(runs(model))
    for graph in runs(model):
        replay(found, graph)
    with pytest.raises(UnlikePathsError, match=r"^what is computed for a candidate depends on other choices$"):
        replay(found, forced(model, Forcing(0, 0)).graph)


def test_refuses_numbers_that_no_merged_run_had() -> None:
    def sums(self: Any, x: Tensor) -> Tensor:
        total = (self.alphas[0].argmax() + self.alphas[1].argmax()).item()
        return x * total

    model = Net(sums)
    found = merge_paths(runs(model))
    with pytest.raises(UnlikePathsError, match="a choice is another number than in the runs that took one candidate"):
        replay(found, forced(model, Forcing(0, 0)).graph)


def test_a_run_with_plain_integers_is_the_same_unless_their_type_is_asked() -> None:
    def asks(self: Any, x: Tensor) -> Tensor:
        return x.exp() if type(drawn(self)) is int else x

    for forward, expected in ((row, True), (used_again, True), (asks, False)):
        one, other = (forced(Net(forward), Forcing(1, is_plain=is_plain)).graph for is_plain in (False, True))
        assert is_same_run(one, other) is expected
    assert not is_same_run(runs(Net(row))[0], runs(Net(row))[1])
    assert not is_same_run(runs(Net(one_input))[0], runs(Net(another_input))[0])


def one_input(self: Any, x: Tensor) -> Tensor:
    first = x.exp()
    return first.tanh() + first


def another_input(self: Any, x: Tensor) -> Tensor:
    first = x.exp()
    return first.tanh() + x
