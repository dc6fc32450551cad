"""Operations with backward passes of their own, which cost less time or memory than autograd's.

Their backward passes are plain torch code, so they are differentiable again; their forward passes take the context, as
torch asks for the signature of those that do not at each call. Where another mechanism than plain
autograd looks on (``torch.compile``, ``torch.func``, forward-mode derivatives), the stock operations run; the depthwise
convolution, and the poolings made of it, keep theirs under ``torch.compile``, which has no better one.

Shapes: ``N`` images, ``C`` channels, ``H`` and ``W`` pixels, ``k`` taps along each axis, ``n`` terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import functional as F

from toponas_fx.ops.registry import operation

SMALL = 16384
"""Numbers in a tensor below which the calls of an own backward pass cost more than it saves."""


def sees_plain_autograd() -> bool:
    """Return whether nothing but plain autograd follows the operations that run now."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return forward_ad._current_level < 0


# -- weighted sums ---------------------------------------------------------------------------------------------------


def weighted_sum(terms: Sequence[Tensor], weights: Sequence[Tensor | float], shift: Tensor | None = None) -> Tensor:
    """Return ``shift + sum_i weights[i] * terms[i]`` without keeping a product, nor making one but the sum itself.

    Args:
        terms: n tensors of one shape, dtype and device.
        weights: n scalars, ``f32[]`` each or numbers; a term of weight 1 is added as it is.
        shift: added to each element, ``f32[]``; nothing where None.

    Returns:
        The sum, of the terms' shape.
    """
    scalars = [weight for weight in weights if isinstance(weight, Tensor)]
    numbers = tuple(None if isinstance(weight, Tensor) else float(weight) for weight in weights)
    result: Tensor = _WeightedSum.apply(numbers, shift, *terms, *scalars)
    return result


class _WeightedSum(Function):
    """``numbers[i]`` is None where a tensor is the weight; those follow the terms."""

    @staticmethod
    def forward(ctx: Any, numbers: tuple[float | None, ...], shift: Tensor | None, *tensors: Tensor) -> Tensor:
        _keep_terms(ctx, numbers, tensors)
        terms, scalars = tensors[: len(numbers)], iter(tensors[len(numbers) :])
        weights = [next(scalars) if number is None else number for number in numbers]
        if shift is not None and len(terms) == 1:
            return terms[0] + shift if _is_one(weights[0]) else _added(shift, terms[0], weights[0])
        total = terms[0] * weights[0] if weights[0] != 1.0 or len(terms) == 1 else None
        for term, weight in zip(terms[1:], weights[1:], strict=True):
            if total is None:  # the first term counts as it is, and is not to be written to
                total = terms[0] + term if _is_one(weight) else _added(terms[0], term, weight)
            elif _is_one(weight):
                total += term
            else:
                total = _added(total, term, weight, out=total)
        assert total is not None
        return total if shift is None else total.add_(shift)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        numbers, count = ctx.numbers, len(ctx.numbers)
        saved = ctx.saved_tensors  # read once: checkpoints allow no more
        scalars, kept = iter(saved[: len(ctx.keeps)]), iter(saved[len(ctx.keeps) :])
        to_terms: list[Tensor | None] = []
        to_scalars: list[Tensor | None] = []
        for number, needs in zip(numbers, ctx.needs_input_grad[2 : count + 2], strict=True):
            weight = next(scalars) if number is None else number
            to_terms.append((grad if _is_one(weight) else grad * weight) if needs else None)
            if number is None:
                needs_own = ctx.keeps[len(to_scalars)]
                to_scalars.append(inner_product(grad, next(kept)).to(weight.dtype) if needs_own else None)
        return None, grad.sum() if ctx.needs_input_grad[1] else None, *to_terms, *to_scalars


def _keep_terms(ctx: Any, numbers: tuple[float | None, ...], tensors: Sequence[Tensor]) -> None:
    """Save the weights, and those terms whose weights want a gradient."""
    count = len(numbers)
    kept = [term for term, number in zip(tensors[:count], numbers, strict=True) if number is None]
    ctx.numbers, ctx.keeps = numbers, ctx.needs_input_grad[2 + count :]
    needed = (term for term, needs in zip(kept, ctx.keeps, strict=True) if needs)
    ctx.save_for_backward(*tensors[count:], *needed)


def _is_one(weight: Any) -> bool:
    return isinstance(weight, float) and weight == 1.0


def _added(total: Tensor, term: Tensor, weight: Tensor | float, out: Tensor | None = None) -> Tensor:
    if isinstance(weight, float):
        return torch.add(total, term, alpha=weight, out=out)
    return torch.addcmul(total, term, weight, out=out)


