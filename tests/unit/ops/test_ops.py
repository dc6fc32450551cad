"""The functions that rewritten graphs call, in float64 and at the edges of float32."""

import copy
import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from toponas_fx import ops
from toponas_fx.errors import GuardFailure

U = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.7, -1.1], [-0.4, 0.2, 0.9]], dtype=torch.float64)  # f64[n,3]


def scalars(values, dtype=torch.float64):
    return [torch.tensor(value, dtype=dtype, requires_grad=True) for value in values]


def shared(weights, values=U):
    """``W * g(sum p_i u_i)`` for a g that is no line, as share-modules writes it."""
    total, shares = ops.group_weight(weights)
    mean = sum(share * u for share, u in zip(shares, values, strict=False))
    return total * torch.exp(mean)


# -- mixed_sum ------------------------------------------------------------------------------------------------------


def test_mixed_sum_is_the_weighted_sum():
    weights = scalars([0.5, -2.0])
    found = ops.mixed_sum([U[0], U[1], U[2]], [*weights, 1.0], (0, 0, 1))
    assert torch.equal(found, weights[0] * U[0] + weights[1] * U[1] + U[2])


def test_mixed_sum_takes_numbers_for_terms_and_weights():
    (weight,) = scalars([0.5])
    found = ops.mixed_sum([U[0], 1.0, 0.0, 1.0], [2.0, weight, weight, 3.0], (0, 0, 0, 1))
    assert torch.allclose(found, 2 * U[0] + 3.5)
    assert torch.autograd.grad(found.sum(), weight)[0] == 3


def test_mixed_sum_leaves_a_term_of_weight_one_alone():
    term = U[0].clone()
    assert ops.mixed_sum([term], [1.0], (0,)) is term
    assert ops.mixed_sum([term], [1], (0,)) is term


def test_mixed_sum_writes_nothing_in_place():
    terms = [U[0].clone(), U[1].clone()]
    before = copy.deepcopy(terms)
    ops.mixed_sum(terms, [1.0, 1.0], (0, 0))
    assert all(map(torch.equal, terms, before))


def test_mixed_sum_has_both_derivatives():
    terms = [u.clone().requires_grad_() for u in U]
    weights = scalars([0.5, -2.0, 0.0])

    def call(*arguments):
        return ops.mixed_sum(arguments[:3], arguments[3:], (0, 0, 0))

    assert gradcheck(call, (*terms, *weights))
    assert gradgradcheck(call, (*terms, *weights))


# -- group_weight ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(0.2, 0.3, 0.5), (1.0, 0.0, 0.0), (0.0, 3.0, 1.0), (7.0, 1e-3, 2.0)])
def test_group_weight_of_positive_weights(values):
    total, shares = ops.group_weight(scalars(values))
    assert math.isclose(total.detach(), sum(values), rel_tol=1e-15)
    assert torch.allclose(shares, torch.tensor(values, dtype=torch.float64) / sum(values), rtol=1e-15)


def test_group_weight_of_signed_weights():
    total, shares = ops.group_weight(scalars([0.5, -0.25, 0.25]))
    assert total == 1.0
    assert shares.tolist() == [0.5, -0.25, 0.25]


@pytest.mark.parametrize("index", range(3))
def test_group_weight_at_a_vertex_takes_the_candidate_alone(index):
    values = [float(index == i) for i in range(3)]
    total, shares = ops.group_weight(scalars(values))
    assert total == 1.0
    assert shares.tolist() == values
    assert torch.equal(shared(scalars(values)), torch.exp(U[index]))


@pytest.mark.parametrize("scale", [0.0, -0.0, 1e-40, 1e-13, -1e-13])
def test_group_weight_below_the_threshold_has_constant_shares(scale):
    weights = scalars([scale, scale / 2])
    total, shares = ops.group_weight(weights)
    assert total == weights[0].detach() + weights[1].detach()
    assert shares.tolist() == [0.5, 0.5]
    assert not shares.requires_grad or torch.autograd.grad(shares[0], weights, allow_unused=True)[0] in (None, 0)


