"""Forwards and trainers that change what lies on a model, invented by somebody who had not read the code.

Every call must do what the original does: result, gradients, buffers, attributes, and what it raises.
"""

from __future__ import annotations

import copy
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image
from state_cases import CASES, Model, Settings


def run(m: Model, x: Tensor) -> Any:
    """Return what a call gives, or raises, and gradients of it."""
    torch.manual_seed(3)
    try:
        out = m(x)
    except Exception as error:
        return type(error), str(error)
    outs = out if isinstance(out, tuple) else (out,)
    loss = sum((o * torch.linspace(-1, 1, o.numel()).double().view_as(o)).sum() for o in outs)
    gradients = torch.autograd.grad(loss, [m.alpha, m.a.weight], allow_unused=True)
    with torch.no_grad():
        outs[0].detach().add_(1.0)  # the caller's own: no other output may see it
    return *[o.detach().clone() for o in outs], *gradients


def left(m: Model) -> dict[str, Any]:
    """Return the plain attributes of a model, tensors as numbers."""

    def plain(value: Any) -> Any:
        if isinstance(value, Settings):
            value = vars(value)
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(plain, value))
        return value.detach().sum().item() if isinstance(value, Tensor) else value

    ours = (nn.Module, types.FunctionType)
    own = {k: v for k, v in vars(m).items() if not k.startswith("_") and k not in ("training", "meta")}
    return {key: type(value) if isinstance(value, ours) else plain(value) for key, value in own.items()}


def assert_alike(found: Any, expected: Any, where: str) -> None:
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9), where
    elif isinstance(expected, dict | list | tuple) and not isinstance(found, type):
        assert type(found) is type(expected), where
        assert len(found) == len(expected), where
        keys = expected if isinstance(expected, dict) else range(len(expected))
        for key in keys:
            assert_alike(found[key], expected[key], f"{where}, {key}")
    else:
        assert found == expected, where


@pytest.mark.parametrize("case", CASES)
def test_each_call_does_what_the_original_does(case: str) -> None:
    parts, body, change = CASES[case]
    model = Model(parts, body)
    twin = copy.deepcopy(model)
    before = left(twin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(twin, image(), mode="exact")
        assert_alike(left(twin), before, "simplify leaves the model as it was")
        for step in range(6):
            for each in (model, fast):
                change(each, step)
            x = image(batch=2 + step % 2, seed=step)
            assert_alike(run(fast, x.clone()), run(model, x.clone()), f"step {step}")
            assert torch.is_grad_enabled()
            assert_alike(left(fast), left(model), f"left after step {step}")
            for (name, mine), (_, its) in zip(fast.named_buffers(), model.named_buffers(), strict=True):
                assert_alike(mine, its, f"{name} after step {step}")
    assert toponas_fx.inspection(fast).report