def inner_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the sum of the elementwise product, ``f32[]``, in one pass where the two lie alike in memory."""
    if left.dtype != right.dtype or left.dtype not in (torch.float32, torch.float64):
        return (left * right).sum()
    if left.is_contiguous() and right.is_contiguous():
        return torch.dot(left.view(-1), right.view(-1))
    if left.dim() == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in (left, right)):
        return torch.dot(*(t.permute(0, 2, 3, 1).reshape(-1) for t in (left, right)))
    return (left * right).sum()


def squared_norm(x: Tensor) -> Tensor:
    """Return the sum of squares, ``f32[]``, with no tensor of squares; its gradient is made in one pass."""
    if not sees_plain_autograd():
        return (x * x).sum()
    result: Tensor = _SquaredNorm.apply(x)
    return result


class _SquaredNorm(Function):
    """See ``squared_norm``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return inner_product(x, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        x: Tensor = ctx.saved_tensors[0]
        return x * (2 * grad)


# -- depthwise convolution -------------------------------------------------------------------------------------------


@operation(family="convolution")
def depthwise_conv2d(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Convolve each channel with its own kernel; on CPUs the backward pass is several times faster than torch's.

    With ``dy`` the gradient of the result: the gradient to x is the depthwise convolution of dy with the flipped
    kernel (a transposed one where the stride is not 1; on CPUs torch has no fast one with dilated kernels: there dy
    gets zeros between its pixels first); the gradient to the kernel is one convolution of x, shaped
    ``f32[1,N*C,H,W]``, by dy as N*C kernels, stride and dilation swapped, cut to k x k and summed over N.
    (Formula: this project.)

    Args:
        x: ``f32[N,C,H,W]``.
        kernel: ``f32[C,1,k,k]``.
        bias: ``f32[C]`` or None.
        stride: along each axis, as all that follow.
        padding: zeros on each side.
        dilation: the distance of taps.

    Returns:
        ``f32[N,C,H',W']``.
    """
    if bias is not None or not _is_faster(x, kernel, padding, dilation):
        return F.conv2d(x, kernel, bias, stride, padding, dilation, x.shape[-3])
    result: Tensor = _Depthwise.apply(x, kernel, stride, padding, dilation)
    return result


def _is_faster(x: Tensor, kernel: Tensor, padding: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """Tell where the own backward pass wins: float32 on a CPU, whose stock kernel takes each tap by itself."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or kernel.dtype != torch.float32 or x.dim() != 4:
        return False
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or x.numel() < max(SMALL, 1):
        return False
    reach = zip(padding, dilation, kernel.shape[2:], strict=True)
    is_seen = torch.compiler.is_compiling() or sees_plain_autograd()
    return is_seen and all(pad <= step * (taps - 1) for pad, step, taps in reach)


class _Depthwise(Function):
    """See ``depthwise_conv2d``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
        ctx.geometry = stride, padding, dilation
        ctx.save_for_backward(x, kernel)
        return F.conv2d(x, kernel, None, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, kernel = ctx.saved_tensors
        to_x = _gradient_to_input(grad, x, kernel, *ctx.geometry) if ctx.needs_input_grad[0] else None
        to_kernel = _gradient_to_kernel(grad, x, kernel, *ctx.geometry) if ctx.needs_input_grad[1] else None
        return to_x, to_kernel, None, None, None


def _gradient_to_input(grad: Tensor, x: Tensor, kernel: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    reach = [step * (taps - 1) for step, taps in zip(dilation, kernel.shape[2:], strict=True)]
    border, c = tuple(whole - pad for whole, pad in zip(reach, padding, strict=True)), x.shape[1]
    if tuple(stride) == (1, 1):
        return F.conv2d(grad, kernel.flip(2, 3), None, 1, border, dilation, c)
    if tuple(dilation) != (1, 1):
        return F.conv2d(_spread_out(grad, x, stride, padding, reach), kernel.flip(2, 3), None, 1, border, dilation, c)
    parts = zip(x.shape[2:], padding, reach, stride, strict=True)
    rest = tuple((size + 2 * pad - whole - 1) % step for size, pad, whole, step in parts)
    return F.conv_transpose2d(grad, kernel, None, stride, padding, rest, c, dilation)


def _spread_out(grad: Tensor, x: Tensor, stride: Any, padding: Any, reach: Any) -> Tensor:
    """Put zeros between the pixels of a gradient and behind them: what a transposed convolution convolves."""
    height, width = (size + 2 * pad - whole for size, pad, whole in zip(x.shape[2:], padding, reach, strict=True))
    layout = torch.channels_last if grad.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    spread = torch.empty(
        (*grad.shape[:2], height, width), dtype=grad.dtype, device=grad.device, memory_format=layout
    ).zero_()
    rows, columns = grad.shape[2:]
    spread[:, :, : (rows - 1) * stride[0] + 1 : stride[0], : (columns - 1) * stride[1] + 1 : stride[1]] = grad
    return spread


def _gradient_to_kernel(grad: Tensor, x: Tensor, kernel: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    n, c, height, width = x.shape
    image = x.reshape(1, n * c, height, width)
    found = F.conv2d(image, grad.reshape(n * c, 1, *grad.shape[2:]), None, dilation, padding, stride, n * c)
    rows, columns = kernel.shape[2:]
    return found[:, :, :rows, :columns].reshape(n, c, rows, columns).sum(0).unsqueeze(1)