@pytest.mark.parametrize(
    "values", [(0.2, 0.3, 0.5), (1.0, 0.0, 0.0), (0.5, -0.25, 0.25), (0.0, 2.0, -0.5), (1e-13, 0.0)]
)
def test_group_weight_is_odd(values):
    """A mixed operation is linear in its weights: with all of them negative it is minus what it was."""
    one, other = scalars(values), scalars([-value for value in values])
    assert torch.equal(shared(one), -shared(other))
    gradients = torch.autograd.grad(shared(one).sum(), one)
    for gradient, turned in zip(gradients, torch.autograd.grad(shared(other).sum(), other), strict=True):
        assert torch.equal(gradient, turned)


def test_group_weight_at_zero_has_the_gradient_of_the_mean():
    weights = scalars([0.0, -0.0, 0.0])
    gradients = torch.autograd.grad(shared(weights).sum(), weights)
    expected = torch.exp(U.mean(0)).sum()
    assert all(torch.isclose(gradient, expected, rtol=1e-14) for gradient in gradients)


def test_group_weight_just_below_zero_has_the_negative_gradient_of_the_mean():
    weights = scalars([-1e-14, 1e-14, 0.0])
    gradients = torch.autograd.grad(shared(weights).sum(), weights)
    expected = torch.exp(U.mean(0)).sum()
    for gradient, sign in zip(gradients, (-1, 1, 1), strict=True):
        assert torch.isclose(gradient, sign * expected, rtol=1e-10)


def one_sided_difference(values, index, step):
    moved = [value + step * (index == i) for i, value in enumerate(values)]
    return (shared(scalars(moved)).sum() - shared(scalars(values)).sum()) / step


@pytest.mark.parametrize("one_hot", range(3))
def test_group_weight_has_the_right_gradient_at_a_vertex(one_hot):
    """A derivative of ``abs`` there would be 0, and the gradient that of ``p_i`` alone."""
    values = [float(one_hot == i) for i in range(3)]
    weights = scalars(values)
    gradients = torch.autograd.grad(shared(weights).sum(), weights)
    for index, gradient in enumerate(gradients):
        assert torch.isclose(gradient, one_sided_difference(values, index, 1e-7).detach(), rtol=1e-5)


@pytest.mark.parametrize("values", [(0.2, 0.3, 0.5), (0.5, -0.25, 0.25), (-0.5, -0.25, -1.0), (2.0, 1e-3, 1.0)])
def test_group_weight_has_both_derivatives(values):
    def call(*weights):
        return shared(weights)

    assert gradcheck(call, scalars(values))
    assert gradgradcheck(call, scalars(values))


def test_group_weight_of_one_weight():
    (weight,) = scalars([0.25])
    total, shares = ops.group_weight([weight])
    assert (total, shares.tolist()) == (0.25, [1.0])
    (gradient,) = torch.autograd.grad(shared([weight]).sum(), weight)
    assert torch.isclose(gradient, torch.exp(U[0]).sum(), rtol=1e-14)


