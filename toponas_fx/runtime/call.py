"""The arguments of one call of forward, and what of them a program may depend on."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.inputs import batch_of
from toponas_fx.module_tree.snapshots import Same, freeze
from toponas_fx.runtime.arguments import flattened


@dataclass(frozen=True)
class Call:
    """The arguments of one call of forward, taken apart.

    Attributes:
        tensors: the tensors among them, in order.
        key: what a program may depend on: structure and plain values, training flag, grad mode, autocast, and each
            tensor's dtype, device, its strides where it does not lie in the usual order, and sizes, flat.
        numbers: the floats among them, in order; a program may depend on those too.
        integers: the integers among them, in order.
    """

    tensors: tuple[Tensor, ...]
    key: tuple[Any, ...]
    numbers: tuple[float, ...] = ()
    integers: tuple[int, ...] = ()

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> Call:
        """Take a call's arguments apart."""
        modes = (training, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            x = args[0]
            return cls(args, ("x", 1, modes[0], x.dim(), *modes[1:], *_details(x), *x.shape))
        leaves, nesting = flattened(args, kwargs)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        plain = tuple("tensor" if isinstance(leaf, Tensor) else _plain(leaf) for leaf in leaves)
        numbers = tuple(leaf for leaf in leaves if type(leaf) is float)
        integers = tuple(leaf for leaf in leaves if type(leaf) is int)
        ranks = tuple(tensor.dim() for tensor in tensors)
        details = [part for tensor in tensors for part in (*_details(tensor), *tensor.shape)]
        return cls(tensors, (nesting, plain, modes[0], ranks, *modes[1:], *details), numbers, integers)

    @functools.cached_property
    def open(self) -> Call:
        """The call with its integers left open, where there are any: a program takes them as it takes tensors."""
        if not self.integers:
            return self
        return Call(self.tensors, opened(self.key), self.numbers, self.integers)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The part of the key that always matters: structure, plain values, training flag, ranks."""
        return self.key[:4]

    @property
    def kind(self) -> tuple[Any, ...]:
        """The same whatever integers it gives: a step or an epoch is another each time, and they count together."""
        return opened(self.fixed)

    @functools.cached_property
    def any_batch(self) -> tuple[Any, ...]:
        """The key with the batch left open: the first size of the first tensor, and of all others that have it."""
        batch = batch_of(self.tensors)
        head = len(self.key) - sum(_COUNT + tensor.dim() for tensor in self.tensors)
        details: list[Any] = []
        for tensor in self.tensors:
            sizes: tuple[Any, ...] = tuple(tensor.shape)
            if sizes and sizes[0] == batch:
                sizes = ("any batch", *sizes[1:])
            details += [*_details(tensor), *sizes]
        return (*self.key[:head], *details)

    @property
    def with_gradients(self) -> tuple[Any, ...]:
        """The same key for a call with gradients on."""
        key = self.any_batch
        return (*key[:4], True, *key[5:])


_COUNT = 3


def _details(tensor: Tensor) -> tuple[Any, ...]:
    """Return what a program may depend on of a tensor besides its sizes, as many as ``_COUNT``."""
    is_usual = tensor.layout is not torch.strided or tensor.is_contiguous()
    return tensor.dtype, tensor.device, True if is_usual else tensor.stride()


def opened(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a key with the integers left open that are among a call's plain values."""
    if type(key[1]) is not tuple:
        return key  # of one tensor
    plain = (int if type(part) is tuple and part[0] is int else part for part in key[1])
    return (key[0], tuple(plain), *key[2:])


def _plain(value: Any) -> Any:
    """Return what two calls must agree in: 1 and True differ, and so do two modules; floats are looked at apart."""
    if type(value) is float:
        return float
    return type(value), Same(value) if isinstance(value, nn.Module) else freeze(value)
