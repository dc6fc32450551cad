"""Tensors that operations remember: made once, and never one that another mode has made."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import toponas_fx
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.ops import average_pooling, norms, sum_of, zeros_of
from toponas_fx.ops.constants import constant


def test_it_is_made_once_for_equal_arguments() -> None:
    made = []

    @constant
    def ramp(count: int, dtype: torch.dtype) -> Tensor:
        made.append(count)
        return torch.arange(count, dtype=dtype)

    assert ramp(3, torch.float32) is ramp(3, torch.float32)
    assert ramp(3, torch.float64).dtype is torch.float64
    assert made == [3, 3]


def test_what_is_made_in_inference_mode_serves_backward_passes() -> None:
    @constant
    def ones(count: int) -> Tensor:
        return torch.ones(count)

    with torch.inference_mode():
        assert not ones(4).is_inference()
    x = torch.ones(4, requires_grad=True)
    (ones(4) * x).sum().backward()
    assert torch.equal(x.grad, torch.ones(4))


def operations(x: Tensor, scale: Tensor) -> Tensor:
    pooled = average_pooling.scaled_avg_pool2d(x, scale, (3, 3), (1, 1), (1, 1), False)
    normed = norms.scaled_norm(pooled, nn.BatchNorm2d(x.shape[1], affine=False), scale, scale)
    return normed * sum_of(scale.expand(3).contiguous(), (0, 2)) + zeros_of(x)


@pytest.mark.parametrize("fakes_first", [True, False])
def test_tensors_of_a_fake_mode_stay_in_it(fakes_first: bool) -> None:
    channels = 5 + fakes_first  # such as no other test has remembered
    x, scale = torch.randn(2, channels, 6, 6), torch.tensor(1.5)
    if not fakes_first:
        expected = operations(x.requires_grad_(), scale.requires_grad_())
    with FakeTensorMode() as mode:
        fakes = mode.from_tensor(x).requires_grad_(), mode.from_tensor(scale).requires_grad_()
        assert operations(*fakes).shape == x.shape
    found = operations(x.requires_grad_(), scale.requires_grad_())
    assert type(found) is Tensor
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert fakes_first or torch.equal(found, expected)


def test_a_model_computes_what_it_did_after_a_run_on_fakes() -> None:
    model, x = NASBench201Supernet(C=4, N=1), torch.randn(4, 3, 8, 8)
    fast = toponas_fx.simplify(copy.deepcopy(model), x, mode="exact")
    with FakeTensorMode(allow_non_fake_inputs=True):
        fast(x)
    found, expected = fast(x), model(x)
    assert torch.allclose(found, expected, atol=1e-4)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in fast.parameters())
