"""Sizes stay symbolic where they can, and are seen again where they cannot: another batch never goes silently wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, compiled, counted_captures, image, no_capture, weights

SYMBOLIC: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(x.size(0), -1),
    "shape": lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]),
    "unpacked": lambda x: (lambda n, c, h, w: x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, -1))(*x.size()),
    "shuffle": lambda x: x.view(x.data.size(0), 2, -1, x.size(2), x.size(3)).transpose(1, 2).contiguous().view(x.shape),
    "mean": lambda x: x.sum() / x.size(0) + x.sum((1, 2, 3)) * x.shape[0] - (x.size(0) % 2),
    "numel": lambda x: x.sum() * x.numel() + x.nelement(),
    "made": lambda x: torch.ones(x.size(0), 1, 1, 1, dtype=x.dtype) + x.new_zeros(x.shape[0], x.size(1), 1, 1) + x,
    "slice": lambda x: x[: x.size(0) - 1].sum() + x[-x.size(0)].sum(),
    "negative": lambda x: x.sum() * -x.size(0),
}


class Body(nn.Module):
    """A supernet of two candidates, followed by what is to be tested."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(2)

    def forward(self, x: Tensor) -> Any:
        return self.body(self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x))


@pytest.mark.parametrize("way", SYMBOLIC)
def test_one_graph_for_other_batches(way: str) -> None:
    model = Body(SYMBOLIC[way])
    fast = compiled(model, image(3))
    for batch in (4, 3, 1, 7):
        assert_runs_like(fast, model, image(batch))
    assert_runs_like(fast, model, image(5, 6, 8))
    fast.train()
    assert len(fast._toponas.programs) == 2, "one program for training, one for evaluation"
    assert not any(program.has_guards for program in fast._toponas.programs)


SPECIAL: dict[str, Callable[[Tensor], Any]] = {
    "len": lambda x: x * len(x),
    "if": lambda x: x * 2 if x.size(0) > 1 else x * 3,
    "if_many": lambda x: x * 2 if x.size(0) > 4 else x * 3,
    "range": lambda x: sum((x[i] * (i + 1) for i in range(x.size(0))), torch.zeros(())),
    "bounded_range": lambda x: sum(x[0] * (i + 1) for i in range(min(int(x.size(0)), 2))),
    "list": lambda x: sum([x, x.tanh(), x.cos(), x.sin()][: x.size(0)]),
    "list_index": lambda x: [x, x.tanh(), x.cos(), x.sin()][min(x.size(0), 4) - 1],
    "float": lambda x: x * (1.0 / x.size(0)) + math.sqrt(x.size(0)) + x.size(0) ** 2,
    "round": lambda x: x * round(x.size(0) / 4) + float(x.shape[0] > 3.5),
    "divmod": lambda x: x * divmod(x.size(0), 3)[0],
    "text": lambda x: x * {"1": 5}.get(str(x.size(0)), 7),
    "tuple": lambda x: x * 2 if tuple(x.shape) == (1, 4, 6, 6) else x * 3,
    "numel": lambda x: x.sum() * x.shape.numel(),
    "truth": lambda x: x * 2 if x.size(0) - 1 else x * 3,
    "side": lambda x: x * 2 if x.size(2) > 10 else x * 3,
    "sides": lambda x: x * 2 if x.shape[2] == x.shape[3] else x.transpose(2, 3),
    "returned": lambda x: (x, x.size(0), x.size(0) * 0.5, {"shape": list(x.shape)}),
}


@pytest.mark.parametrize("way", SPECIAL)
def test_what_python_does_with_a_size_is_seen_again(way: str) -> None:
    model = Body(SPECIAL[way])
    fast = compiled(model, image(3))
    for shape in [(4, 4, 6), (1, 4, 6), (2, 4, 6), (5, 4, 6), (3, 4, 9), (3, 4, 16)]:
        assert_runs_like(fast, model, image(*shape))
    assert_runs_like(fast, model, image(3, 4, 6)[..., :5])
    assert not fast._toponas.as_written


def test_sizes_that_were_seen_cost_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Body(SPECIAL["if"])
    with counted_captures(monkeypatch) as found:
        fast = compiled(model, image(3))
        for batch in (3, 2, 1):
            fast(image(batch))
    assert len(found) == 4, "three sizes in training, one in evaluation"
    assert len(fast._toponas.programs) == 3, "sizes above one share a program"
    with no_capture(monkeypatch):
        for batch in (1, 3, 2) * 3:
            fast(image(batch))


def test_many_sizes_on_one_path_stay_compiled() -> None:
    model = Body(SYMBOLIC["view"])
    fast = compiled(model, image(3))
    for batch in range(1, 25):
        fast(image(batch, 1, 2))
    assert not fast._toponas.as_written


DATA: dict[str, Callable[[Tensor], Tensor]] = {
    "len": lambda x: x * 2 if len(torch.nonzero(x > 0.5)) > 10 else x * 3,
    "size": lambda x: x * (x > 0.5).nonzero().size(0),
    "shape": lambda x: x * 2 if x[x > 0.5].shape[0] > 10 else x * 3,
    "masked": lambda x: x * torch.masked_select(x, x > 0.5).numel(),
    "unique": lambda x: x * len(torch.unique((x * 3).round().detach())),
    "derived": lambda x: x * len((torch.argwhere(x > 0.5) * 2)[:, 0]),
    "open": lambda x: x[x > 0.5].sum() * x,
}


@pytest.mark.parametrize("way", DATA)
def test_sizes_that_depend_on_data_are_guarded(way: str) -> None:
    model = Body(DATA[way])
    fast = compiled(model, image())
    for scale in (1.0, 0.2, 3.0, 1.0):
        assert_runs_like(fast, model, image() * scale)


def test_attributes_below_a_threshold_of_size_are_noted() -> None:
    class Supernet(nn.Module):
        scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            factor = self.scale if int(x.size(0)) > 3 else 1.0
            return x * factor

    model = Supernet()
    fast = compiled(model, image(3))
    assert_runs_like(fast, model, image(4))
    fast.scale = model.scale = 2.0
    assert_runs_like(fast, model, image(4))


def test_a_second_input_of_another_size() -> None:
    class Supernet(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.sum(0) * y.size(0) + (y.sum(0) if y.size(0) > x.size(0) else 0)

    model = Supernet()
    fast = toponas_fx.simplify(model, (image(2), image(2)), mode="exact")
    for first, second in ((3, 2), (2, 3), (2, 2)):
        assert_runs_like(fast, model, image(first), image(second))
