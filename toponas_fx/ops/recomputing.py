"""Cheap operations whose results are computed again in the backward pass instead of being kept for it.

While a program runs inside ``keeping_inputs``, the operations below note how their results were made. What autograd
would keep of such a result is kept as a recipe: the operation and its input, which something else keeps anyway. Norms
and convolutions never run twice. Hooks of the caller's (an activation checkpoint, tensors kept on another device) get
what is kept in the end. Under automatic casting, ``torch.compile`` and ``torch.func`` nothing is noted.

Shapes: ``N`` images, ``C`` channels, ``H`` and ``W`` pixels.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F

from toponas_fx.ops import average_pooling, custom_autograd
from toponas_fx.ops.custom_autograd import sees_plain_autograd
from toponas_fx.ops.registry import operation


@operation(family="activation")
def relu(x: Tensor) -> Tensor:
    """Return ``max(x, 0)``, of x's shape."""
    return _made_from(x, F.relu)[0]


@operation(family="pooling", label="AvgPool2d", window=1)
def avg_pool2d(
    x: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], counts_padding: bool
) -> Tensor:
    """Do what ``average_pooling.avg_pool2d`` does: the mean of each window, ``f32[N,C,H',W']``."""
    return _made_from(x, lambda image: average_pooling.avg_pool2d(image, size, stride, padding, counts_padding))[0]


@operation(family="pooling", label="MaxPool2d", window=1)
def max_pool2d(
    x: Tensor, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Tensor:
    """Return the largest number of each window, ``f32[N,C,H',W']``; where it was, is found again as well.

    Args:
        x: ``f32[N,C,H,W]``.
        size: as for torch's ``max_pool2d``, and so all that follows.
        stride: between windows.
        padding: on each side.
        dilation: the distance of pixels in a window.
        ceil_mode: whether sizes are rounded up.
    """
    return _made_from(x, lambda image: F.max_pool2d_with_indices(image, size, stride, padding, dilation, ceil_mode))[0]


OPERATIONS = (relu, avg_pool2d, max_pool2d)


def keeping_inputs(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let a program's operations be computed again in the backward pass of what it returns."""

    @functools.wraps(run)
    def call(*args: Any) -> Any:
        is_plain = sees_plain_autograd() and torch.is_grad_enabled()
        if not is_plain or not torch._C._autograd._saved_tensors_hooks_is_enabled():  # type: ignore[attr-defined]
            return run(*args)
        keeper = _Keeper(torch._C._autograd._top_saved_tensors_default_hooks(False))
        outer, _running.keeper = _running.keeper, keeper
        try:
            with saved_tensors_hooks(keeper.pack, keeper.unpack):
                return run(*args)
        finally:
            _running.keeper = outer
            keeper.notes.clear()  # the hooks live as long as what they keep, and need none of this

    return call


@dataclass(eq=False)
class _Recipe:
    """How the results of one operation are made again.

    Attributes:
        function: of the input; it returns one tensor, or several.
        value: the input; what the keeper packed it to, once a result is kept.
        version: of the input.
        kept: how many tensors are kept as this recipe.
        read: how many of those the present backward pass has read.
        found: the results, until all are read.
    """

    function: Callable[[Tensor], Any]
    value: Any
    version: int
    kept: int = 0
    read: int = 0
    found: tuple[Tensor, ...] | None = None

    def is_stale(self) -> bool:
        """Return whether the input was written in place before any result was kept."""
        return isinstance(self.value, Tensor) and self.value._version != self.version


@dataclass(frozen=True)
class _Noted:
    """A result that a recipe makes; while the reference to its memory lives, no other memory has its address."""

    recipe: _Recipe
    index: int
    version: int
    memory: StorageWeakRef


@dataclass(eq=False)
class _Kept:
    """What is kept of a tensor: a recipe and which of its results, or what the caller's hook returned, or itself."""

    recipe: _Recipe | None = None
    index: int = 0
    value: Any = None
    version: int = 0


@dataclass(eq=False)
class _Keeper:
    """Keeps recipes for the results noted, and other tensors as the caller's hooks say.

    Attributes:
        hooks: the caller's, if any.
        notes: the results that can be made again.
        waiting: what the operation that runs now keeps, before it is known what of it are its results.
    """

    hooks: tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None
    notes: dict[tuple[Any, ...], _Noted] = field(default_factory=dict)
    waiting: list[tuple[_Kept, Tensor]] | None = None

    def make(self, x: Tensor, function: Callable[[Tensor], Any]) -> tuple[Tensor, ...]:
        """Run an operation and note its results."""
        waiting: list[tuple[_Kept, Tensor]] = []
        self.waiting = waiting
        try:
            results = _as_tuple(function(x))
        finally:
            self.waiting = None
        recipe = _Recipe(function, x.detach(), x._version)
        for index, result in enumerate(results):
            memory = StorageWeakRef(result.untyped_storage())  # type: ignore[no-untyped-call]
            self.notes[_place(result)] = _Noted(recipe, index, result._version, memory)
        for kept, tensor in waiting:
            self._keep(tensor, kept)
        return results

    def pack(self, tensor: Tensor) -> _Kept:
        """Keep a tensor."""
        kept = _Kept()
        if self.waiting is not None:
            self.waiting.append((kept, tensor))
        else:
            self._keep(tensor, kept)
        return kept

    def _keep(self, tensor: Tensor, kept: _Kept) -> None:
        noted = self.notes.get(_place(tensor)) if tensor.layout is torch.strided else None
        if noted is None or noted.version != tensor._version or noted.recipe.is_stale():
            kept.value, kept.version = tensor if self.hooks is None else self.hooks[0](tensor), tensor._version
            return
        kept.recipe, kept.index = noted.recipe, noted.index
        if isinstance(kept.recipe.value, Tensor):
            kept.recipe.value = self.pack(kept.recipe.value)
        kept.recipe.kept += 1

    def unpack(self, kept: _Kept) -> Tensor:
        """Return a tensor that was kept, or make it again."""
        recipe = kept.recipe
        if recipe is None:
            value: Tensor = _unwritten(kept) if self.hooks is None else self.hooks[1](kept.value)
            return value
        found = recipe.found
        if found is None:
            found = recipe.found = self._make_again(recipe)
        recipe.read += 1
        if recipe.read == recipe.kept:
            recipe.read, recipe.found = 0, None
        return found[kept.index]

    def _make_again(self, recipe: _Recipe) -> tuple[Tensor, ...]:
        x = self.unpack(recipe.value)
        with torch.enable_grad():  # as in the forward pass: what is made may depend on it in its last digits
            return _as_tuple(recipe.function(x.detach()))


class _Running(threading.local):
    """The keeper of the program that this thread runs."""

    keeper: _Keeper | None = None


_running = _Running()


def _made_from(x: Tensor, function: Callable[[Tensor], Any]) -> tuple[Tensor, ...]:
    """Run an operation, and note its results where they would be kept."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return _as_tuple(function(x))
    keeper = _running.keeper
    if keeper is None or not x.requires_grad or x.numel() < custom_autograd.SMALL:
        return _as_tuple(function(x))
    return keeper.make(x, function)


def _unwritten(kept: _Kept) -> Tensor:
    """Return a tensor kept as it is; where hooks keep tensors, torch leaves this check to them."""
    tensor: Tensor = kept.value
    if tensor._version != kept.version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: "
            f"a tensor of shape {tuple(tensor.shape)} is at version {tensor._version}; expected {kept.version}"
        )
    return tensor


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from all others that live."""
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride()