EXTREMES = (0.0, -0.0, 1e-40, -1e-40, 1e-20, 1e-12, -1e-12, 2e-12, 1.0, -1.0, 1e6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", list(itertools.combinations_with_replacement(EXTREMES, 2)))
def test_group_weight_is_finite_with_both_derivatives(pair, dtype):
    weights = scalars(pair, dtype)
    total, shares = ops.group_weight(weights)
    shares = shares + ops.group_shares(weights)
    value = total * torch.tanh(sum(share * u for share, u in zip(shares, U.to(dtype), strict=False))).sum()
    first = torch.autograd.grad(value, weights, create_graph=True)
    second = torch.autograd.grad(sum(first), weights, allow_unused=True)
    for tensor in (total, shares, value, *first, *(part for part in second if part is not None)):
        assert tensor.isfinite().all()


# -- group_shares ---------------------------------------------------------------------------------------------------


def test_group_shares_are_what_each_counts_whatever_its_sign():
    assert ops.group_shares(scalars([0.5, -0.25, 0.25])).tolist() == [0.5, 0.25, 0.25]
    assert ops.group_shares(scalars([0.0, -2.0])).tolist() == [0.0, 1.0]
    assert ops.group_shares(scalars([1e-13, -1e-13, 0.0])).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("values", [(0.2, 0.3, 0.5), (0.5, -0.25, 0.25), (-0.5, -0.25, -1.0)])
def test_group_shares_have_both_derivatives(values):
    def call(*weights):
        return ops.group_shares(weights)

    assert gradcheck(call, scalars(values))
    assert gradgradcheck(call, scalars(values))


# -- kernel_scale and scale_bias ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (6, 1, 5, 5), (6, 4, 3), (6, 4, 3, 3, 3), (6, 4)])
def test_kernel_scale_normalizes_the_kernel_or_each_filter(shape):
    kernel = torch.randn(shape, dtype=torch.float64)
    assert torch.isclose((kernel * ops.kernel_scale(kernel)).norm(), torch.tensor(6.0).double().sqrt(), rtol=1e-14)
    scaled = kernel * ops.kernel_scale(kernel, "filter")
    assert scaled.shape == kernel.shape
    assert torch.allclose(scaled.flatten(1).norm(dim=1), torch.ones(6).double(), rtol=1e-14)


@pytest.mark.parametrize("per", ["kernel", "filter"])
@pytest.mark.parametrize("factor", [10.0, 1e-3])
def test_kernel_scale_undoes_a_factor(per, factor):
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    scaled = kernel * factor
    found = scaled * ops.kernel_scale(scaled, per)
    assert torch.allclose(found, kernel * ops.kernel_scale(kernel, per), rtol=1e-13)


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_kernel_scale_of_zeros_is_finite_with_moderate_gradients(per):
    for dtype in (torch.float32, torch.float64):
        kernel = torch.zeros(4, 3, 3, 3, dtype=dtype, requires_grad=True)
        scaled = kernel * ops.kernel_scale(kernel, per)
        (gradient,) = torch.autograd.grad(scaled.sum(), kernel, create_graph=True)
        assert torch.equal(scaled, torch.zeros_like(scaled))
        assert torch.allclose(gradient, torch.full_like(gradient, 2.0 if per == "kernel" else 1.0))


def test_kernel_scale_of_one_zero_filter_leaves_the_others():
    kernel = torch.randn(3, 2, 3, 3, dtype=torch.float64)
    kernel[1] = 0
    scaled = kernel * ops.kernel_scale(kernel, "filter")
    assert scaled.isfinite().all()
    assert torch.allclose(scaled.flatten(1).norm(dim=1), torch.tensor([1.0, 0.0, 1.0]).double())


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_kernel_scale_and_scale_bias_have_both_derivatives(per):
    kernel = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def call(kernel, bias):
        scale = ops.kernel_scale(kernel, per)
        return (kernel * scale).sum((1, 2, 3)) * ops.scale_bias(bias, scale)

    assert gradcheck(call, (kernel, bias))
    assert gradgradcheck(call, (kernel, bias))


@pytest.mark.parametrize("per", ["kernel", "filter"])
def test_scale_bias_scales_with_its_kernel(per):
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    kernel, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    scale = ops.kernel_scale(kernel, per)
    found = F.conv2d(x, kernel * scale, ops.scale_bias(bias, scale))
    assert torch.allclose(found, F.conv2d(x, kernel, bias) * scale.reshape(-1, 1, 1), rtol=1e-12)


# -- guard ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(True), True),
        (torch.tensor(0.0), False),
        (3, 3),
        (math.nan, math.nan),
        ([1, 2], [1, 2]),
        ("a", "a"),
    ],
)
def test_guard_passes_the_recorded_answer(value, expected):
    ops.guard(value, expected)


@pytest.mark.parametrize(
    ("value", "expected"), [(torch.tensor(False), True), (3, 4), (math.nan, 1.0), (1.0, math.nan), ([1], [1, 2])]
)
def test_guard_fails_on_another_answer(value, expected):
    with pytest.raises(GuardFailure, match="the recorded run read"):
        ops.guard(value, expected)


def test_a_scaled_norm_that_was_told_to_count_nothing_counts_nothing():
    norm = torch.nn.BatchNorm2d(3).double()
    norm.track_running_stats = False  # its buffers are there still, and torch leaves them alone in training
    x, scale = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    before = [buffer.clone() for buffer in norm.buffers()]
    for training in (True, False):
        norm.train(training)
        assert torch.allclose(ops.scaled_norm(x, norm, scale), scale * norm(x), rtol=0, atol=1e-12)
    assert all(map(torch.equal, norm.buffers(), before))
