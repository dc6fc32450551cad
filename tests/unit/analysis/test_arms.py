"""Arms of choices under passes: where nodes run, what may be read there, and what passes leave alone."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_arms_rewritten import compiled, drawn
from torch import fx

from toponas_fx.analysis import arms
from toponas_fx.analysis.effects import guards_lead, is_guard
from toponas_fx.errors import VerificationError
from toponas_fx.ops import choices
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.verifier import Interface, verify

# -- where nodes run ---------------------------------------------------------------------------------------------------


def written() -> tuple[fx.Graph, dict[str, fx.Node]]:
    """Return a graph of two arms, a lazy value, and a select."""
    graph = fx.Graph()
    named: dict[str, fx.Node] = {"x": graph.placeholder("x"), "k": graph.placeholder("k")}
    for name, place in (("common", None), ("lazy", arms.LAZY), ("one", (0, 0)), ("two", (0, 1)), ("other", (1, 0))):
        named[name] = graph.call_function(torch.exp, (named["x"],), name=name)
        arms.settle(named[name], place)
    named["select"] = graph.call_function(choices.select, (named["k"], (0, 1), (named["one"], named["two"])))
    named["select"].meta["site"] = 0
    return graph, named


NEW = {
    "of an arm": (["one"], [], (0, 0)),
    "of an arm and of what always runs": (["common", "two"], ["common"], (0, 1)),
    "of an arm and of what is lazy": (["lazy", "one"], ["lazy"], (0, 0)),
    "in place of one": (["x"], ["one"], (0, 0)),
    "in place of several of one arm": (["x"], ["one", "one"], (0, 0)),
    "in place of what is in two arms": (["x"], ["one", "two"], None),
    "in place of what is lazy": (["x"], ["lazy"], arms.LAZY),
    "of what is lazy": (["lazy"], ["one"], (0, 0)),
    "of nothing in arms": (["common"], ["common"], None),
    "of nothing at all": ([], [], None),
}


@pytest.mark.parametrize("name", NEW)
def test_where_a_new_node_runs(name: str) -> None:
    inputs, origins, expected = NEW[name]
    _, named = written()
    assert arms.home_of_new([named[one] for one in inputs], [named[one] for one in origins]) == expected


def test_settling_moves_a_node_and_none_is_always() -> None:
    _, named = written()
    arms.settle(named["one"], None)
    assert "arm" not in named["one"].meta
    arms.settle(named["one"], (3, 1))
    assert arms.home(named["one"]) == (3, 1)
    assert arms.homes(named.values()) == {None, arms.LAZY, (3, 1), (0, 1), (1, 0)}


def test_an_arms_value_is_read_in_its_arm_and_a_choice_before_all() -> None:
    graph, named = written()
    assert list(arms.readers(named["one"])) == [(0, 0)]
    assert list(arms.readers(named["k"])) == [None]
    both = graph.call_function(choices.select, (named["one"], (0, 1), (named["one"], named["one"])))
    both.meta["site"] = 4
    assert sorted(map(str, arms.readers(named["one"]))) == ["(0, 0)", "(4, 0)", "(4, 1)", "None"]


def read_by(name: str, reader: str | None) -> tuple[fx.Node, str] | None:
    graph, named = written()
    new = graph.call_function(torch.exp, (named[name],), name="reader")
    arms.settle(new, None if reader is None else arms.home(named[reader]))
    return arms.why_astray(graph)


@pytest.mark.parametrize(
    ("name", "reader"), [("one", "one"), ("lazy", "one"), ("lazy", "lazy"), ("x", "one"), ("common", "lazy")]
)
def test_what_may_be_read(name: str, reader: str) -> None:
    assert read_by(name, reader) is None


@pytest.mark.parametrize(
    ("name", "reader"), [("one", "two"), ("one", None), ("one", "lazy"), ("lazy", None), ("two", "other")]
)
def test_what_is_read_astray(name: str, reader: str | None) -> None:
    found = read_by(name, reader)
    assert found is not None
    assert found[0].name == name
    assert found[1] == f"`{name}` runs in one arm of a choice, or lazily, and is read outside of it"


def test_an_arms_value_that_another_arm_gives_is_astray() -> None:
    graph, named = written()
    named["select"].args = (named["k"], (0, 1), (named["two"], named["two"]))
    found = arms.why_astray(graph)
    assert found is not None
    assert found[0].name == "two"


def test_the_verifier_rejects_a_value_of_an_arm_that_is_read_outside() -> None:
    _, fast = compiled(lambda self, x: self.ops[drawn(self)](x).exp())
    interface = Interface.of(fast.graph)
    verify(fast, interface)
    inside = next(node for node in fast.graph.nodes if arms.home(node) == (0, 1))
    (outside,) = [node for node in fast.graph.nodes if node.target == "exp"]
    outside.args = (inside,)
    with pytest.raises(VerificationError, match=r"or lazily, and is read outside of it:\n"):
        verify(fast, interface)


def test_the_rewriter_puts_new_nodes_where_the_old_ones_ran() -> None:
    _, fast = compiled(lambda self, x: self.ops[drawn(self)](x).exp())
    rewriter = Rewriter(fast, "a-pass")
    inside = next(node for node in fast.graph.nodes if arms.home(node) == (0, 1))
    outside = next(node for node in fast.graph.nodes if node.target == "exp")
    for anchor, expected in ((inside, (0, 1)), (outside, None)):
        with rewriter.before(anchor):
            new = rewriter.call_function(torch.exp, (fast.graph.find_nodes(op="placeholder")[0],))
        assert arms.home(new) == expected


# -- choices that may be none of their values --------------------------------------------------------------------------


def guard_of(choice: Callable[[fx.Graph], Any], values: tuple[Any, ...]) -> bool:
    graph = fx.Graph()
    read = choice(graph)
    return is_guard(graph.call_function(choices.select, (read, values, (1,) * len(values))))


def alphas(graph: fx.Graph) -> fx.Node:
    return graph.get_attr("alphas")


def argmax(graph: fx.Graph) -> fx.Node:
    return graph.call_method("argmax", (alphas(graph),))


SURE: dict[str, tuple[Callable[[fx.Graph], Any], tuple[Any, ...]]] = {
    "an index": (argmax, (0, 1, 2)),
    "an element of indices": (lambda g: g.call_function(operator.getitem, (argmax(g), 0)), (0, 1)),
    "an input": (lambda g: g.placeholder("k"), (0, 1)),
    "a truth value": (lambda g: g.call_method("gt", (alphas(g), 0)), (True, False)),
}
UNSURE: dict[str, tuple[Callable[[fx.Graph], Any], tuple[Any, ...]]] = {
    "a sum of indices": (lambda g: g.call_method("add", (argmax(g), argmax(g))), (0, 2, 4)),
    "several": (lambda g: (argmax(g), argmax(g)), ((0, 0), (1, 1))),
    "a truth value that is one alone": (lambda g: g.call_method("gt", (alphas(g), 0)), (True,)),
    "numbers that are truth values": (lambda g: g.call_method("sum", (alphas(g),)), (0, 1)),
}


@pytest.mark.parametrize("name", SURE)
def test_a_choice_that_has_an_arm_for_each_value_is_no_guard(name: str) -> None:
    assert not guard_of(*SURE[name])


@pytest.mark.parametrize("name", UNSURE)
def test_a_choice_that_may_be_something_else_is_a_guard(name: str) -> None:
    assert guard_of(*UNSURE[name])


def test_a_guard_leads_unless_a_norm_counts_before_a_choice_that_may_fail() -> None:
    """What a run that fails half way must put back."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["type"] = "f32"
    index = graph.call_method("argmax", (x,))
    module = graph.call_module("ops.0", (x,))
    sure = graph.call_function(choices.select, (index, (0, 1), (module, x)))
    assert guards_lead(graph)
    graph.call_function(choices.select, ((index, index), ((0, 0), (1, 1)), (sure, x)))
    assert not guards_lead(graph)


def test_the_values_of_a_maximum_may_be_any() -> None:
    graph = fx.Graph()
    largest = graph.call_method("max", (graph.placeholder("x"), 0))
    for key, may_fail in ((0, True), (1, False)):
        taken = graph.call_function(operator.getitem, (largest, key))
        assert arms.may_fail(graph.call_function(choices.select, (taken, (0, 1), (taken, taken)))) is may_fail
