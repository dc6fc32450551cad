"""Merged kernels against the sum of separate convolutions, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from toponas_fx import ops
from toponas_fx.ops import batched

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def scalars(values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def test_embed_kernel_spreads_and_pads():
    kernel = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3)
    assert ops.embed_kernel(kernel, (1,), (2,), (8,)).flatten().tolist() == [0, 1, 0, 2, 0, 3, 0, 0]
    assert ops.embed_kernel(kernel, (0,), (1,), (3,)) is kernel
    assert ops.embed_kernel(kernel[..., :1], (1,), (3,), (3,)).flatten().tolist() == [0, 1, 0]


def test_embed_kernel_keeps_dimensions_apart():
    kernel = torch.arange(1.0, 5.0).view(1, 1, 2, 2)
    found = ops.embed_kernel(kernel, (0, 1), (1, 2), (2, 5))
    assert found.view(2, 5).tolist() == [[0, 1, 0, 2, 0], [0, 3, 0, 4, 0]]


@pytest.mark.parametrize("small", [0, 10**9])
def test_gradients_to_dilated_kernels_can_be_viewed_as_vectors(small, monkeypatch):
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", small)
    kernels = [torch.randn(4, 2, k, k, requires_grad=True) for k in (3, 5)]
    weights = scalars([0.5, -2.0])
    places = [(0, 0), (0, 0)], [(2, 2), (1, 1)], (5, 5)
    weights = [weight.float() for weight in weights]
    for merged in (
        ops.merge_kernels(kernels, weights, *places),
        torch.stack(batched.merge_all([kernels, kernels], [weights, weights], *places)),
    ):
        for gradient in torch.autograd.grad(merged.square().sum(), kernels):
            assert gradient.is_contiguous()


def test_merging_has_both_derivatives():
    kernels = [torch.randn(2, 1, k, k, dtype=torch.float64, requires_grad=True) for k in (1, 2)]
    weights = scalars([0.5, -2.0])
    biases = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]

    def call(*args):
        merged = ops.merge_kernels(args[:2], args[2:4], [(1, 1), (0, 0)], [(1, 1), (2, 2)], (3, 3))
        return merged.sum((1, 2, 3)) * ops.merge_biases(args[4:], args[2:4])

    arguments = (*kernels, *weights, *biases)
    assert gradcheck(call, arguments)
    assert gradgradcheck(call, arguments)


@st.composite
def convolutions(draw):
    """Draw convolutions of one input and centre: sizes and dilations of one parity, and what they share."""
    dims = draw(st.sampled_from([1, 2, 3]))
    groups = draw(st.sampled_from([1, 2, 4]))
    parity = draw(st.tuples(*[st.sampled_from([0, 1])] * dims))
    shapes = []
    for _ in range(draw(st.integers(1, 3))):
        taps = tuple(draw(st.sampled_from([1, 3] if odd else [2, 4])) for odd in parity)
        dilation = tuple(draw(st.sampled_from([1, 2, 3] if odd else [1, 3])) for odd in parity)
        shapes.append((taps, dilation))
    stride = tuple(draw(st.sampled_from([1, 2])) for _ in range(dims))
    extra = tuple(draw(st.sampled_from([0, 1])) for _ in range(dims))
    return dims, groups, shapes, stride, extra, draw(st.integers(0, 2**31))


def check_merged(case):
    dims, groups, shapes, stride, extra, seed = case
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = normal(2, 4, *[10] * dims)
    feet = [[d * (k - 1) + 1 for k, d in zip(*shape, strict=True)] for shape in shapes]
    size = tuple(map(max, zip(*feet, strict=True)))
    befores = [tuple((whole - own) // 2 for whole, own in zip(size, foot, strict=True)) for foot in feet]
    kernels = [normal(4, 4 // groups, *taps) for taps, _ in shapes]
    biases, weights = [normal(4) for _ in shapes], list(normal(len(shapes)))
    padding = tuple(whole // 2 + more for whole, more in zip(size, extra, strict=True))
    expected = 0
    for (_, dilation), before, kernel, bias, weight in zip(shapes, befores, kernels, biases, weights, strict=True):
        own = tuple(whole - part for whole, part in zip(padding, before, strict=True))
        expected = expected + weight * CONV[dims](x, kernel, bias, stride, own, dilation, groups)
    merged = ops.merge_kernels(kernels, weights, befores, [dilation for _, dilation in shapes], size)
    assert merged.shape == (4, 4 // groups, *size)
    found = CONV[dims](x, merged, ops.merge_biases(biases, weights), stride, padding, 1, groups)
    error = (found - expected).abs().max() / max(1, expected.abs().max())
    assert error < 1e-12, case


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions())
def test_merged_kernels_convolve_like_the_sum(case):
    check_merged(case)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None)
@given(convolutions())
def test_merged_kernels_convolve_like_the_sum_in_many_cases(case):
    check_merged(case)


def test_merged_linear_layers():
    x = torch.randn(5, 3, dtype=torch.float64)
    kernels, weights = [torch.randn(4, 3, dtype=torch.float64) for _ in range(3)], scalars([0.5, -1.0, 2.0])
    merged = ops.merge_kernels(kernels, weights, [()] * 3, [()] * 3, ())
    expected = sum(weight * F.linear(x, kernel) for weight, kernel in zip(weights, kernels, strict=True))
    assert torch.allclose(F.linear(x, merged), expected, rtol=1e-13)
