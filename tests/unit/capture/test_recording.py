"""One recorded path for every batch size, both modes and both gradient modes; never where Python could tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, compiled, counted_captures, image, no_capture, weights


class Body(nn.Module):
    """A supernet of three candidates, followed by what is to be tested."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(3)
        convs = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)]
        self.ops = nn.ModuleList([*convs, nn.Sequential(nn.AvgPool2d(3, 1, 1), nn.BatchNorm2d(4, affine=False))])
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True)))


SAME: dict[str, Callable[[Any, Tensor], Any]] = {
    "plain": lambda m, x: x,
    "view": lambda m, x: x.view(x.size(0), -1),
    "sizes compared": lambda m, x: x if x.size(2) == x.size(3) else x.mean(3),
    "batches compared": lambda m, x: x if x.size(0) == x.shape[0] else x.mean(3),
    "channels split": lambda m, x: torch.cat(x.split(2, 1)[::-1], 1),
    "half of the batch": lambda m, x: x[: x.size(0) // 2].sum() + x,
}


@pytest.mark.parametrize("way", SAME)
def test_other_batches_modes_and_gradient_modes_are_known(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Body(SAME[way])
    with counted_captures(monkeypatch) as found:
        fast = compiled(model, image(8), passes=None)
    assert len(found) == 1
    with no_capture(monkeypatch):
        for batch in (8, 5, 64, 1, 2):
            assert_runs_like(fast, model, image(batch))
        with torch.no_grad():
            for mode in (True, False):
                assert_runs_like(fast.train(mode), model.train(mode), image(7))
    assert len(fast._toponas.programs) == 2


OTHER: dict[str, Callable[[Any, Tensor], Any]] = {
    "threshold": lambda m, x: x if x.size(0) > 4 else x * 2,
    "shifted threshold": lambda m, x: x if (x.size(0) >> 1) > 4 else x * 2,
    "power": lambda m, x: x if x.size(0) ** 2 > 40 else x * 2,
    "whole threshold": lambda m, x: x if int(x.size(0)) > 4 else x * 2,
    "float threshold": lambda m, x: x if float(x.size(0)) > 4 else x * 2,
    "divided threshold": lambda m, x: x if x.size(0) / 2 > 4 else x * 2,
    "length threshold": lambda m, x: x if len(x) > 4 else x * 2,
    "numbers threshold": lambda m, x: x if x.numel() > 1000 else x * 2,
    "least": lambda m, x: x * min(x.size(0), 6),
    "remainder": lambda m, x: x if x.size(0) % 5 else x * 2,
    "split in eights": lambda m, x: torch.cat([part * (i + 1) for i, part in enumerate(x.split(8))]),
    "split in eights by name": lambda m, x: torch.cat([p * (i + 1) for i, p in enumerate(torch.split(x, 8, dim=-4))]),
    "chunks": lambda m, x: torch.cat([part * (i + 1) for i, part in enumerate(torch.chunk(x, 4))]),
    "images one by one": lambda m, x: torch.stack([row * (i + 1) for i, row in enumerate(x)]),
    "a table by size": lambda m, x: x * {8: 3.0, 5: 2.0}.get(x.size(0), 1.0),
    "text": lambda m, x: x * (2.0 if f"{x.size(0)}" == "5" else 1.0),
}


@pytest.mark.parametrize("way", OTHER)
def test_a_batch_that_decides_something_is_captured_for_itself(way: str) -> None:
    model = Body(OTHER[way])
    fast = compiled(model, image(8), passes=None)
    for batch in (8, 5, 20, 2, 1, 8):
        assert_runs_like(fast, model, image(batch))
    fast.eval(), model.eval()
    for batch in (20, 5):
        assert_runs_like(fast, model, image(batch))


GRADIENTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "asked": lambda m, x: x * 2 if torch.is_grad_enabled() else x * 3,
    "of a tensor": lambda m, x: x * 2 if x.requires_grad else x * 3,
    "by name": lambda m, x: x * 2 if getattr(x, "grad_" + "fn") is not None else x * 3,
    "switched": lambda m, x: _without(x) + x,
}


def _without(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize("way", GRADIENTS)
def test_what_forward_does_without_gradients_is_seen(way: str) -> None:
    model = Body(GRADIENTS[way])
    fast = compiled(model, image(8), passes=None)
    with torch.no_grad():
        assert_runs_like(fast, model, image(8))
        assert not fast(image(8)).requires_grad
        assert not torch.is_grad_enabled()
    assert_runs_like(fast, model, image(8))


def test_norms_that_were_counted_as_one_are_two_in_evaluation_once_set_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = weights(2)
            self.norms = nn.ModuleList([nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, affine=False)]).double()

        def forward(self, x: Tensor) -> Tensor:
            return sum(w * norm(x) for w, norm in zip(self.alphas, self.norms, strict=True))

    model = Twice()
    fast = toponas_fx.simplify(model, image(8))
    assert fast._toponas.programs[1].equal_norms == (("norms.0", "norms.1"),)
    fast(image(8) * 3 + 1)
    fast.eval()
    assert torch.allclose(fast(image(8)), fast.reference(image(8)), rtol=0, atol=1e-12)
    assert len(fast._toponas.programs) == 2
    fast.norms[1].running_mean.data.add_(1.0)  # no version counts this
    assert torch.allclose(fast(image(8)), fast.reference(image(8)), rtol=0, atol=1e-12)
    assert len(fast._toponas.programs) == 3


def test_a_later_capture_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fast = toponas_fx.simplify(Body(SAME["plain"]), image(8))
    with caplog.at_level("INFO", logger="toponas_fx"):
        fast(image(4))
        assert not caplog.records
        fast(image(4, side=8))
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "Body was captured again, for arguments of another size" in record.getMessage()
