"""What Python state a recorded run depended on, and whether it still holds.

Whatever forward read of its modules' plain attributes and of the module globals that its code names is kept by value.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

_MISSING = object()
_PLAIN = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device, enum.Enum)


@dataclass(frozen=True)
class _Opaque:
    """Stands for a value that is compared elsewhere (tensors, modules) or by its type alone."""

    kind: str


_TENSOR, _MODULE = _Opaque("tensor"), _Opaque("module")


def freeze(value: Any, depth: int = 6) -> Any:
    """Return a comparable picture of a value: plain data by value, tensors and modules by kind.

    Lists and dicts are copied, so that a change in place shows; objects show their ``__dict__``.
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return _TENSOR
    if isinstance(value, nn.Module):
        return _MODULE
    if depth == 0:
        return _Opaque(type(value).__qualname__)
    if isinstance(value, list | tuple):
        return (type(value), tuple(freeze(item, depth - 1) for item in value))
    if isinstance(value, Mapping):
        return (type(value), tuple((freeze(key), freeze(item, depth - 1)) for key, item in value.items()))
    if isinstance(value, set | frozenset):
        return (type(value), frozenset(freeze(item, depth - 1) for item in value))
    if callable(value) or not hasattr(value, "__dict__"):
        return _Opaque(type(value).__qualname__)
    return (type(value), tuple((key, freeze(item, depth - 1)) for key, item in vars(value).items()))


@dataclass
class StateGuards:
    """The Python state that one recorded run read.

    Attributes:
        attributes: (module path, attribute name) to the frozen value.
        globals: (Python module name, global name) to the frozen value.
        grad_mode: whether gradients were on, where forward switches them itself; None where it does not matter.
    """

    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    globals: dict[tuple[str, str], Any] = field(default_factory=dict)
    grad_mode: bool | None = None

    def first_change(self, modules: Mapping[str, nn.Module]) -> str | None:
        """Return a sentence about the first value that is no longer as recorded, or None where all hold.

        Args:
            modules: the tree by path, the root under the empty path.
        """
        if self.grad_mode is not None and torch.is_grad_enabled() != self.grad_mode:
            return f"grad mode was {self.grad_mode}"
        for (path, name), frozen in self.attributes.items():
            module = modules.get(path)
            value = getattr(module, name, _MISSING)
            if value is not frozen and freeze(value) != frozen:
                return f"`{path or 'the model'}.{name}` was {_show(frozen)}"
        for (owner, name), frozen in self.globals.items():
            value = vars(sys.modules[owner]).get(name, _MISSING) if owner in sys.modules else _MISSING
            if value is not frozen and freeze(value) != frozen:
                return f"the global `{owner}.{name}` was {_show(frozen)}"
        return None


def _show(frozen: Any) -> str:
    if isinstance(frozen, tuple) and frozen and isinstance(frozen[0], type):
        frozen = frozen[1]
    text = repr(frozen)
    return text if len(text) < 60 else text[:57] + "..."
