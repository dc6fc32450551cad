"""torch's own layers: which modules a capture keeps whole, and what they are, as far as their forwards read it.

A rewritten graph has read a layer's class and options (``stride``, ``eps``, ``negative_slope``), and code may change
them at any time. They are asked for at each call, in C: a supernet has thousands of layers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import FunctionType
from typing import Any

import torch
from torch import nn

from toponas_fx.module_tree.code_names import names_of
from toponas_fx.module_tree.tensor_paths import MODULE_INTERNALS

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_DROPOUTS = nn.modules.dropout._DropoutNd
_PLAIN = (int, float, str, type(None), torch.dtype)
_NOT_THERE = ("deleted",)


def is_leaf(module: nn.Module) -> bool:
    """Return whether a module is one of ``torch.nn``'s own that compute: it becomes one ``call_module`` node.

    One with a method of the user's, its own or its class's, is run as all that is the user's.
    """
    kind = type(module)
    if isinstance(module, torch.jit.ScriptModule):
        return True
    if not is_of_torch(kind) or not all(map(_is_torchs, functions_of(kind).values())):
        return False
    return methods_called(kind).isdisjoint(object.__getattribute__(module, "__dict__"))  # type: ignore[arg-type]


def is_of_torch(kind: type[nn.Module]) -> bool:
    """Return whether a class of modules is one of torch's layers, whatever functions it has got since."""
    is_layer = kind.__module__.startswith("torch.nn.modules.") and kind is not nn.Module
    return is_layer and not issubclass(kind, _CONTAINERS)


