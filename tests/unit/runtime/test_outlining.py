"""Programs of sampled paths: only the arm that is taken runs, lazy values at most once, and nothing is kept."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from torch import fx

from toponas_fx.analysis import arms
from toponas_fx.errors import GuardFailure
from toponas_fx.ops import choices
from toponas_fx.runtime.compiled import function_of
from toponas_fx.runtime.outlining import DelayedValue, computed, outlined

CALLS: Counter[str] = Counter()


def step(name: str, x: Any, *more: Any) -> Any:
    """Count the call, and return a value that tells which calls it went through."""
    CALLS[name] += 1
    return (name, x, *more)


step.__module__ = __name__


class Written:
    """A graph with choices, written by hand; each call counts itself."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.x, self.k = self.graph.placeholder("x"), self.graph.placeholder("k")

    def call(self, name: str, *args: Any, arm: Any = None) -> fx.Node:
        """Write a call, of an arm, lazy, or always."""
        node = self.graph.call_function(step, (name, *args), name=name)
        arms.settle(node, arm)
        return node

    def select(self, values: Sequence[Any], *nodes: Any, site: int = 0, choice: Any = None) -> fx.Node:
        """Write the node that takes a value of an arm."""
        node = self.graph.call_function(choices.select, (choice or self.k, tuple(values), tuple(nodes)))
        node.meta["site"] = site
        return node

    def run(self, result: Any, *inputs: Any) -> Any:
        """Return what the outlined graph gives, and count anew."""
        CALLS.clear()
        self.graph.output(result)
        owner = self
        return function_of(outlined(self.graph), (), owner)(None, *inputs)

    def called(self, result: Any, *inputs: Any) -> Counter[str]:
        """Return how often each call ran."""
        self.run(result, *inputs)
        return Counter(CALLS)


# -- arms --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "expected"), [(0, ("a", "x")), (1, ("c", ("b", "x"))), (2, "x")])
def test_only_the_arm_taken_runs(k: int, expected: Any) -> None:
    g = Written()
    a, b = g.call("a", g.x, arm=(0, 0)), g.call("b", g.x, arm=(0, 1))
    c = g.call("c", b, arm=(0, 1))
    assert g.run(g.select((0, 1, 2), a, c, g.x), "x", k) == expected
    assert CALLS == {0: {"a": 1}, 1: {"b": 1, "c": 1}, 2: {}}[k]


def test_a_value_that_no_arm_has_fails_before_any_runs() -> None:
    g = Written()
    with pytest.raises(GuardFailure, match="a choice is 7, where"):
        g.run(g.select((0, 1), g.call("a", g.x, arm=(0, 0)), g.call("b", g.x, arm=(0, 1))), "x", 7)
    assert not CALLS


@pytest.mark.parametrize("k", [0, 1])
def test_several_values_of_a_choice_come_of_one_run(k: int) -> None:
    g = Written()
    a, b = g.call("a", g.x, arm=(0, 0)), g.call("b", g.x, arm=(0, 1))
    aa, bb = g.call("aa", a, arm=(0, 0)), g.call("bb", g.x, arm=(0, 1))
    first, second = g.select((0, 1), a, b), g.select((0, 1), aa, bb)
    found = g.run((second, first), "x", k)
    assert found == ((("aa", ("a", "x")), ("a", "x")), (("bb", "x"), ("b", "x")))[k]
    assert set(CALLS.values()) == {1}
    assert len(CALLS) == 2


def test_what_is_read_by_arms_alone_but_is_of_none_always_runs() -> None:
    g = Written()
    common = g.call("common", g.x)
    assert g.called(g.select((0, 1), g.call("a", common, arm=(0, 0)), g.x), "x", 1) == {"common": 1}


def test_choices_follow_each_other() -> None:
    g = Written()
    first = g.select((0, 1), g.call("a", g.x, arm=(0, 0)), g.call("b", g.x, arm=(0, 1)))
    second = g.select((0, 1), g.call("c", first, arm=(1, 0)), first, site=1)
    assert g.run(second, "x", 0) == ("c", ("a", "x"))
    assert CALLS == {"a": 1, "c": 1}


def test_a_choice_of_a_computed_value_and_of_several() -> None:
    g = Written()
    read = g.graph.call_function(int, (g.k,))
    a, b = g.call("a", g.x, arm=(0, 0)), g.call("b", g.x, arm=(0, 1))
    assert g.run(g.select(((1, 1), (1, 0)), a, b, choice=(g.k, read)), "x", True) == ("a", "x")
    assert CALLS == {"a": 1}


def test_a_choice_whose_values_are_plain_or_one_and_the_same() -> None:
    g = Written()
    assert g.run((g.select((0, 1), 5, g.x), g.select((0, 1), g.x, g.x)), "x", 0) == (5, "x")


# -- lazy values -------------------------------------------------------------------------------------------------------


def lazily(g: Written, *, nested: bool = False) -> fx.Node:
    """Write two choices whose second arms read a lazy value, or one that reads another."""
    value = g.call("lazy", g.x, arm=arms.LAZY)
    if nested:
        value = g.call("outer", value, arm=arms.LAZY)
    first = g.select((0, 1), g.x, g.call("a", value, arm=(0, 1)))
    j = g.graph.placeholder("j")
    return g.select((0, 1), first, g.call("b", value, first, arm=(1, 1)), site=1, choice=j)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("k", "j"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_lazy_value_is_computed_once_and_only_where_it_is_read(k: int, j: int, nested: bool) -> None:
    g = Written()
    value = ("outer", ("lazy", "x")) if nested else ("lazy", "x")
    first = ("a", value) if k else "x"
    assert g.run(lazily(g, nested=nested), "x", k, j) == (("b", value, first) if j else first)
    assert CALLS["lazy"] == CALLS["outer"] + (not nested and bool(k or j)) == int(bool(k or j))


def test_a_lazy_value_is_a_value_of_an_arm_itself() -> None:
    g = Written()
    value = g.call("lazy", g.x, arm=arms.LAZY)
    first, second = g.select((0, 1), g.x, value), g.select((0, 1), value, g.x, site=1)
    assert g.run((first, second), "x", 1) == (("lazy", "x"), "x")
    assert CALLS == {"lazy": 1}


def test_both_values_of_a_lazy_list_are_asked_for_once() -> None:
    g = Written()
    value = g.call("lazy", g.x, arm=arms.LAZY)
    arm = g.call("a", [value, value], arm=(0, 1))
    assert g.called(g.select((0, 1), g.x, arm), "x", 1) == {"lazy": 1, "a": 1}


def test_a_lazy_value_lets_go_of_what_it_read() -> None:
    read, calls = Written(), []
    reference = weakref.ref(read)
    value = DelayedValue(lambda given: calls.append(given.graph) or "computed", (read,))
    del read
    assert reference() is not None
    assert [computed(value), computed(value)] == ["computed"] * 2
    assert len(calls) == 1
    assert reference() is None
