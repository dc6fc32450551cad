"""Images that lie in memory in any way, and forwards that ask how they do: numbers of strides are those of the call."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx

Asked = Callable[[Tensor], Any]
ASKED: dict[str, Asked] = {
    "stride(1)": lambda x: x.stride(1),
    "stride()": lambda x: sum(x.stride()[1:]),
    "last": lambda x: 1.0 + x.stride()[3],
    "branch": lambda x: 2.0 if x.stride(1) == 1 else 3.0,
    "is_contiguous": lambda x: 2.0 if x.is_contiguous() else 3.0,
    "channels_last": lambda x: 2.0 if x.is_contiguous(memory_format=torch.channels_last) else 3.0,
    "as_strided": lambda x: x.as_strided((2, 2), (x.stride(1), x.stride(2))).sum(),
}


class Net(nn.Module):
    def __init__(self, asked: Asked) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(3, 4, k, padding=k // 2, bias=False) for k in (1, 3))
        self.alphas, self.asked = nn.Parameter(torch.randn(2)), asked

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))
        return total * self.asked(x)


def image(batch: int = 2, width: int = 6) -> Tensor:
    return torch.randn(batch, 3, 6, width, dtype=torch.float64)


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "usual": image,
    "channels last": lambda: image().contiguous(memory_format=torch.channels_last),
    "transposed": lambda: image().transpose(2, 3),
    "every second": lambda: image(width=12)[..., ::2],
    "a part": lambda: image(4, 8)[1:3, :, :, 1:7],
    "expanded": lambda: image()[:1].expand(2, 3, 6, 6),
    "of one": lambda: image()[:, :1].expand(2, 3, 6, 6),
    "of other batches": lambda: image(3).contiguous(memory_format=torch.channels_last),
    "one transposed": lambda: image(1).transpose(2, 3),
    "none": lambda: image(4, 8)[1:1, :, :, 1:7],
}
ORDERS = [*itertools.permutations(("usual", "channels last", "transposed", "every second"), 3), tuple(LAYOUTS)[:-1]]


def assert_agree(fast: Any, original: Any, x: Tensor) -> None:
    found, expected = (
        [value := net(x), *torch.autograd.grad(value.square().sum(), list(net.parameters()))]
        for net in (fast, original)
    )
    assert found[0].stride() == expected[0].stride()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*what it computes keeps changing")
@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
@pytest.mark.parametrize("name", ASKED)
def test_what_a_forward_asks_of_strides_is_that_of_the_call(name: str, order: tuple[str, ...]) -> None:
    original = Net(ASKED[name]).double()
    images = [LAYOUTS[layout]() for layout in order]
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), images[0], mode="exact", audit=False)
    for x in (*images, *images[::-1], *images):
        assert_agree(fast, original, x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_is_recorded_as_it_lies_and_stays_what_it_was(layout: str) -> None:
    original = Net(ASKED["stride()"]).double()
    x = LAYOUTS[layout]()
    before = x.clone()
    fast: Any = toponas_fx.simplify(copy.deepcopy(original), x, mode="exact", audit=False)
    assert_agree(fast, original, x)
    assert torch.equal(x, before)
    assert not fast._toponas.as_written
