"""The operations of choices, and the gradient of images of which the mean is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toponas_fx.errors import GuardFailure
from toponas_fx.ops import choices, layouts

LAST = torch.channels_last

TAKEN: dict[str, tuple[Any, tuple[Any, ...], int]] = {
    "a number": (2, (0, 1, 2), 2),
    "a tensor": (torch.tensor(1), (0, 1, 2), 1),
    "a tensor of one element": (torch.tensor([[1]]), (0, 1, 2), 1),
    "values that are no positions": (torch.tensor(5), (7, 5), 1),
    "values in no order": (0, (2, 0, 1), 1),
    "a truth value": (torch.tensor(True), (False, True), 1),
    "a truth value of Python": (False, (False, True), 0),
    "several": ((torch.tensor(True), torch.tensor(False)), ((False, False), (True, False)), 1),
    "several, in a list": ([torch.tensor(1), 0], ((0, 1), (1, 0), (0, 0)), 1),
    "several numbers": ((1, 2), ((1, 0), (1, 2)), 1),
    "one of one": (torch.tensor(3), (3,), 0),
}


@pytest.mark.parametrize("name", TAKEN)
def test_takes_the_arm_of_the_value(name: str) -> None:
    choice, values, expected = TAKEN[name]
    arms = [torch.tensor(float(place)) for place in range(len(values))]
    assert choices.position(choice, values) == expected
    assert choices.select(choice, values, arms) is arms[expected]


UNKNOWN: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "a number": (3, (0, 1), r"a choice is 3, where the recorded runs had \(0, 1\)"),
    "a tensor": (torch.tensor(-1), (0, 1), r"a choice is -1, where the recorded runs had \(0, 1\)"),
    "several": ((torch.tensor(True), True), ((True, False), (False, True)), r"a choice is \(True, True\), where"),
    "fewer than several": (torch.tensor(True), ((True, False),), "a choice is True, where"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_value_that_no_recorded_run_had_is_no_arm(name: str) -> None:
    choice, values, text = UNKNOWN[name]
    with pytest.raises(GuardFailure, match=text):
        choices.select(choice, values, [torch.zeros(())] * len(values))


def test_only_the_arm_taken_has_a_gradient() -> None:
    arms = [torch.ones(2, requires_grad=True) for _ in range(3)]
    taken = choices.select(torch.tensor(1), (0, 1, 2), arms)
    gradients = torch.autograd.grad(taken.sum(), arms, allow_unused=True)
    assert [gradient is not None for gradient in gradients] == [False, True, False]


def test_what_does_nothing_returns_what_it_is_given() -> None:
    x = torch.ones(2)
    assert choices.same(x) is x


# -- images_gradient ---------------------------------------------------------------------------------------------------


def images(*, last: bool = True) -> Tensor:
    x = torch.randn(2, 3, 4, 5)
    return x.contiguous(memory_format=LAST) if last else x


def test_the_gradient_of_a_mean_comes_back_in_channels_last_layout() -> None:
    x = images().requires_grad_()
    seen: list[Tensor] = []
    read = layouts.images_gradient(x * 1, True)
    assert torch.equal(read, x)
    assert read.stride() == x.stride()
    hidden = x * 1
    hidden.register_hook(seen.append)
    (gradient,) = torch.autograd.grad(layouts.images_gradient(hidden, True).mean((2, 3)).square().sum(), x)
    (expected,) = torch.autograd.grad(x.mean((2, 3)).square().sum(), x)
    assert torch.equal(gradient, expected)
    assert [one.is_contiguous(memory_format=LAST) for one in seen] == [True]
    (plain,) = torch.autograd.grad((x * 1).mean((2, 3)).square().sum(), x)
    assert not plain.is_contiguous(memory_format=LAST), "torch does so by itself now"


def test_it_is_the_image_itself_without_a_copy() -> None:
    x = images().requires_grad_()
    assert layouts.images_gradient(x, True).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("kept", ["not converted", "no gradient", "the usual layout"])
def test_others_are_left_alone(kept: str) -> None:
    x = images(last=kept != "the usual layout").requires_grad_(kept != "no gradient")
    assert layouts.images_gradient(x, kept != "not converted") is x


def test_it_has_both_derivatives() -> None:
    x = images().double().contiguous(memory_format=LAST).requires_grad_()

    def call(x: Tensor) -> Tensor:
        return layouts.images_gradient(x, True).exp().mean((2, 3))

    assert torch.autograd.gradcheck(call, (x,))
    assert torch.autograd.gradgradcheck(call, (x,))
