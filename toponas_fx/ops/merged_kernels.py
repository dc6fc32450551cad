"""Merging kernels without a copy of each: what ``ops.merge_kernels`` does for large ones.

Shapes: ``n`` kernels, ``O`` output channels, ``I`` input channels per group, ``k...`` kernel sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from toponas_fx.ops.custom_autograd import inner_product

Place = tuple[slice, ...]


def merge_in_place(
    kernels: Sequence[Tensor],
    weights: Sequence[Tensor | float],
    befores: Sequence[tuple[int, ...]],
    dilations: Sequence[tuple[int, ...]],
    size: tuple[int, ...],
) -> Tensor:
    """Return what ``ops.merge_kernels`` returns, by adding each kernel where its taps are.

    Args:
        kernels: n kernels ``f32[O,I,k...]``.
        weights: n scalars, ``f32[]`` each or numbers.
        befores: for each kernel, zeros before its first tap in the merged one.
        dilations: for each kernel, the dilation it is used with.
        size: the merged spatial size.

    Returns:
        ``f32[O,I,size...]``.
    """
    places = tuple(_place(*parts) for parts in zip(kernels, befores, dilations, strict=True))
    numbers = tuple(None if isinstance(weight, Tensor) else float(weight) for weight in weights)
    scalars = [weight for weight in weights if isinstance(weight, Tensor)]
    result: Tensor = _Merged.apply(size, places, numbers, *kernels, *scalars)
    return result


def is_plain(kernels: Sequence[Any], weights: Sequence[Any]) -> bool:
    """Return whether kernels are tensors of one dtype and device, and weights scalars of the same dtype or numbers."""
    kind = kernels[0].dtype, kernels[0].device
    if not all(type(kernel) in (Tensor, Parameter) and (kernel.dtype, kernel.device) == kind for kernel in kernels):
        return False
    return all(not weight.dim() and weight.dtype == kind[0] for weight in weights if isinstance(weight, Tensor))


def _place(kernel: Tensor, before: tuple[int, ...], dilation: tuple[int, ...]) -> Place:
    parts = zip(kernel.shape[2:], before, dilation, strict=True)
    taps = (slice(first, first + (count - 1) * step + 1, step) for count, first, step in parts)
    return (slice(None), slice(None), *taps)


class _Merged(Function):
    """``numbers[i]`` is None where a tensor is the weight; those follow the kernels."""

    @staticmethod
    def forward(ctx: Any, size: tuple[int, ...], places: tuple[Place, ...], numbers: Any, *tensors: Tensor) -> Tensor:
        ctx.places, ctx.numbers = places, numbers
        ctx.save_for_backward(*tensors)
        kernels, scalars = tensors[: len(numbers)], iter(tensors[len(numbers) :])
        weights = [next(scalars) if number is None else number for number in numbers]
        first = kernels[0]
        if first.shape[2:] == size:
            total, start = first * weights[0], 1
        else:
            total, start = first.new_zeros((*first.shape[:2], *size)), 0
        for kernel, weight, place in list(zip(kernels, weights, places, strict=True))[start:]:
            part = total[place]
            if isinstance(weight, Tensor):
                part.addcmul_(kernel, weight)
            else:
                part.add_(kernel, alpha=weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved, count = ctx.saved_tensors, len(ctx.numbers)  # read once: checkpoints allow no more
        kernels, scalars = saved[:count], iter(saved[count:])
        to_kernels: list[Tensor | None] = []
        to_scalars: list[Tensor | None] = []
        needed = ctx.needs_input_grad[3:]
        for kernel, number, place, needs in zip(kernels, ctx.numbers, ctx.places, needed[:count], strict=True):
            part = grad[place]
            weight = next(scalars) if number is None else number
            to_kernels.append(part * weight if needs else None)
            if number is None:
                needs_own = needed[count + len(to_scalars)]
                to_scalars.append(inner_product(part, kernel) if needs_own else None)
        return None, None, None, *to_kernels, *to_scalars
