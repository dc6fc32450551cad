"""Any operations in a row, whose lowered forms read each other: none fails, and all compute what the original does."""

from __future__ import annotations

import copy
import itertools
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from equality import run

C = 8
TOLERANCE = 1e-4  # of float32 against float64, relative to the largest number: gradients to biases cancel below norms

OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "depthwise": lambda: nn.Conv2d(C, C, 3, padding=1, groups=C, bias=False),
    "dilated": lambda: nn.Conv2d(C, C, 3, padding=2, dilation=2, groups=C),
    "grouped": lambda: nn.Conv2d(C, C, 3, padding=1, groups=2, bias=False),
    "1x1": lambda: nn.Conv2d(C, C, 1, bias=False),
    "3x3": lambda: nn.Conv2d(C, C, 3, padding=1),
    "average": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "maximum": lambda: nn.MaxPool2d(3, 1, 1),
    "norm": lambda: nn.BatchNorm2d(C),
    "relu": lambda: nn.ReLU(),
}
WAYS = [("exact", False), ("share", True)]
OTHER_WAYS = [pytest.param(*way, marks=pytest.mark.slow) for way in (("exact", True), ("share", False))]
TRIPLES = random.Random(0).sample(list(itertools.product(OPERATIONS, repeat=3)), 100)


def chain(names: Sequence[str]) -> nn.Sequential:
    return nn.Sequential(*(OPERATIONS[name]() for name in names))


class MixedOp(nn.Module):
    """A stem and a weighted sum of operations in a row, of the same in the other order, of the last, of the input."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(C, C, 1)
        self.candidates = nn.ModuleList([chain(names), chain(names[::-1]), chain(names[-1:]), nn.Identity()])
        self.alphas = nn.Parameter(torch.tensor([0.5, -0.3, 0.2, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total: Any = sum(w * op(x) for w, op in zip(self.alphas, self.candidates, strict=True))
        return total

    def set_vertex(self, index: int) -> None:
        self.alphas.data.zero_()[index] = 1.0


def built(kind: Callable[[Sequence[str]], nn.Module], names: Sequence[str]) -> tuple[Any, Tensor]:
    """Return a model and its input, both float32, the same ones each time."""
    torch.manual_seed(0)
    return kind(names), torch.randn(4, C, 16, 16)


def assert_chain(names: Sequence[str], mode: str, recompute: bool) -> None:
    """Assert that a chain and a mixed operation of it run as the original does, shared at one-hot weights."""
    for kind in (chain, MixedOp):
        model, x = built(kind, names)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*no mixed operation was found")
            fast = toponas_fx.simplify(model, x, mode=mode, recompute=recompute)
        if mode == "exact" or kind is chain:
            original = copy.deepcopy(model).double()
            compare(fast, original, original, x)
            continue
        for index in range(2):  # the rows; the other candidates are there to be merged with
            fast.set_vertex(index)
            wide = copy.deepcopy(fast).double()
            compare(fast, wide.reference, wide, x, skipped="alphas")


def compare(fast: Any, call: Any, owner: Any, x: Tensor, skipped: str = "") -> None:
    """Compare outputs and gradients, the input's too, in training and in evaluation."""
    names = [name for name, _ in fast.named_parameters() if name != skipped]
    for training in (True, False):
        fast.train(training)
        owner.train(training)
        found, expected = (
            run(function, model, (given,), [given, *(model.get_parameter(name) for name in names)])
            for function, model, given in (
                (fast, fast, x.clone().requires_grad_()),
                (call, owner, x.double().requires_grad_()),
            )
        )
        pairs = [(found[0], expected[0]), *zip(found[1], expected[1], strict=True)]
        pairs = [pair for pair in pairs if pair != (None, None)]  # one None is the gradient of a term of zeros
        scale = max(1.0, *(other.abs().max().item() for _, other in pairs if other is not None))
        for one, other in pairs:
            error = (0 if one is None else one) - (0 if other is None else other)
            assert torch.as_tensor(error).abs().max() <= TOLERANCE * scale


@pytest.mark.parametrize(("mode", "recompute"), [*WAYS, *OTHER_WAYS])
@pytest.mark.parametrize("first", OPERATIONS)
def test_any_two_operations_in_a_row(first: str, mode: str, recompute: bool) -> None:
    for second in OPERATIONS:
        assert_chain((first, second), mode, recompute)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "recompute"), WAYS)
@pytest.mark.parametrize("names", TRIPLES, ids="-".join)
def test_three_operations_in_a_row(names: Sequence[str], mode: str, recompute: bool) -> None:
    assert_chain(names, mode, recompute)
