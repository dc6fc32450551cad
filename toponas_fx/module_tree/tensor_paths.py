"""Where the tensors of a model live: an index from a tensor's identity to the path that reads it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, ModuleType
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


def attributes_of(value: Any) -> dict[str, Any]:
    """Return what an object's own table of attributes holds, without asking the object: it may answer to any name.

    That of a module of Python's is no value of the model's, and may hold all of torch.
    """
    try:
        held = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return held if isinstance(held, dict) and not isinstance(value, ModuleType) else {}


def is_library(name: str | None) -> bool:
    """Return whether a Python module, by name, belongs to a library whose state no supernet changes; C's has none."""
    return name is None or name.split(".")[0] in _LIBRARIES


_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"}
_LIBRARIES |= {"torch", "torchvision", "numpy", "networkx", "toponas_fx"}


def is_users(value: Any) -> bool:
    """Return whether a value is a class, a module or an object of the user's, or a record of settings."""
    if issubclass(type(value), Tensor | nn.Module | FunctionType):
        return False
    if isinstance(value, ModuleType):
        return not is_library(value.__name__)
    owner = value.__module__ if isinstance(value, type) else type(value).__module__
    return not is_library(owner) or (owner in _RECORDS and not isinstance(value, type))


_RECORDS = ("argparse", "types", "collections", "unittest.mock")


def walk_value(value: Any, path: TensorPath, kind: Any = Tensor, depth: int = 5) -> Iterator[tuple[TensorPath, Any]]:
    """Yield every tensor (or other ``kind``) within a value, with its path; containers and plain objects are opened."""
    if issubclass(type(value), kind):  # what a stand-in says of its class is not so
        yield path, value
        return
    if depth == 0 or isinstance(value, Tensor | nn.Module | str | bytes | int | float | type(None)):
        return
    if isinstance(value, dict):
        inner = [(("item", key), item) for key, item in value.items() if _can_be_spelt(key)]
    elif isinstance(value, list | tuple):
        inner = [(("item", index), item) for index, item in enumerate(value)]
    elif not callable(value):
        inner = [(("attribute", name), item) for name, item in attributes_of(value).items()]
    else:
        return
    for step, item in inner:
        yield from walk_value(item, TensorPath(path.target, (*path.steps, step)), kind, depth - 1)


def _can_be_spelt(key: Any) -> bool:
    """Return whether generated code can write a dict's key."""
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
    found = [(name, value) for name, value in own if type(value) not in _ATOMS and name not in MODULE_INTERNALS]
    return [item for item in found if type(item[1]) is not tuple or not all(type(part) in _ATOMS for part in item[1])]


_ATOMS = frozenset((int, float, complex, str, bytes, bool, type(None)))


MODULE_INTERNALS = frozenset(vars(nn.Module())) | {"_toponas", "_compiled_call_impl", "call_super_init", "dump_patches"}
