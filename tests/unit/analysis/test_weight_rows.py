"""Which element of which row a weight is, however it is picked; and what is no element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exactness import compiled, weights
from toponas_fx.analysis.weight_elements import Element, Elements


class Picks(nn.Module):
    """Returns scalar weights, picked by a function."""

    def __init__(self, pick: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.pick, self.alphas = pick, weights(2, 3)
        self.flat, self.one, self.scalar = weights(6), weights(1), weights(1)[0].detach().requires_grad_()

    def forward(self, x: Tensor) -> Any:
        return [x * value for value in self.pick(self, x)]


def found(pick: Callable[[Any, Tensor], Any]) -> list[Element | None]:
    graph = compiled(Picks(pick), torch.ones(1, dtype=torch.float64)).graph
    elements = Elements()
    (output,) = (node for node in graph.nodes if node.op == "output")
    products: Any = output.args[0]
    return [elements.find(product.args[1]) for product in products]


PICKS: dict[str, Callable[[Any], Any]] = {
    "twice": lambda w: w[1][2],
    "pair": lambda w: w[1, 2],
    "negative": lambda w: w[-1, -1],
    "dots": lambda w: w[1, ..., 2],
    "slices": lambda w: w[1:, 1:][0, 1],
    "one_long": lambda w: w[1, 2:3],
    "viewed": lambda w: w[1][2].view(-1, 1, 1, 1),
    "unbound": lambda w: w.unbind(0)[1].unbind()[2],
    "columns": lambda w: w.unbind(1)[2][1],
    "select": lambda w: w.select(0, 1).narrow(0, 2, 1),
    "chunked": lambda w: w[1].chunk(3)[2].squeeze(),
    "split": lambda w: w.split([1, 1])[1].flatten()[2],
    "flat": lambda w: w.view(-1)[5],
    "turned": lambda w: w.t()[2, 1],
    "detached": lambda w: w[1, 2].detach(),
}


@pytest.mark.parametrize("way", PICKS)
def test_an_element_is_found_however_it_is_picked(way: str) -> None:
    (plain,) = found(lambda m, x: [m.alphas[1, 2]])
    assert plain == Element(("alphas", 1), 2, 3)
    assert found(lambda m, x: [PICKS[way](m.alphas)]) == [plain]


def test_rows_that_are_computed_alike_are_one() -> None:
    first, second, other = found(
        lambda m, x: [m.alphas.softmax(-1)[0, 0], m.alphas.softmax(-1)[0, 1], m.alphas.softmax(0)[0, 1]]
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.row == second.row != other.row


def test_samples_are_rows_of_their_own() -> None:
    def sample(m: Any, x: Tensor) -> Any:
        return [torch.nn.functional.gumbel_softmax(m.alphas)[0, i] for i in (0, 1)]

    first, second = found(sample)
    assert first is not None
    assert second is not None
    assert first.row != second.row


def test_a_view_splits_a_flat_tensor_into_rows() -> None:
    first, second = found(lambda m, x: [m.flat.view(2, 3)[0, 2], m.flat.view(2, 3)[1, 0]])
    assert first == Element(("flat", 0), 2, 3)
    assert second == Element(("flat", 1), 0, 3)


@pytest.mark.parametrize(
    "pick",
    [
        lambda m, x: [m.scalar],
        lambda m, x: [m.one[0]],
        lambda m, x: [m.alphas[0, 0] * 2],
        lambda m, x: [m.alphas.sum()],
        lambda m, x: [m.alphas[0].view(torch.int64)[0].double()],
    ],
    ids=["scalar", "one", "computed", "summed", "other_type"],
)
def test_what_is_no_element(pick: Callable[[Any, Tensor], Any]) -> None:
    assert found(pick) == [None]
