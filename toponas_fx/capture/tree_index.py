"""The modules of a tree by path, and a check that the tree still is what it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from toponas_fx.purity import is_hooked


def walk_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with its path, in torch's order, a tied one once under each of its paths.

    ``named_modules`` takes a while for the thousands of modules of a supernet: it nests a generator a level.
    """
    stack = [("", root)]
    while stack:
        path, module = stack.pop()
        yield path, module
        prefix = f"{path}." if path else ""
        children = [(prefix + name, child) for name, child in module._modules.items() if child is not None]
        stack += reversed(children)


@dataclass(frozen=True)
class TreeIndex:
    """All modules of a tree by path, and the links that make it up.

    Attributes:
        modules: path to module, the root under the empty path; a tied module under each of its paths.
        paths: identity of a module to the first of its paths.
        links: for each module, its table of children and what it held.
    """

    modules: dict[str, nn.Module]
    paths: dict[int, str]
    links: tuple[tuple[dict[str, nn.Module | None], tuple[tuple[str, nn.Module | None], ...]], ...]

    @classmethod
    def of(cls, root: nn.Module) -> TreeIndex:
        """Index a tree."""
        modules = dict(walk_modules(root))
        paths: dict[int, str] = {}
        for path, module in modules.items():
            paths.setdefault(id(module), path)
        unique = (modules[path] for path in paths.values())
        return cls(modules, paths, tuple((m._modules, tuple(m._modules.items())) for m in unique))

    def is_current(self) -> bool:
        """Tell whether every module still has the same children, in the same order."""
        for children, held in self.links:
            if len(children) != len(held) or (held and tuple(children.items()) != held):
                return False
        return True

    def patched(self) -> dict[str, Any]:
        """Return the modules below the root that do not simply run their class's forward, by path.

        They carry hooks, or a forward of their own; the value tells which.
        """
        return dict(self._patches())

    def _patches(self) -> Iterator[tuple[str, tuple[bool, Callable[..., Any] | None]]]:
        for path in self.paths.values():
            module = self.modules[path]
            if path and ("forward" in vars(module) or is_hooked(module)):
                yield path, (is_hooked(module), vars(module).get("forward"))