def functions_of(kind: type[nn.Module]) -> dict[str, Any]:
    """Return the functions that a layer has from its classes, those that all modules have left out."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)]):
        found |= {name: value for name, value in vars(base).items() if callable(value) and not isinstance(value, type)}
    return found


def _is_torchs(function: Any) -> bool:
    """Return whether a function in a class of torch's is torch's own, and not one that was put in its place."""
    function = getattr(function, "__func__", function)  # a static method's
    return isinstance(function, FunctionType) and str(function.__globals__.get("__name__")).startswith("torch.")


@dataclass(frozen=True)
class Options:
    """The options of layers that have some of the same names.

    Attributes:
        names: theirs.
        paths: the layers' paths.
        tables: the layers' tables of attributes.
        read: what takes the options out of one table: all of them, or the one.
    """

    names: tuple[str, ...]
    paths: list[str]
    tables: list[dict[str, Any]]
    read: Callable[[dict[str, Any]], Any]

    def hold(self, were: Sequence[Any]) -> bool:
        """Return whether all have the values that they had; of several no list is made: it would wake the collector."""
        try:
            if len(self.names) == 1:
                return list(map(self.read, self.tables)) == were
            return len(were) == len(self.tables) and all(map(operator.eq, map(self.read, self.tables), were))
        except (KeyError, RuntimeError, ValueError, TypeError):  # one is gone, or an array
            return False

    def values(self) -> list[Any]:
        """Return the present values, layer by layer."""
        try:
            return list(map(self.read, self.tables))
        except KeyError:
            return [self._or_missing(table) for table in self.tables]

    def _or_missing(self, table: dict[str, Any]) -> Any:
        found = tuple(table.get(name, _NOT_THERE) for name in self.names)
        return found if len(found) > 1 else found[0]


@dataclass(frozen=True)
class Layers:
    """The layers of one tree.

    Attributes:
        paths: of all.
        kinds: their classes; those of a tree are asked for with all others, ``TreeIndex.is_current``.
        options: what they have of options, in groups, and the parameters and buffers that are None.
        methods: names of methods that their forwards call, each with the tables of attributes of those that do.
    """

    paths: list[str]
    kinds: list[type[nn.Module]]
    options: list[Options]
    methods: list[tuple[str, list[dict[str, Any]]]]

    @classmethod
    def of(cls, modules: Iterable[tuple[str, nn.Module]]) -> Layers:
        """Find the layers among modules with their paths."""
        leaves = [(path, module) for path, module in modules if is_leaf(module)]
        groups: dict[tuple[str, tuple[str, ...]], tuple[list[str], list[dict[str, Any]]]] = {}
        methods: dict[str, list[dict[str, Any]]] = {}
        for path, module in leaves:
            own = vars(module)
            found = [("options", tuple(_options_of(module)))]
            for table in ("_parameters", "_buffers") if not isinstance(module, torch.jit.ScriptModule) else ():
                found.append((table, tuple(name for name, tensor in own[table].items() if tensor is None)))
            for kind, names in found:
                if names:
                    paths, tables = groups.setdefault((kind, names), ([], []))
                    paths.append(path)
                    tables.append(own if kind == "options" else own[kind])
            for name in methods_called(type(module)):  # type: ignore[arg-type]
                methods.setdefault(name, []).append(own)
        options = [Options(names, *found, operator.itemgetter(*names)) for (_, names), found in groups.items()]
        kinds = [type(module) for _, module in leaves]
        return cls([path for path, _ in leaves], kinds, options, list(methods.items()))

    def values(self) -> list[list[Any]]:
        """Return what the layers are now: the classes of all, then the options of each group."""
        return [self.kinds, *(group.values() for group in self.options)]

    def first_change(self, was: Sequence[Sequence[Any]]) -> tuple[str, str, Any] | None:
        """Return the path, the name and the former value of the first option that is another now; None if none is.

        Args:
            was: what ``values`` gave; that of other layers counts as changed, too.
        """
        for name, tables in self.methods:
            if any(map(dict.__contains__, tables, repeat(name))):
                return "", name, "that of its class"
        if len(was) == 1 + len(self.options) and self.kinds == was[0]:
            if all(map(Options.hold, self.options, was[1:])):
                return None
        now = self.values()
        if list(map(len, now)) != list(map(len, was)):
            return "", "layers", "others"
        for path, before, kind in zip(self.paths, was[0], now[0], strict=True):
            if before is not kind:
                return path, "__class__", before.__name__
        for group, before, after in zip(self.options, was[1:], now[1:], strict=True):
            for path, old, new in zip(group.paths, before, after, strict=True):
                values = zip(group.names, *((old, new) if len(group.names) > 1 else ((old,), (new,))), strict=True)
                for name, value, present in values:
                    if not _equal(value, present):
                        return path, name, value
        return None


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, ValueError, TypeError):  # one of them is an array now
        return False


def _options_of(module: nn.Module) -> Iterator[str]:
    if isinstance(module, torch.jit.ScriptModule):
        return
    names = names_read(type(module))  # type: ignore[arg-type]
    for name, value in vars(module).items():
        if name not in names or name.startswith("_") or name in MODULE_INTERNALS or not _is_plain(value):
            continue  # one with an underscore is the constructor's, made of others
        if name == "p" and isinstance(module, _DROPOUTS):  # no pass reads it: a dropout stays what it is
            continue
        yield name


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


@functools.cache  # mypy takes a class for unhashable
def methods_called(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names of the methods of its own that a layer's forward calls: an instance may have others."""
    named = names_read(kind) - vars(nn.Module).keys()  # type: ignore[arg-type]
    return frozenset(name for name in named if isinstance(getattr(kind, name, None), FunctionType))


@functools.cache
def names_read(kind: type[nn.Module]) -> frozenset[str]:
    """Return the names that a layer's forward looks up, and what it calls of its own class."""
    names: set[str] = set()
    open_ = ["forward"]
    while open_:
        found = getattr(kind, open_.pop(), None)
        code = getattr(found.fget if isinstance(found, property) else found, "__code__", None)
        new = set(names_of(code)) - names if code is not None else set()
        names |= new
        open_ += new - vars(nn.Module).keys()  # what every module has reads no options
    return frozenset(names)
