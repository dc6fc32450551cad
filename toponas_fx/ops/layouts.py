"""How images lie in memory: channels-last inside a graph where that is faster, as the original has it at its border.

A convolution is in channels-last layout as soon as one of its operands is, and so are its gradients, also the one to
its kernel. So what a graph brings to that layout is brought back where it leaves: outputs, and the gradients to
whatever the graph was given. Flattening undoes a layout in the backward pass: ``x.view(-1).view(x.shape)`` is x itself,
without a copy, and its gradient, however it comes, is reshaped to the order of x; small ones are copied, if at all.

Shapes: ``N`` images, ``C`` channels, ``H`` and ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toponas_fx.ops import custom_autograd
from toponas_fx.ops.registry import operation


@operation(gives_data=False)
def takes_over(images: Sequence[Tensor], kernel: Tensor | None) -> bool:
    """Return whether images are brought to channels-last layout: float32 on a CPU, all of them in the usual layout.

    Where an image or the model's kernels lie in channels-last layout, torch hands that on by itself, as it does in the
    original. Where results are small, the calls that convert cost more than they save.

    Args:
        images: what is convolved, ``f32[N,C,H,W]`` each.
        kernel: one of the model's; all are converted together.
    """
    operands = images if kernel is None else (*images, kernel)
    is_faster = all(x.device.type == "cpu" and x.dtype == torch.float32 for x in images)
    return is_faster and _is_large(images[0], kernel) and not any(lies_channels_last(x) for x in operands)


def _is_large(x: Tensor, kernel: Tensor | None) -> bool:
    channels = x.shape[1] if kernel is None else max(x.shape[1], kernel.shape[0])
    return x.numel() // x.shape[1] * channels >= custom_autograd.SMALL


def takes_layout(shape: Sequence[int]) -> bool:
    """Return whether a tensor of a shape may lie otherwise once channels come last: a kernel of many taps may."""
    return len(shape) > 2 and shape[-3] > 1 and max(shape[-2:]) > 1


def lies_channels_last(x: Tensor) -> bool:
    """Return whether rows lie farther apart than channels; torch takes such a tensor for a channels-last one."""
    return x.dim() == 4 and x.layout is torch.strided and x.stride(2) > x.stride(1)


@operation(may_pass_on=True)
def channels_last(x: Tensor, converts: bool) -> Tensor:
    """Return images in channels-last layout; their gradient comes back in the usual one.

    Args:
        x: ``f32[N,C,H,W]``.
        converts: what ``takes_over`` said; if not, they stay as they are.
    """
    return own_gradient(x.contiguous()).contiguous(memory_format=torch.channels_last) if converts else x


@operation(may_pass_on=True)
def own_layout(x: Tensor, converts: bool) -> Tensor:
    """Return a parameter or input whose gradient comes back in its own layout, ``f32[...]``.

    Args:
        x: what images are convolved with, added to or the like.
        converts: what ``takes_over`` said of them.
    """
    return own_gradient(x) if converts and x.requires_grad and x.is_contiguous() else x


def own_gradient(x: Tensor) -> Tensor:
    """Return a tensor whose gradient lies as it does, where it is dense; others as they are."""
    if x.is_contiguous():
        return x.view(-1).view(x.shape)
    order = order_of(x)
    dense = x.permute(order) if order else x
    if order is None or not dense.is_contiguous():
        return x
    return dense.view(-1).view(dense.shape).permute([order.index(dim) for dim in range(x.dim())])


@operation(may_pass_on=True)
def images_gradient(x: Tensor, converts: bool) -> Tensor:
    """Return images as they are, whose gradient comes back in channels-last layout; that of a mean would not.

    What is computed from two layouts at once, a ReLU's gradient say, takes many times as long.

    Args:
        x: ``f32[N,C,H,W]``.
        converts: what ``takes_over`` said of them.
    """
    if not (converts and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last)):
        return x
    return own_gradient(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@operation()
def every(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return the pixels that a 1x1 convolution with a stride reads, ``f32[N,C,H',W']``; it needs no stride then."""
    return x[:, :, :: stride[0], :: stride[1]]


@operation(may_pass_on=True)
def original_layout(x: Tensor, converts: bool, order: tuple[int, ...] | None = None) -> Tensor:
    """Return an output in the layout that it has in the original, ``f32[...]``.

    Args:
        x: the output.
        converts: what ``takes_over`` said of the images that it was computed from.
        order: its dimensions as they lay in memory in the recorded run, outermost first; None for the usual order.
    """
    if not converts:
        return x
    if order is None:
        return x.contiguous()
    return x.permute(order).contiguous().permute([order.index(dim) for dim in range(x.dim())])


@operation(may_pass_on=True)
def resumed(output: Tensor, value: Tensor) -> Tensor:
    """Return an output as it lay before ``original_layout``, for what the graph goes on to compute from it.

    Args:
        output: what the caller gets, and may ask gradients for.
        value: the same values, in the layout that the graph has.
    """
    if output.stride() == value.stride() or not lies_channels_last(value):
        return output
    return own_gradient(output).contiguous(memory_format=torch.channels_last)


def order_of(x: Tensor) -> tuple[int, ...] | None:
    """Return the dimensions of a tensor as they lie in memory, outermost first.

    Returns:
        None for the usual order; nothing, ``()``, where one number stands for many (an expanded tensor).
    """
    if x.layout is not torch.strided:
        return None
    wide = [dim for dim in range(x.dim()) if x.shape[dim] > 1]
    if any(not x.stride(dim) for dim in wide):
        return ()
    found = sorted(wide, key=x.stride, reverse=True)
    return None if found == wide else (*(dim for dim in range(x.dim()) if dim not in wide), *found)
