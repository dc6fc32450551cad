"""Operations with backward passes of their own: values, first and second derivatives, and when the stock ones run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toponas_fx import ops
from toponas_fx.ops.custom_autograd import _Depthwise, depthwise_conv2d, inner_product, weighted_sum

GEOMETRIES = [
    ((7, 8), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((8, 9), (5, 5), (2, 2), (2, 2), (1, 1)),
    ((7, 8), (5, 5), (1, 1), (4, 4), (2, 2)),
    ((9, 10), (3, 3), (2, 2), (2, 2), (2, 2)),
    ((6, 7), (3, 3), (1, 1), (0, 0), (1, 1)),
    ((9, 10), (3, 3), (3, 2), (1, 0), (1, 2)),
    ((8, 8), (1, 1), (2, 2), (0, 0), (1, 1)),
    ((7, 8), (3, 1), (1, 1), (1, 0), (1, 1)),
]


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_depthwise_derivatives(geometry: Any, layout: torch.memory_format) -> None:
    size, taps, stride, padding, dilation = geometry
    x = double(2, 3, *size).detach().contiguous(memory_format=layout).requires_grad_()
    kernel = double(3, 1, *taps)

    def own(x: Tensor, kernel: Tensor) -> Any:
        return _Depthwise.apply(x, kernel, stride, padding, dilation)

    def stock(x: Tensor, kernel: Tensor) -> Tensor:
        return F.conv2d(x, kernel, None, stride, padding, dilation, 3)

    found, expected = own(x, kernel), stock(x, kernel)
    assert torch.equal(found, expected)
    weight = torch.randn_like(expected)
    for left, right in zip(
        torch.autograd.grad((found * weight).sum(), (x, kernel)),
        torch.autograd.grad((expected * weight).sum(), (x, kernel)),
        strict=True,
    ):
        assert torch.allclose(left, right, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(own, (x, kernel))


def uses_own(x: Tensor, kernel: Tensor, padding: int = 1, bias: Tensor | None = None) -> bool:
    result = depthwise_conv2d(x, kernel, bias, (1, 1), (padding, padding), (1, 1))
    expected = F.conv2d(x, kernel, bias, 1, padding, 1, x.shape[1])
    assert torch.allclose(result, expected)
    assert result.dtype == expected.dtype
    return "Depthwise" in type(result.grad_fn).__name__


def test_where_the_own_backward_pass_is_taken() -> None:
    x, kernel = torch.randn(2, 3, 5, 5), torch.randn(3, 1, 3, 3, requires_grad=True)
    assert uses_own(x, kernel)
    assert not uses_own(x.double(), kernel.detach().double().requires_grad_())
    assert not uses_own(x, kernel, padding=3), "more padding than taps reach"
    assert not uses_own(x[:0], kernel), "an empty batch"
    assert not uses_own(x, kernel, bias=torch.randn(3))
    with torch.no_grad():
        assert not uses_own(x, kernel)
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_own(x, kernel)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # what forward-mode derivatives import
def test_torch_func_takes_the_stock_operations() -> None:
    x, kernel = torch.randn(2, 3, 5, 5), torch.randn(3, 1, 3, 3)
    weight = torch.tensor(0.5)

    def loss(kernel: Tensor, weight: Tensor) -> Tensor:
        value = depthwise_conv2d(x, kernel, None, (1, 1), (1, 1), (1, 1))
        return ops.mixed_sum([value, x], [weight, 1.0], (0, 0)).square().sum()

    one = torch.func.grad(loss, argnums=(0, 1))(kernel, weight)
    tangents = torch.ones_like(kernel), torch.ones_like(weight)
    _, forward = torch.func.jvp(loss, (kernel, weight), tangents)
    assert torch.allclose(forward, one[0].sum() + one[1], rtol=1e-4)
    many = torch.func.vmap(torch.func.grad(loss))(torch.stack([kernel, kernel]), torch.stack([weight, weight]))
    assert torch.allclose(many[0], one[0], rtol=1e-4, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(kernel, tangents[0])
        assert torch.autograd.forward_ad.unpack_dual(loss(dual, weight)).tangent is not None


WEIGHTS = [
    ("w", "w", "w", "w"),
    ("w", 1.0, "w", 2.5),
    (1.0, "w", 1.0, "w"),
    (1.0, 1.0, 1.0, 1.0),
    (1.0, 0.5, -2.0, "w"),
    (0.0, "w", 1.0, 0.0),
]


@pytest.mark.parametrize("pattern", WEIGHTS, ids=str)
def test_weighted_sums(pattern: tuple[Any, ...]) -> None:
    terms = [double(2, 3, 4, 4) for _ in pattern]
    scalars = [double() for kind in pattern if kind == "w"]

    def call(*tensors: Tensor) -> Tensor:
        given = iter(tensors[len(pattern) :])
        return weighted_sum(tensors[: len(pattern)], [next(given) if kind == "w" else kind for kind in pattern])

    given = iter(scalars)
    expected = sum(term * (next(given) if kind == "w" else kind) for term, kind in zip(terms, pattern, strict=True))
    assert torch.allclose(call(*terms, *scalars), expected, rtol=1e-12)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(call, (*terms, *scalars))
    assert torch.autograd.gradgradcheck(call, (*terms, *scalars))


def test_terms_are_not_written_and_only_those_with_weights_are_kept() -> None:
    terms = [double(2, 3) for _ in range(3)]
    copies = [term.detach().clone() for term in terms]
    weight = double()
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ops.mixed_sum([term * 1 for term in terms], [1.0, weight, 1.0], (0, 0, 0)).sum().backward()
    assert sum(tensor.dim() == 2 for tensor in kept) == 1
    for term, before in zip(terms, copies, strict=True):
        assert torch.equal(term, before)
    frozen = ops.mixed_sum(terms, [1.0, weight.detach(), 1.0], (0, 0, 0))
    assert all(saved is None or saved.dim() == 0 for saved in frozen.grad_fn.saved_tensors)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inner_products_of_any_layout(dtype: torch.dtype) -> None:
    left, right = torch.randn(2, 3, 4, 5, dtype=dtype), torch.randn(2, 3, 4, 5, dtype=dtype)
    expected = (left * right).sum()
    last = torch.channels_last
    for one in (left, left.contiguous(memory_format=last), left.transpose(2, 3).contiguous().transpose(2, 3)):
        for other in (right, right.contiguous(memory_format=last)):
            assert torch.allclose(inner_product(one, other), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5)


def test_mixed_sums_of_unlike_terms_are_added_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("not alike")

    monkeypatch.setattr("toponas_fx.ops.mixed_sums.weighted_sum", never)
    x, weight = torch.randn(2, 3), torch.tensor(0.5)
    assert torch.equal(ops.mixed_sum([x, 1.0], [weight, weight.double()], (0, 0)), x * weight + weight)
    assert torch.equal(ops.mixed_sum([x, x[:1]], [1.0, weight], (0, 0)), x + x[:1] * weight)
    assert ops.mixed_sum([x, x.double()], [1.0, 1.0], (0, 0)).dtype == torch.float64
    assert torch.equal(ops.mixed_sum([x, x], [weight.double(), 1.0], (0, 0)), x * weight + x)
    monkeypatch.setattr("toponas_fx.ops.mixed_sums.sees_plain_autograd", lambda: False)
    assert torch.equal(ops.mixed_sum([x, x], [weight, 1.0], (0, 0)), x * weight + x)


def test_the_depthwise_backward_pass_stays_under_torch_compile() -> None:
    graphs: list[str] = []

    def backend(gm: Any, _: Any) -> Any:
        graphs.append(gm.code)
        return gm.forward

    x, kernel = torch.randn(2, 3, 5, 5, requires_grad=True), torch.randn(3, 1, 3, 3, requires_grad=True)
    geometry = ((2, 2), (2, 2), (2, 2))
    call = torch.compile(lambda x, kernel: depthwise_conv2d(x, kernel, None, *geometry), backend=backend)
    found = torch.autograd.grad(call(x, kernel).sin().sum(), (x, kernel))
    assert "autograd_function_apply" in "".join(graphs)
    expected = torch.autograd.grad(F.conv2d(x, kernel, None, *geometry, 3).sin().sum(), (x, kernel))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
