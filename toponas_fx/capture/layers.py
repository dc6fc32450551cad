"""torch's own layers: which modules a capture keeps whole, and what they are, as far as their forwards read it.

A rewritten graph has read a layer's class and options (``stride``, ``eps``, ``negative_slope``), and code may change
them at any time. They are asked for at each call, in C: a supernet has thousands of layers.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toponas_fx.capture.outside import names_of
from toponas_fx.capture.owners import MODULE_INTERNALS

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_DROPOUTS = nn.modules.dropout._DropoutNd
_PLAIN = (int, float, str, type(None), torch.dtype)
_NOT_THERE = ("deleted",)


def is_leaf(module: nn.Module) -> bool:
    """Tell whether a module is one of ``torch.nn``'s own that compute: it becomes one ``call_module`` node."""
    if isinstance(module, torch.jit.ScriptModule):
        return True
    in_torch = type(module).__module__.startswith("torch.nn.modules.")
    return in_torch and not isinstance(module, _CONTAINERS) and type(module) is not nn.Module


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
        """Tell whether all have the values that they had; no list of the present ones is made."""
        try:
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
        modules: the layers themselves.
        options: what they have of options, in groups.
    """

    paths: list[str]
    modules: list[nn.Module]
    options: list[Options]

    @classmethod
    def of(cls, modules: Iterable[tuple[str, nn.Module]]) -> Layers:
        """Find the layers among modules with their paths."""
        leaves = [(path, module) for path, module in modules if is_leaf(module)]
        groups: dict[tuple[str, ...], tuple[list[str], list[dict[str, Any]]]] = {}
        for path, module in leaves:
            names = tuple(_options_of(module))
            if names:
                paths, tables = groups.setdefault(names, ([], []))
                paths.append(path)
                tables.append(vars(module))
        options = [Options(names, *found, operator.itemgetter(*names)) for names, found in groups.items()]
        return cls([path for path, _ in leaves], [module for _, module in leaves], options)

    def values(self) -> list[list[Any]]:
        """Return what the layers are now: the classes of all, then the options of each group."""
        return [list(map(type, self.modules)), *(group.values() for group in self.options)]

    def first_change(self, was: Sequence[Sequence[Any]]) -> tuple[str, str, Any] | None:
        """Return the path, the name and the former value of the first option that is another now; None if none is.

        Args:
            was: what ``values`` gave; that of other layers counts as changed, too.
        """
        if len(was) == 1 + len(self.options) and len(was[0]) == len(self.modules):
            if list(map(type, self.modules)) == was[0] and all(map(Options.hold, self.options, was[1:])):
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
    names = names_read(type(module))  # type: ignore[arg-type]  # mypy takes a class for unhashable
    for name, value in vars(module).items():
        if name not in names or name.startswith("_") or name in MODULE_INTERNALS or not _is_plain(value):
            continue  # one with an underscore is the constructor's, made of others
        if name == "p" and isinstance(module, _DROPOUTS):  # no pass reads it: a dropout stays what it is
            continue
        yield name


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else isinstance(value, _PLAIN)


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
        open_ += new
    return frozenset(names)
