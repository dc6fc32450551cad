"""Random chains of ordinary layers, strict, with any choice that tuning may make: none raises, all compute the same."""

from __future__ import annotations

import copy
import random
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import toponas_fx
from equality import run
from random_layers import RandomLayers, image
from toponas_fx.passes import DEFAULT_PASSES
from toponas_fx.tuning.autotune import ANSWERS

TOLERANCE = 1e-3  # relative to the largest root mean square: one maximum of 32,768 that rounding flips takes 2e-4
QUICK = range(40)
REST = range(40, 500)


def simplified(model: RandomLayers, x: Tensor, mode: str, seed: int) -> Any:
    """Simplify with choices of the seed's: recompute, and at most two answers of those that tuning may give."""
    draw, passes = random.Random(-seed), DEFAULT_PASSES
    for answer in draw.sample(ANSWERS, draw.choice((0, 0, 1, 2))):
        passes = answer.change(passes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*no mixed operation was found")
        return toponas_fx.simplify(model, x, mode=mode, passes=passes, recompute=draw.random() < 0.3, strict=True)


def compare(fast: Any, call: Any, owner: Any, x: Tensor, skipped: str = "") -> None:
    """Compare with float64, by the root mean square: one maximum that rounding flips is none of our errors.

    Output and gradients, the input's too, in training and in evaluation. What the original's own float32 errs is
    allowed, gradients that cancel below a norm above all.
    """
    names = [name for name, _ in fast.named_parameters() if name != skipped]
    wide = copy.deepcopy(owner).double()
    for training in (True, False):
        found, plain, exact = (
            run(function, model.train(training), (given,), [given, *map(model.get_parameter, names)])
            for function, model, given in (
                (fast, fast, x.clone().requires_grad_()),
                (call(owner), owner, x.clone().requires_grad_()),
                (call(wide), wide, x.double().requires_grad_()),
            )
        )
        scale = max(1.0, *(rms(other) for other in flat(exact)))
        for one, other, true in zip(flat(found), flat(plain), flat(exact), strict=True):
            assert rms(one - true) <= 10 * rms(other - true) + TOLERANCE * scale


def flat(result: Any) -> list[Tensor]:
    """Return output and gradients, zeros for None."""
    output, gradients = result
    return [output, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]


def rms(tensor: Tensor) -> float:
    return tensor.detach().double().square().mean().sqrt().item()


def assert_right(seed: int, mode: str) -> None:
    model, x = RandomLayers(seed), image(seed)
    fast = simplified(model, x, mode, seed)
    if mode == "exact" or not model.rows:
        compare(fast, lambda owner: owner, copy.deepcopy(model), x)
        return
    for index in range(model.rows):
        fast.set_one_hot(index)
        compare(fast, lambda owner: owner.reference, copy.deepcopy(fast), x, skipped="alphas")


@pytest.mark.parametrize("seed", QUICK)
def test_random_layers(seed: int) -> None:
    assert_right(seed, ("exact", "share")[seed % 2])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "share"])
@pytest.mark.parametrize("seed", REST)
def test_more_random_layers(seed: int, mode: str) -> None:
    assert_right(seed, mode)
