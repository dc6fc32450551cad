"""Average pooling that costs less than torch's on CPUs, and keeps neither its input nor its result.

Shapes: ``N`` images, ``C`` channels, ``H`` and ``W`` pixels, ``k`` pixels in a window along each axis.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from toponas_fx.ops import custom_autograd
from toponas_fx.ops.constants import constant
from toponas_fx.ops.custom_autograd import inner_product, sees_plain_autograd
from toponas_fx.ops.registry import operation


class Window(NamedTuple):
    """The geometry of a pooling, one number for each axis; ``counts_padding`` is torch's ``count_include_pad``."""

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    counts_padding: bool


@operation(family="pooling", label="AvgPool2d", window=1)
def avg_pool2d(
    x: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], counts_padding: bool
) -> Tensor:
    """Return the mean of each window, ``f32[N,C,H',W']``.

    On CPUs it is a depthwise convolution with a box, which is faster than torch's pooling, and times a constant at
    the border where padding does not count. (Formula: this project.)

    Args:
        x: ``f32[N,C,H,W]``.
        size: pixels in a window.
        stride: between windows.
        padding: zeros on each side.
        counts_padding: whether the zeros count in the mean.
    """
    window = Window(size, stride, padding, counts_padding)
    if not _has_faster_box(x) or not torch.is_grad_enabled() or not _may_differ():
        return F.avg_pool2d(x, size, stride, padding, count_include_pad=counts_padding)
    result: Tensor = _Pool.apply(x, window)
    return result


@operation(family="pooling", label="AvgPool2d", window=2, scale=1, keeps_input=True)
def scaled_avg_pool2d(
    x: Tensor,
    scale: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    counts_padding: bool,
) -> Tensor:
    """Return ``scale * avg_pool2d(x, ...)``; of images, only x is kept for the backward pass.

    With P the pooling and dy the gradient of the result, the gradient to x is ``scale * P^T dy`` and that to the
    scale ``<P^T dy, x>``, so that the pooled images are not needed. (Formula: this project.)

    Args:
        x: ``f32[N,C,H,W]``.
        scale: ``f32[]``.
        size: pixels in a window.
        stride: between windows.
        padding: zeros on each side.
        counts_padding: whether the zeros count in the mean.

    Returns:
        ``f32[N,C,H',W']``.
    """
    if x.dtype != scale.dtype or not _may_differ():
        return F.avg_pool2d(x, size, stride, padding, count_include_pad=counts_padding) * scale
    result: Tensor = _ScaledPool.apply(x, scale, Window(size, stride, padding, counts_padding))
    return result


def _may_differ() -> bool:
    """Return whether own backward passes are followed: dynamo traces them, and has no faster pooling on CPUs."""
    return torch.compiler.is_compiling() or sees_plain_autograd()


def _has_faster_box(x: Tensor) -> bool:
    is_plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() == 4 and x.shape[1] > 1
    return is_plain and x.numel() >= max(custom_autograd.SMALL, 1) and not torch.is_autocast_enabled("cpu")


class _Pool(Function):
    """See ``avg_pool2d``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        ctx.window, ctx.shape = window, x.shape
        return _means(x, window)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return _spread(grad, ctx.shape, ctx.window), None


class _ScaledPool(Function):
    """See ``scaled_avg_pool2d``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, window: Window) -> Tensor:
        ctx.window = window
        ctx.save_for_backward(x, scale)
        if _has_faster_box(x):
            return _means(x, window, scale)
        size, stride, padding, counts_padding = window
        return F.avg_pool2d(x, size, stride, padding, count_include_pad=counts_padding) * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, scale = ctx.saved_tensors
        window: Window = ctx.window
        if _has_faster_box(x):
            spread = _spread(grad, x.shape, window)
        else:
            size, stride, padding, counts_padding = window  # a slice of it, torch 2.8 cannot compile
            sizes = list(size), list(stride), list(padding)
            spread = torch.ops.aten.avg_pool2d_backward(grad, x, *sizes, False, counts_padding, None)
        to_scale = inner_product(spread, x) if ctx.needs_input_grad[1] else None
        return spread * scale if ctx.needs_input_grad[0] else None, to_scale, None


def _means(x: Tensor, window: Window, scale: Tensor | None = None) -> Tensor:
    """Pool as a depthwise convolution, and multiply by a scale."""
    box = _box(x.shape[1], window.size, x.dtype)
    if scale is not None:
        box = box * scale
    pooled = F.conv2d(x, box, None, window.stride, window.padding, 1, x.shape[1])
    if not window.counts_padding and any(window.padding):
        pooled *= _border(window, x.shape[2], x.shape[3], x.dtype)
    return pooled


def _spread(grad: Tensor, shape: torch.Size, window: Window) -> Tensor:
    """Apply the transposed pooling."""
    if not window.counts_padding and any(window.padding):
        grad = grad * _border(window, shape[2], shape[3], grad.dtype)
    parts = zip(shape[2:], window.padding, window.size, window.stride, strict=True)
    rest = tuple((whole + 2 * pad - taps) % step for whole, pad, taps, step in parts)
    box = _box(shape[1], window.size, grad.dtype)
    if window.stride == (1, 1) and all(pad < taps for pad, taps in zip(window.padding, window.size, strict=True)):
        border = tuple(taps - 1 - pad for pad, taps in zip(window.padding, window.size, strict=True))
        return F.conv2d(grad, box, None, 1, border, 1, shape[1])
    return F.conv_transpose2d(grad, box, None, window.stride, window.padding, rest, shape[1])


@constant
def _box(channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return a kernel that takes means, ``f32[C,1,k,k]``."""
    return torch.full((channels, 1, *size), 1.0 / (size[0] * size[1]), dtype=dtype, device="cpu")


@constant
def _border(window: Window, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return ``k*k`` over the number of pixels, not zeros, in each window, ``f32[1,1,H',W']``."""
    counts = []
    for whole, taps, step, pad in zip((height, width), window.size, window.stride, window.padding, strict=True):
        first = torch.arange((whole + 2 * pad - taps) // step + 1, device="cpu") * step - pad
        counts.append((first + taps).clamp(max=whole) - first.clamp(min=0))
    inside = counts[0].unsqueeze(1) * counts[1]
    return (window.size[0] * window.size[1] / inside).to(dtype).unsqueeze(0).unsqueeze(0)
