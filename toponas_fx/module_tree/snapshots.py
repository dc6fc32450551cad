"""Pictures of Python values that can be compared later: what a recorded run saw, against what is there now."""

from __future__ import annotations

import enum
import functools
import random
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.module_tree.tensor_paths import attributes_of, is_library

_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), range, enum.Enum, torch.dtype, torch.device)
_BY_IDENTITY = (FunctionType, BuiltinFunctionType, type)
_DEPTH = 6
_NO_PATHS: Mapping[int, str] = {}


@dataclass(frozen=True)
class Kind:
    """Stands for a value that is compared by a description alone: a tensor by its type, a module by its path."""

    text: str


MISSING = Kind("missing")
"""Stands for an attribute that was not there."""


class _Inherited(Kind):
    def __reduce__(self) -> str:
        """Pickle as the one there is."""
        return "INHERITED"


INHERITED = _Inherited("that of its class")
"""Stands for a method that an object has from its class, and has not of its own."""


@dataclass(frozen=True)
class Open:
    """Stands for any value of a type, in a picture that others are compared with."""

    kind: type

    def __repr__(self) -> str:
        """Name the type."""
        return f"any {self.kind.__name__}"


class Same:
    """Stands for a value that nothing is known about: it is equal to itself only."""

    def __init__(self, value: Any) -> None:
        """Keep the value alive, so that its identity stays its own."""
        self.value = value

    def __eq__(self, other: object) -> bool:
        """Compare identities."""
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        """Hash by identity."""
        return id(self.value)

    def __reduce__(self) -> Any:
        """Pickle as something that nothing is equal to: identities end with the process."""
        return Kind, (f"what was a {type(self.value).__qualname__} in another process",)

    def __repr__(self) -> str:
        """Name the type."""
        return f"a {type(self.value).__qualname__}"


def freeze(value: Any, paths: Mapping[int, str] = _NO_PATHS, depth: int = _DEPTH) -> Any:
    """Return a hashable picture of a value: plain data by value, containers and objects by what they hold.

    Tensors show type and place, not numbers: graphs read them afresh. Modules of the tree show their path.

    Args:
        value: anything.
        paths: the tree's modules by identity.
        depth: how many levels of containers are looked into; below, only the type counts.
    """
    if isinstance(value, (*_PLAIN, Kind)):
        return value
    if issubclass(type(value), Tensor):
        return Kind(f"tensor {value.dtype} {tuple(value.shape)} {value.device}")
    if isinstance(value, nn.Module) and id(value) in paths:
        return Kind(f"module {paths[id(value)]}")
    if isinstance(value, _BY_IDENTITY):
        return _by_name(value, paths, depth)
    if depth == 0:
        return Kind(type(value).__qualname__), tuple(_numbers_below(value))
    parts = _parts(value)
    if parts is None:
        return Same(value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(freeze(part, paths, depth - 1) for part in parts)
    if isinstance(parts, _Items):
        pairs = ((freeze(key, paths, depth - 1), freeze(part, paths, depth - 1)) for key, part in parts)
        return type(value), tuple(pairs)
    return type(value), tuple(freeze(part, paths, depth - 1) for part in parts)


def agree(one: Any, other: Any) -> bool:
    """Return whether two pictures show the same: 1, 1.0 and True differ, and so do 0.0 and -0.0.

    The other may be open in places: there, the one shows any value of the type.
    """
    if type(other) is Open:
        return type(one) is other.kind
    if type(one) is not type(other):
        return False
    if type(one) is tuple:
        return len(one) == len(other) and all(map(agree, one, other))
    if type(one) is float:
        return bool(one.hex() == other.hex())
    return bool(one == other)


def _numbers_below(value: Any) -> Iterator[Any]:
    """Yield the plain values in nested containers of Python's own, each container once."""
    stack, seen = [value], set()
    while stack:
        part = stack.pop()
        if isinstance(part, _PLAIN):
            yield part
        elif type(part) in (list, tuple, dict) and id(part) not in seen:
            seen.add(id(part))
            stack += [*part, *part.values()] if isinstance(part, dict) else part


class _Items(list[tuple[Any, Any]]):
    """What a dict or an object holds, each with its key or name: one level, as the items of a list are."""


def _by_name(value: Any, paths: Mapping[int, str], depth: int) -> Any:
    """Return the name of a function or class that can be imported by it; others are themselves only.

    With it go a function's default arguments: code may set others, or change those.
    """
    owner, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    found: Any = sys.modules.get(str(owner))
    for part in name.split("."):
        found = getattr(found, part, None)
    picture: Any = ("function or class", (owner, name)) if found is value else Same(value)
    defaults = (value.__defaults__, value.__kwdefaults__) if isinstance(value, FunctionType) else (None, None)
    if defaults == (None, None) or not depth:
        return picture
    own = freeze(defaults, paths, depth - 1)
    return (picture[0], (*picture[1], own)) if isinstance(picture, tuple) else (picture, own)


def is_own_name(frozen: Any, name: str) -> bool:
    """Return whether a picture is that of a function or class which was found by the name that it was defined with."""
    if type(frozen) is not tuple or len(frozen) != 2 or frozen[0] != "function or class":
        return False
    return bool(frozen[1][1].split(".")[-1] == name)


def _parts(value: Any) -> Any:
    """Return what a value consists of; None where that cannot be told."""
    if isinstance(value, list | tuple | deque | set | frozenset):
        return value
    if isinstance(value, Mapping):
        return _Items(value.items())
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, random.Random):
        return (value.getstate(),)
    if type(value).__module__.split(".")[0] == "numpy":
        return _parts_of_numpy(value)
    if isinstance(value, ModuleType):
        return None if is_library(value.__name__) else _Items(vars(value).items())
    slots = [name for owner in type(value).__mro__ for name in _names(vars(owner).get("__slots__", ()))]
    if not slots and not hasattr(type(value), "__dict__"):
        return None
    inside = [(name, getattr(value, name)) for name in slots if hasattr(value, name)]
    held = attributes_of(value).items()
    return _Items([*inside, *((name, part) for name, part in held if not _is_cached(type(value), name))])


def _is_cached(kind: type, name: str) -> bool:
    """Return whether an attribute is a view that a networkx graph made of its others when it was first read."""
    makers = (vars(owner).get(name) for owner in kind.__mro__ if owner.__module__.startswith("networkx."))
    return any(isinstance(maker, functools.cached_property) for maker in makers)


def _names(slots: Any) -> tuple[str, ...]:
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _parts_of_numpy(value: Any) -> Any:
    """Take apart arrays, scalars and random generators of numpy, which need not be installed."""
    if hasattr(value, "tobytes"):
        return str(value.dtype), value.shape, value.tobytes()
    if hasattr(value, "bit_generator"):
        return (value.bit_generator.state,)
    return value.get_state() if hasattr(value, "get_state") else None
