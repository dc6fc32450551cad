"""The rewriter: the one way to change a graph, and the notes that it leaves."""

import dataclasses
import operator
from typing import Any

import pytest
import torch
from torch import nn

import toponas_fx
from toponas_fx.errors import PassError
from toponas_fx.ir.decisions import NormalizedKernel
from toponas_fx.ir.printer import format_graph
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.runtime.inspection import at_work

KIND = TensorType(torch.float32, (2, 3))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(self.linear(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Inner(), Inner()
        self.alias = self.b.linear

    def forward(self, x):
        return self.a(x) + self.b(x)


@pytest.fixture
def gm():
    return toponas_fx.simplify(Net(), torch.ones(2, 3), passes=()).train()


@pytest.fixture
def rewriter(gm):
    return Rewriter(gm, "some-pass")


def nodes_of(gm, target):
    return [node for node in gm.graph.nodes if node.target == target]


def test_notes_on_each_new_node_who_made_it_from_what(gm, rewriter):
    first, second = nodes_of(gm, torch.relu)
    (root,) = nodes_of(gm, operator.add)
    with rewriter.before(root, first, second, first):
        new = rewriter.call_function(torch.tanh, (first,), type=KIND)
        other = rewriter.read("a.linear.weight")
    assert new.meta == {
        "type": KIND,
        "mutates": (),
        "grad": True,
        "scope": "a",
        "where": first.meta["where"],
        "made_by": "some-pass",
        "origin": ("relu", "relu_1"),
    }
    assert new.meta["where"].startswith(__file__)
    assert "type" not in other.meta
    assert new.next is other
    assert other.next is root


def test_stems_from_the_anchor_where_no_origins_are_given(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    with rewriter.before(root):
        new = rewriter.call_function(torch.tanh, (root.args[0],))
        with rewriter.before(new, *root.args):
            inner = rewriter.call_function(torch.neg, (root.args[0],))
        last = rewriter.item(new, 0)
    assert new.meta["origin"] == last.meta["origin"] == ("add",)
    assert inner.meta["origin"] == ("relu", "relu_1")


def test_new_nodes_follow_from_rewritten_ones_to_the_captured(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    with rewriter.before(root, *root.args):
        first = rewriter.call_function(torch.tanh, (root.args[0],))
    with rewriter.before(root, first):
        second = rewriter.call_function(torch.tanh, (first,))
    assert second.meta["origin"] == ("relu", "relu_1")


def test_makes_unique_names(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    with rewriter.before(root):
        made = [rewriter.call_function(torch.relu, (root.args[0],)) for _ in range(3)]
        made += [rewriter.call_module("a.linear", (root.args[0],)), rewriter.read("a.linear.weight")]
    names = [node.name for node in gm.graph.nodes]
    assert len(set(names)) == len(names)
    assert [node.op for node in made[-2:]] == ["call_module", "get_attr"]


def test_inserts_after_a_node(gm, rewriter):
    first, _ = nodes_of(gm, torch.relu)
    with rewriter.after(first, first):
        new = rewriter.call_function(torch.tanh, (first,))
    assert first.next is new
    assert new.meta["origin"] == ("relu",)


def test_inserts_keyword_arguments(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    with rewriter.before(root):
        new = rewriter.call_function(torch.softmax, (root.args[0],), dim=1)
    assert new.kwargs == {"dim": 1}


def test_replaces_a_node_everywhere_and_removes_it(gm, rewriter):
    first, second = nodes_of(gm, torch.relu)
    rewriter.replace(second, first)
    (root,) = nodes_of(gm, operator.add)
    assert root.args == (first, first)
    assert nodes_of(gm, torch.relu) == [first]


def test_a_replacement_takes_over_the_type(gm, rewriter):
    first, _ = nodes_of(gm, torch.relu)
    with rewriter.before(first):
        new = rewriter.call_function(torch.tanh, first.args)
    rewriter.replace(first, new)
    assert new.meta["type"] == KIND


def test_refuses_a_replacement_of_another_type(gm, rewriter):
    first, _ = nodes_of(gm, torch.relu)
    with rewriter.before(first):
        new = rewriter.call_function(torch.sum, first.args, type=TensorType(torch.float32, ()))
    with pytest.raises(PassError, match=r"pass 'some-pass' replaces f32\[2,3\] by f32\[\]:\n(.*\n)*> %3 = relu"):
        rewriter.replace(first, new)
    assert first in nodes_of(gm, torch.relu)


def test_updates_arguments(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    first, second = root.args
    rewriter.update(root, [first, first])
    assert root.args == (first, first)
    assert not second.users


def test_erases_only_what_nobody_reads(gm, rewriter):
    first, _ = nodes_of(gm, torch.relu)
    with pytest.raises(RuntimeError, match="users"):
        rewriter.erase(first)
    before = format_graph(gm)
    rewriter.erase_unread([first, *first.all_input_nodes])
    assert format_graph(gm) == before


def test_erases_readers_before_what_they_read(gm, rewriter):
    (root,) = nodes_of(gm, operator.add)
    first, second = root.args
    linear = second.args[0]
    rewriter.update(root, [first, first])
    rewriter.erase_unread([linear, second, linear])
    assert nodes_of(gm, "b.linear") == []
    assert len(nodes_of(gm, torch.relu)) == 1


def test_ties_a_module_under_all_paths_and_in_all_calls(gm, rewriter):
    (call,) = [node for node in gm.graph.nodes if node.op == "call_module" and node.target != "a.linear"]
    rewriter.tie("a.linear", str(call.target))
    assert gm.b.linear is gm.alias is gm.a.linear
    assert gm.meta["sharing"].ties == {"b.linear": "a.linear", "alias": "a.linear"}
    assert call.target == "a.linear"
    assert gm.get_submodule("b.linear").weight is gm.a.linear.weight


def test_tying_a_tied_module_again_changes_nothing(gm, rewriter):
    rewriter.tie("a.linear", "b.linear")
    ties = dict(gm.meta["sharing"].ties)
    rewriter.tie("a.linear", "b.linear")
    assert gm.meta["sharing"].ties == ties


def test_ties_follow_when_the_kept_module_is_tied_in_turn(gm, rewriter):
    gm = at_work(gm, gm.graph)  # as in a pipeline, which changes the tree as it goes
    rewriter = Rewriter(gm, "test-pass")
    gm.c = nn.Linear(3, 3)
    rewriter.tie("a.linear", "b.linear")
    with rewriter.before(nodes_of(gm, torch.relu)[0]):
        rewriter.call_module("a.linear", (next(iter(gm.graph.nodes)),))
    rewriter.tie("c", "a.linear")
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["c"] * 3
    assert gm.meta["sharing"].ties == {"b.linear": "c", "alias": "c", "a.linear": "c"}
    assert gm.a.linear is gm.b.linear is gm.c


def test_records_normalized_kernels(gm, rewriter):
    rewriter.normalize("a.linear.weight", "a.linear.bias", "filter")
    rewriter.normalize("b.linear.weight", None, "kernel")
    assert gm.meta["sharing"].kernels == {
        "a.linear.weight": NormalizedKernel("a.linear.bias", "filter"),
        "b.linear.weight": NormalizedKernel(None, "kernel"),
    }


@dataclasses.dataclass(frozen=True)
class Found:
    """A match, as passes make them."""

    nodes: tuple[Any, ...]
    inner: Any = None


def test_a_planned_match_reads_replacements_where_nodes_were_replaced(gm, rewriter):
    first, second = nodes_of(gm, torch.relu)
    planned = Found((second,), Found((), [{"value": (first, 2)}]))
    assert rewriter.current(planned) is planned
    news = []
    for _ in range(2):  # the replacement is replaced itself
        with rewriter.before(news[-1] if news else first):
            news.append(rewriter.call_function(torch.tanh, first.args, type=KIND))
        rewriter.replace(news[-2] if news[1:] else first, news[-1])
    assert rewriter.current(planned) == Found((second,), Found((), [{"value": (news[-1], 2)}]))
    assert planned.inner.inner[0]["value"] == (first, 2), "plans are not written to"


def test_an_error_inside_leaves_no_place_to_insert_at(gm, rewriter):
    first, second = nodes_of(gm, torch.relu)
    with pytest.raises(ZeroDivisionError), rewriter.before(second):
        raise ZeroDivisionError
    new = rewriter.call_function(torch.tanh, (first,))
    assert new.meta["origin"] == ()
    assert list(gm.graph.nodes).index(new) > list(gm.graph.nodes).index(second)


def test_refuses_a_node_that_an_earlier_match_erased_by_its_name(gm, rewriter):
    first, second = nodes_of(gm, torch.relu)
    output = gm.graph.output_node()
    rewriter.replace(second, first)
    text = f"pass 'some-pass' uses the node `{second.name}`, which was erased before"
    for use in (
        lambda: rewriter.call_function(torch.tanh, (second,)),
        lambda: rewriter.update(first, (second,)),
        lambda: rewriter.replace(first, second),
        lambda: rewriter.redirect(output, first, second),
        lambda: rewriter.erase(second),
        lambda: rewriter.before(second).__enter__(),
    ):
        with pytest.raises(PassError, match=text):
            use()


def test_refuses_a_node_of_another_graph(gm, rewriter):
    foreign = next(iter(toponas_fx.simplify(Net(), torch.ones(2, 3), passes=()).graph.nodes))
    with pytest.raises(PassError, match=f"uses the node `{foreign.name}`, which is of another graph"):
        rewriter.call_function(torch.tanh, (foreign,))
