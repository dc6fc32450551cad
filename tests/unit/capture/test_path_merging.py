"""Merging recorded runs of tiny modules: what is an arm, where it ends, what passes from it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from forced_paths import Net, X, common, merged, runs, told
from toponas_fx.capture.path_merging import merge_paths
from toponas_fx.capture.path_sections import Site, UnlikePathsError
from toponas_fx.ops import choices


def drawn(self: Any, row: Any = 0) -> Any:
    return self.alphas[row].argmax().item()


def one_hot(self: Any) -> Tensor:
    return F.gumbel_softmax(self.alphas[0], hard=True)


# -- arms --------------------------------------------------------------------------------------------------------------


def one(self: Any, x: Tensor) -> Tensor:
    return self.ops[drawn(self)](x).mean()


def weighted(self: Any, x: Tensor) -> Tensor:
    weights = one_hot(self)
    index = weights.argmax()
    return (self.ops[index](x) * weights[index]).sum()


def row(self: Any, x: Tensor) -> Tensor:
    for number in range(2):
        x = self.ops[drawn(self, number)](x) + 1
    return x


def both(self: Any, x: Tensor) -> Any:
    k = drawn(self)
    return self.ops[k](x), self.ops[k](-x)


def later(self: Any, x: Tensor) -> Tensor:
    k = drawn(self)
    first, second = self.ops[k](x), self.ops[k](-x)
    return self.ops[drawn(self, 1)](first) + second


def rejoined(self: Any, x: Tensor) -> Tensor:
    k = drawn(self)
    first, second = self.ops[k](x), self.ops[k](-x)
    return (first * second.exp()).sum()


def used_again(self: Any, x: Tensor) -> Tensor:
    k = drawn(self)
    x = self.ops[k](x)
    return self.ops[drawn(self, 1)](x) * (k + 1)


def nothing_of_its_own(self: Any, x: Tensor) -> Tensor:
    x = x * 2
    return (x if drawn(self) == 0 else x.exp()).tanh()


def handed_on(self: Any, x: Tensor) -> Tensor:
    """An arm of the second choice gives what the first one gave."""
    x = self.ops[drawn(self)](x)
    return (x if drawn(self, 1) == 0 else x.exp()).tanh()


def is_taken(self: Any, x: Tensor) -> Tensor:
    total: Any = 0
    for weight, op in zip(one_hot(self), self.ops, strict=True):
        if weight > 0:
            total = total + weight * op(x)
    return total


def rows_of_flags(self: Any, x: Tensor) -> Tensor:
    return sum(op(x) for flag, op in zip(one_hot(self).bool(), self.ops, strict=True) if flag)  # type: ignore[return-value]


def settled(self: Any, x: Tensor) -> Tensor:
    weights = one_hot(self)
    if weights.sum() > 0:
        x = x.exp()
    return self.ops[weights.argmax()](x)


def settled_within(self: Any, x: Tensor) -> Tensor:
    weights = one_hot(self)
    x = self.ops[weights.argmax()](x)
    return x.exp() if weights.sum() > 0 else x


ARMS: dict[Callable[..., Any], list[str]] = {
    one: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1"],
    weighted: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1"],
    row: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1"] * 2,
    both: ["[(0,), (1,), (2,)]: ops.0 neg ops.0 | ops.1 neg ops.1 | ops.2.0 ops.2.1 neg ops.2.0 ops.2.1 -> 2"],
    later: [
        "[(0,), (1,), (2,)]: ops.0 neg ops.0 | ops.1 neg ops.1 | ops.2.0 ops.2.1 neg ops.2.0 ops.2.1 -> 2",
        "[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1",
    ],
    rejoined: [
        "[(0,), (1,), (2,)]: ops.0 neg ops.0 exp mul | ops.1 neg ops.1 exp mul"
        " | ops.2.0 ops.2.1 neg ops.2.0 ops.2.1 exp mul -> 1"
    ],
    used_again: [
        "[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1",
        "[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1",
        "[(0,), (1,), (2,)]: mul | mul | mul -> 1",
    ],
    handed_on: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1", "[(0,), (1,), (2,)]:  | exp | exp -> 1"],
    nothing_of_its_own: ["[(0,), (1,), (2,)]:  | exp | exp -> 1"],
    settled: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1"],
    settled_within: ["[(0,), (1,), (2,)]: ops.0 | ops.1 | ops.2.0 ops.2.1 -> 1"],
}


@pytest.mark.parametrize("forward", ARMS, ids=lambda forward: forward.__name__)
def test_what_is_of_an_arm(forward: Callable[..., Any]) -> None:
    assert told(merged(forward)) == ARMS[forward]


def test_what_all_have_in_common_is_written_once() -> None:
    assert common(merged(weighted))[:5] == ["x", "alphas", "getitem", "gumbel_softmax", "argmax"]
    assert common(merged(weighted))[-4:] == ["getitem", "mul", "sum", "output"]
    assert common(merged(row))[-2:] == ["add", "output"]


@pytest.mark.parametrize("forward", [is_taken, rows_of_flags])
def test_decisions_that_one_by_one_tell_too_little_are_taken_together(forward: Any) -> None:
    found = merged(forward)
    (site,) = [part for part in found.parts if isinstance(part, Site)]
    assert site.values == [(True, False, False), (False, True, False), (False, False, True)]
    assert len(site.choices) == 3
    assert len(site.selects) == 1


def test_decisions_that_all_runs_make_alike_are_guards() -> None:
    assert merged(settled).settled == {0}
    assert common(merged(settled)).count("guard") == 1
    assert merged(settled_within).settled == {1}
    assert merged(one).settled == frozenset()


def test_nodes_know_their_arms_and_selects_their_sites() -> None:
    found = merged(row)
    sites = [part for part in found.parts if isinstance(part, Site)]
    for number, site in enumerate(sites):
        for arm, nodes in enumerate(site.arms):
            assert {node.meta["arm"] for node in nodes} == {(number, arm)}
        assert {select.meta["site"] for select in site.selects} == {number}
    assert all("arm" not in part.meta for part in found.parts if isinstance(part, fx.Node))


@pytest.mark.parametrize("forward", [*ARMS, is_taken, rows_of_flags], ids=lambda forward: forward.__name__)
def test_a_merged_graph_computes_what_each_draw_decides(forward: Any) -> None:
    """Interpreted, all arms are computed and one is taken."""
    model = Net(forward)
    found = merge_paths(runs(model))
    for node in list(found.graph.nodes):
        if node.meta.get("decides") and "arm" in node.meta:
            found.graph.erase_node(node)
    nn.init.normal_(model.alphas)
    found_model = fx.GraphModule(model, found.graph)
    for seed in range(6):
        with torch.no_grad():
            model.alphas.normal_()
            torch.manual_seed(seed)
            outputs = model(X)
            torch.manual_seed(seed)
            torch.testing.assert_close(fx.Interpreter(found_model).run(X), outputs)


# -- memory ------------------------------------------------------------------------------------------------------------


def taken_and_written(self: Any, x: Tensor) -> Tensor:
    """One arm hands on what was there before, another makes its own; both are written to later."""
    x = x * 1
    out = x.view(2, 4, 9) if drawn(self) == 0 else x.exp().flatten(2)
    out.add_(1)
    return x + out.view_as(x)


def test_a_value_that_is_taken_lies_where_any_of_the_arms_does() -> None:
    found = merged(taken_and_written)
    (select,) = [node for node in found.graph.nodes if node.target is choices.select]
    places = {node.name: node.meta.get("storage") for node in found.graph.nodes}
    assert {arm.meta["storage"] for arm in select.args[2]} == {select.meta["storage"]}
    assert places["mul"] == select.meta["storage"]
    (written,) = [node for node in found.graph.nodes if node.target == "add_"]
    assert written.meta["mutates"] == (select.meta["storage"],)


def own_memory(self: Any, x: Tensor) -> Tensor:
    return (x * 2).relu_() if drawn(self) == 0 else x.exp()


def test_an_arm_may_write_to_what_it_made() -> None:
    (line,) = told(merged(own_memory))
    assert line == "[(0,), (1,), (2,)]: mul relu_ | exp | exp -> 1"


# -- refusals ----------------------------------------------------------------------------------------------------------


def depth(self: Any, x: Tensor) -> Tensor:
    return self.ops[drawn(self, 1)](x) if drawn(self) == 0 else x


def only_settled(self: Any, x: Tensor) -> Tensor:
    return x * one_hot(self).sum() if one_hot(self).sum() > 0 else x


def which_is_drawn(self: Any, x: Tensor) -> Tensor:
    first, second, third = self.alphas.argmax(-1)
    return self.ops[second if first == 0 else third](x)


def flags_apart(self: Any, x: Tensor) -> Tensor:
    first, second, _ = one_hot(self).bool().tolist()
    if first:
        x = x.tanh()
    return x.exp().exp() if second else x


def shapes(self: Any, x: Tensor) -> Tensor:
    return x.mean() if drawn(self) == 0 else x


def channels(self: Any, x: Tensor) -> Tensor:
    return (x[:, : drawn(self) + 1]).exp()


def number_of_values(self: Any, x: Tensor) -> Any:
    return (x,) if drawn(self) == 0 else (x, x.exp())


def written(self: Any, x: Tensor) -> Tensor:
    x = x * 1
    return x.add_(1) if drawn(self) == 0 else x.exp()


def written_inside(self: Any, x: Tensor) -> Tensor:
    made = self.ops[drawn(self)](x) * 1
    return made.relu_() if drawn(self, 1) else made


REFUSED: dict[Callable[..., Any], str] = {
    depth: "how many choices are made depends on a choice",
    only_settled: "what parts them was not seen",
    which_is_drawn: "which choice is made depends on a choice",
    flags_apart: "what is computed for a candidate depends on another choice",
    shapes: "its candidates give values of unlike shape or number",
    channels: "its candidates give values of unlike shape or number",
    number_of_values: "its candidates give values of unlike shape or number",
    written: "a candidate writes to what another reads",
    written_inside: "a candidate writes to what another reads",
}


@pytest.mark.parametrize("forward", REFUSED, ids=lambda forward: forward.__name__)
def test_refuses(forward: Callable[..., Any]) -> None:
    with pytest.raises(UnlikePathsError) as error:
        merged(forward)
    assert str(error.value) == REFUSED[forward]


def test_refuses_runs_that_differ_before_the_first_choice() -> None:
    def other(self: Any, x: Tensor) -> Tensor:
        x = x.exp()
        return one(self, x)

    with pytest.raises(UnlikePathsError, match=r"^what comes before the first choice differs from run to run$"):
        merge_paths([runs(Net(one))[0], *runs(Net(other))[1:]])
