"""Tensor types as constructors, ``torch.FloatTensor(n, c, h, w)``: no mode sees them, so they are stood in for.

With sizes they give memory that nobody has written to, which ``torch.empty`` does for all to see. Whatever else they
are called with, or asked for, they are themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

_TYPES = {
    "HalfTensor": torch.float16,
    "BFloat16Tensor": torch.bfloat16,
    "FloatTensor": torch.float32,
    "DoubleTensor": torch.float64,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "ShortTensor": torch.int16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "BoolTensor": torch.bool,
}


class _StandIn(type):
    """The class of what stands in for a tensor type; torch tells these by name, as in ``x.type(torch.FloatTensor)``."""

    real: Any
    options: dict[str, Any]
    watcher: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        is_sized = args and (all(isinstance(size, int) for size in args) or isinstance(args[0], torch.Size))
        if cls.watcher.is_watching and is_sized and not kwargs:
            return torch.empty(*args, **cls.options)
        return cls.real(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.real)


def text_of(value: Any) -> str | None:
    """Return the text that torch takes for a tensor type, or for what stands in for one; None for anything else."""
    if isinstance(value, _StandIn):
        return value.__name__
    return f"{value.__module__}.{value.__name__}" if isinstance(value, type(torch.FloatTensor)) else None


def stand_ins(watcher: Any) -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield where to put what stands in for a tensor type, under which name, and what that is.

    Args:
        watcher: tells by ``is_watching`` whether sizes are to be seen.
    """
    for module, device in ((torch, "cpu"), (torch.cuda, "cuda")):
        for name, dtype in _TYPES.items():
            real = vars(module).get(name)
            if real is not None:
                made = _StandIn(f"{module.__name__}.{name}", (), {})
                made.real, made.options, made.watcher = real, {"dtype": dtype, "device": device}, watcher
                yield module, name, made
