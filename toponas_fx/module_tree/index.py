"""The modules of a tree by path, and a check that the tree still is what it was."""

from __future__ import annotations

import gc
import operator
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from torch import nn

from toponas_fx.analysis.effects import global_hooks, has_global_hooks, hook_tables, is_hooked
from toponas_fx.module_tree.layers import Layers, functions_of, is_of_torch


def walk_modules(root: nn.Module, left_out: Container[str] = ()) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with its path, in torch's order, a tied one once under each of its paths.

    Paths that are ``left_out`` are passed over, with all below them.
    ``named_modules`` takes a while for the thousands of modules of a supernet: it nests a generator a level.
    """
    stack = [("", root)]
    while stack:
        path, module = stack.pop()
        yield path, module
        prefix = f"{path}." if path else ""
        children = [(prefix + name, child) for name, child in module._modules.items() if child is not None]
        stack += [child for child in reversed(children) if child[0] not in left_out] if left_out else children[::-1]


@dataclass(frozen=True)
class TreeIndex:
    """All modules of a tree by path, and the links that make it up.

    Attributes:
        modules: path to module, the root under the empty path; a tied module under each of its paths.
        paths: identity of a module to the first of its paths.
        parents: the table of children of each module that has some.
        held: what these held.
        ordered: those of them whose children tell the order of the names, and children: theirs, table after table.
        others: the rest, and names: the names in them, likewise.
        childless: the tables of the others.
        below: all modules below the root, each once, and kinds: their classes.
        functions: what torch's layers among these classes have of functions, by class and name.
        hooks: the tables of hooks of the same.
        attributes: the tables of attributes of the same.
        layers: torch's own among the modules.
        watched: what ``StateGuards`` look up here, each by its owner's table of attributes.
    """

    modules: dict[str, nn.Module]
    paths: dict[int, str]
    parents: list[dict[str, nn.Module | None]]
    held: list[dict[str, nn.Module | None]]
    ordered: tuple[dict[str, nn.Module | None], ...]
    children: list[nn.Module | None]
    others: list[dict[str, nn.Module | None]]
    names: list[str]
    childless: list[dict[str, nn.Module | None]]
    below: list[nn.Module]
    kinds: list[type[nn.Module]]
    functions: dict[tuple[type[nn.Module], str], Any]
    hooks: list[dict[int, Any]]
    attributes: list[dict[str, Any]]
    layers: Layers
    watched: dict[int, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, root: nn.Module) -> TreeIndex:
        """Index a tree."""
        modules = dict(walk_modules(root))
        paths: dict[int, str] = {}
        for path, module in modules.items():
            paths.setdefault(id(module), path)
        unique = [modules[path] for path in paths.values()]
        tables = [module._modules for module in unique if isinstance(module._modules, dict)]  # a scripted one's are not
        parents, childless = [table for table in tables if table], [table for table in tables if not table]
        attributes = [vars(module) for module in unique[1:]]
        ordered, others = tuple(filter(_tells_order, parents)), [table for table in parents if not _tells_order(table)]
        order = ordered, gc.get_referents(*ordered), others, list(chain.from_iterable(others))
        kinds = list(map(type, unique[1:]))
        layers = Layers.of(zip(paths.values(), unique, strict=True))
        functions = {
            (kind, name): function
            for kind in filter(is_of_torch, dict.fromkeys(kinds))
            for name, function in functions_of(kind).items()
        }
        held, hooks = list(map(dict, parents)), list(hook_tables(unique[1:]))
        state: Any = unique[1:], kinds, functions, hooks, attributes, layers
        return cls(modules, paths, parents, held, *order, childless, *state)

    def first_path(self, target: str) -> str:
        """Return the first path of the module, or of the module's attribute, at a path: tied ones have several."""
        if target in self.modules:
            return self.paths[id(self.modules[target])]
        owner, _, name = target.rpartition(".")
        return f"{self.paths[id(self.modules[owner])]}.{name}" if owner in self.modules else target

    def is_current(self) -> bool:
        """Return whether every module still has the same class and children, in the same order."""
        if any(self.childless) or self.parents != self.held or list(map(type, self.below)) != self.kinds:
            return False  # equal dicts may differ in order
        if not all(getattr(*place, None) is function for place, function in self.functions.items()):
            return False
        return gc.get_referents(*self.ordered) == self.children and list(chain.from_iterable(self.others)) == self.names

    def patched(self) -> dict[str, Any]:
        """Return the modules below the root that do not simply run their class's forward, by path.

        They carry hooks, or a forward of their own; the value tells which. Hooks around all modules stand under the
        empty path.
        """
        has_own = any(self.hooks) or any(map(dict.__contains__, self.attributes, repeat("forward")))
        found: dict[str, Any] = dict(self._patches()) if has_own else {}
        everywhere = global_hooks() if has_global_hooks() else []
        return {**found, "": everywhere} if everywhere else found

    def _patches(self) -> Iterator[tuple[str, tuple[bool, Callable[..., Any] | None]]]:
        for path in self.paths.values():
            module = self.modules[path]
            if path and ("forward" in vars(module) or is_hooked(module)):
                yield path, (is_hooked(module), vars(module).get("forward"))


def _tells_order(table: dict[str, nn.Module | None]) -> bool:
    """Return whether the collector sees a table's children in order, each once: with equal entries the names' too.

    It goes through all tables in one call; an iterator for each takes twice as long.
    """
    seen = gc.get_referents(table) if type(table) is dict else []
    return len(set(map(id, seen))) == len(table) == len(seen) and all(map(operator.is_, seen, table.values()))
