"""Tensor types as constructors, ``torch.FloatTensor(n, c, h, w)``: no mode sees them, so they are stood in for.

With sizes they give memory that nobody has written to, which ``torch.empty`` does for all to see. Whatever else they
are called with, or asked for, they are themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        is_sized = args and (all(isinstance(size, int) for size in args) or isinstance(args[0], torch.Size))
        if is_sized and not kwargs and _WATCHERS and _WATCHERS[-1].is_watching:
            return torch.empty(*args, **cls.options)
        return cls.real(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.real)


def text_of(value: Any) -> str | None:
    """Return the text that torch takes for a tensor type, or for what stands in for one; None for anything else."""
    if isinstance(value, _StandIn):
        return value.__name__
    return f"{value.__module__}.{value.__name__}" if isinstance(value, type(torch.FloatTensor)) else None


_WATCHERS: list[Any] = []
"""What tells by ``is_watching`` whether sizes are seen; of recordings inside of one another, the innermost last."""
_MADE: dict[tuple[str, str], _StandIn] = {}
"""The stand-ins, made once: Python frees classes late, and an audit would make twenty of them."""


@contextmanager
def seen_by(watcher: Any) -> Iterator[None]:
    """Let a watcher decide, inside, whether tensor types that are called with sizes are seen."""
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.pop()


def stand_ins() -> Iterator[tuple[ModuleType, str, Any]]:
    """Yield where to put what stands in for a tensor type, under which name, and what that is."""
    for module, device in ((torch, "cpu"), (torch.cuda, "cuda")):
        for name, dtype in _TYPES.items():
            real = vars(module).get(name)
            if isinstance(real, _StandIn):
                yield module, name, real
            elif real is not None:
                known = _MADE.get((module.__name__, name))
                if known is None or known.real is not real:
                    known = _MADE[module.__name__, name] = _StandIn(f"{module.__name__}.{name}", (), {})
                    known.real, known.options = real, {"dtype": dtype, "device": device}
                yield module, name, known
