"""Where the tensors of a model live: an index from a tensor's identity to the path that reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class TensorPath:
    """How to reach a tensor: an attribute of a module of the tree, then items and attributes below it.

    Attributes:
        target: dotted path from the root to the attribute.
        steps: what follows: ``("item", key)`` or ``("attribute", name)``.
    """

    target: str
    steps: tuple[tuple[str, Any], ...] = ()


def walk_value(value: Any, path: TensorPath, kind: Any = Tensor, depth: int = 5) -> Iterator[tuple[TensorPath, Any]]:
    """Yield every tensor (or other ``kind``) within a value, with its path; containers and plain objects are opened."""
    if isinstance(value, kind):
        yield path, value
        return
    if depth == 0 or isinstance(value, Tensor | nn.Module | str | bytes | int | float | type(None)):
        return
    if isinstance(value, dict):
        inner = [(("item", key), item) for key, item in value.items() if _can_be_spelt(key)]
    elif isinstance(value, list | tuple):
        inner = [(("item", index), item) for index, item in enumerate(value)]
    elif hasattr(value, "__dict__") and not callable(value):
        inner = [(("attribute", name), item) for name, item in vars(value).items()]
    else:
        return
    for step, item in inner:
        yield from walk_value(item, TensorPath(path.target, (*path.steps, step)), kind, depth - 1)


def _can_be_spelt(key: Any) -> bool:
    """Tell whether generated code can write a dict's key."""
    if isinstance(key, tuple):
        return type(key) is tuple and all(map(_can_be_spelt, key))
    return type(key) in (int, str, bool, float, type(None))


def model_tensors(root: nn.Module) -> Iterator[tuple[TensorPath, Tensor]]:
    """Yield the parameters, buffers and plain tensors of every module, the registered ones of a module first."""
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                yield TensorPath(prefix + name), tensor
        for name, value in plain_attributes(module):
            yield from walk_value(value, TensorPath(prefix + name))


def plain_attributes(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the attributes of a module that are not torch's own and may hold something."""
    own = vars(module).items()
    return [(name, value) for name, value in own if type(value) not in _ATOMS and name not in MODULE_INTERNALS]


_ATOMS = frozenset((int, float, complex, str, bytes, bool, type(None)))


MODULE_INTERNALS = frozenset(vars(nn.Module())) | {"_toponas", "_compiled_call_impl", "call_super_init", "dump_patches"}
