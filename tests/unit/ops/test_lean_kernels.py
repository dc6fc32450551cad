"""Merging kernels in place: against the sum of embedded kernels, with second derivatives."""

import pytest
import torch

from toponas_fx import ops
from toponas_fx.ops import custom_autograd
from toponas_fx.ops.merged_kernels import is_plain, merge_in_place

SHAPES = [
    ([(3, 2, 1, 1), (3, 2, 3, 3)], [(1, 1), (0, 0)], [(1, 1), (1, 1)], (3, 3)),
    ([(3, 2, 3, 3), (3, 2, 1, 1), (3, 2, 3, 2)], [(1, 1), (2, 2), (0, 1)], [(1, 1), (1, 1), (2, 2)], (5, 5)),
    ([(4, 1, 5), (4, 1, 3)], [(0,), (0,)], [(1,), (2,)], (5,)),
    ([(2, 3), (2, 3)], [(), ()], [(), ()], ()),
]


def double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def stock(monkeypatch):
    """Return ``ops.merge_kernels`` as it is for small kernels."""

    def call(*args):
        with monkeypatch.context() as patch:
            patch.setattr(custom_autograd, "SMALL", 10**9)
            return ops.merge_kernels(*args)

    return call


@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("number", [None, 1.0, -0.5])
def test_merges_as_embedding_does(case, number, stock):
    torch.manual_seed(0)
    shapes, *places = case
    kernels = [double(*shape) for shape in shapes]
    weights = [double() for _ in shapes]
    if number is not None:
        weights[0] = number
    found, expected = merge_in_place(kernels, weights, *places), stock(kernels, weights, *places)
    torch.testing.assert_close(found, expected)
    assert type(found.grad_fn).__name__ == "_MergedBackward"
    assert type(expected.grad_fn).__name__ != "_MergedBackward"
    wanted = [*kernels, *(weight for weight in weights if isinstance(weight, torch.Tensor))]
    towards = torch.randn_like(found)
    results = []
    for merged in (found, expected):
        first = torch.autograd.grad(merged, wanted, towards, create_graph=True)
        second = torch.autograd.grad(sum(gradient.sin().sum() for gradient in first), wanted, allow_unused=True)
        results.append([*first, *second])
    for one, other in zip(*results, strict=True):
        assert (one is None) == (other is None)
        torch.testing.assert_close(one, other)


def test_gives_no_gradient_to_what_wants_none():
    kernels, weights = [double(2, 1, 1), double(2, 1, 3)], [double(), double()]
    kernels[0].requires_grad_(False)
    weights[1].requires_grad_(False)
    merge_in_place(kernels, weights, [(1,), (0,)], [(1,), (1,)], (3,)).sum().backward()
    assert kernels[0].grad is None
    assert weights[1].grad is None
    assert weights[0].grad == kernels[0].sum()
    assert torch.equal(kernels[1].grad, weights[1].expand(2, 1, 3))


def test_what_is_left_to_plain_torch():
    kernel, weight = torch.zeros(2, 1, 3), torch.tensor(1.0)
    assert is_plain([kernel, torch.nn.Parameter(kernel)], [weight, 0.5])
    assert not is_plain([kernel, kernel.double()], [weight, weight])
    assert not is_plain([kernel], [weight.double()])
    assert not is_plain([kernel], [weight.expand(2)])
    assert not is_plain([type("Own", (torch.Tensor,), {})(2)], [weight])


def test_under_a_transform():
    kernels, weights = [double(2, 1, 1), double(2, 1, 3)], [double(), double()]

    def merged(weight):
        return ops.merge_kernels(kernels, [weight, weights[1]], [(1,), (0,)], [(1,), (1,)], (3,)).sum()

    assert torch.func.grad(merged)(weights[0].detach()) == kernels[0].sum()
    assert ops.merge_kernels(kernels, weights, [(1,), (0,)], [(1,), (1,)], (3,)).grad_fn.name() == "_MergedBackward"
