"""What forward sees as a size is a ``torch.Size``, whatever it does with one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function, Variable

import toponas_fx
from exactness import assert_runs_like, compiled, image, weights


class Scale(Function):
    """Needs a true size in both directions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: torch.Size) -> Tensor:
        ctx.factor = size.numel()
        return x.clone() * size[:1].numel()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


class Drops(nn.Module):
    """The drop path of half of all supernets."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.way = way
        self.alphas = weights(2)

    def forward(self, x: Tensor) -> Any:
        return self.way(self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x))


WAYS: dict[str, Callable[[Tensor], Any]] = {
    "new": lambda x: x * x.new(x.size()).fill_(2),
    "new_of_data": lambda x: x * x.data.new(x.shape).fill_(2),
    "new_of_numbers": lambda x: x * x.new(*x.size()).fill_(2),
    "new_of_slice": lambda x: x * x.new(x.size()[:1] + torch.Size([1, 1, 1])).bernoulli_(0.5),
    "new_of_list": lambda x: x * x.new([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1),
    "new_of_nothing": lambda x: x + x.new().numel(),
    "drop_path": lambda x: x.div(0.6).mul(x.new(x.size(0), 1, 1, 1).bernoulli_(0.6)),
    "variable": lambda x: x.div(0.6).mul(Variable(x.new(x.size(0), 1, 1, 1).bernoulli_(0.6))),
    "detached": lambda x: Variable(x, requires_grad=False) + x * Variable(torch.ones_like(x), volatile=False),
    "zeros": lambda x: x + x.new_zeros(x.size()) + torch.ones(torch.Size(x.size()), dtype=x.dtype),
    "instance": lambda x: x * 2 if isinstance(x.size(), torch.Size) and isinstance(x.shape[2:], torch.Size) else x,
    "type": lambda x: x * 2 if type(x.size()) is type(x.shape) is torch.Size else x,
    "text": lambda x: x * len(f"{x.size()} {x.shape!r}"),
    "equal": lambda x: x * 2 if x.size() == x.tanh().size() != x.shape[:2] else x,
    "sum": lambda x: x.view((1, *x.size())).view(x.size() + torch.Size([1])).squeeze(-1),
    "twice": lambda x: x.repeat_interleave(2, 0).view(x.size() * 2) if x.dim() == 1 else x,
    "containers": lambda x: x.view(tuple(x.size())).view(list(x.shape)).expand(x.shape),
    "copies": lambda x: x.view(copy.deepcopy(x.shape)).view(copy.copy(x.shape)),
    "pickled": lambda x: x.view(pickle.loads(pickle.dumps(x.size()))),
    "key": lambda x: x * {torch.Size([3, 4, 6, 6]): 2}.get(x.size(), 5),
    "search": lambda x: x * x.size().count(6) + x.shape.index(4),
    "numel": lambda x: x.reshape(x.shape[0], x.shape[1:].numel()) * x.shape.numel(),
    "shapes": lambda x: x.expand(torch.broadcast_shapes(x.shape, (1, 1))),
    "function": lambda x: Scale.apply(x, x.size()),
    "keyword": lambda x: nn.functional.interpolate(x, size=x.shape[2:]) + torch.zeros(size=x.size(), dtype=x.dtype),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_sizes_are_those_of_torch(way: str) -> None:
    model = Drops(WAYS[way])
    fast = compiled(model, image(3))
    for batch in (3, 4, 2, 1):
        assert_runs_like(fast, model, image(batch))
    assert_runs_like(fast, model, image(4, side=4))
    assert not fast._toponas.as_written


def test_a_size_as_long_as_the_image_is_wide_is_no_row_of_numbers() -> None:
    model = Drops(WAYS["new"])
    fast = compiled(model, image(2, side=4))
    assert_runs_like(fast, model, image(2, side=4))


LEGACY: dict[str, Callable[[Tensor], Tensor]] = {
    "Tensor": lambda x: x * torch.Tensor(x.size()).fill_(2).to(x),
    "DoubleTensor": lambda x: x * torch.DoubleTensor(x.size(0), 1, 1, 1).bernoulli_(0.5),
    "Variable": lambda x: x * Variable(torch.DoubleTensor(x.size(0), 1, 1, 1).bernoulli_(0.5)),
    "leaf": lambda x: x * Variable(x.new_ones(x.size(0), 1, 1, 1), requires_grad=True),
}


@pytest.mark.parametrize("way", LEGACY)
@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
def test_legacy_constructors_are_compiled_or_left_as_written(way: str) -> None:
    model = Drops(LEGACY[way])
    fast = toponas_fx.simplify(model, image(2, side=4), mode="exact")
    for batch in (2, 3):
        assert_runs_like(fast, model, image(batch, side=4))


def test_a_size_that_forward_returns_is_one() -> None:
    model = Drops(lambda x: (x, x.size(), {"shape": x.shape[2:]}))
    fast = compiled(model, image(3))
    for batch in (3, 2):
        _, size, others = fast(image(batch))
        assert type(size) is type(others["shape"]) is torch.Size
        assert_runs_like(fast, model, image(batch))
