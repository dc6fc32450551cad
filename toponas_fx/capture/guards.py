"""What Python state a recorded run depended on, and whether it still holds.

Whatever forward read of its modules' plain attributes, and of the module globals that its code names, is kept by
value.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import CellType
from typing import Any

from toponas_fx.capture.frozen import MISSING, Kind, freeze
from toponas_fx.capture.tree_index import TreeIndex

_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One value that is no longer as recorded.

    Attributes:
        sentence: which, and what it was.
        where: ``file:line`` of the user's code that read it.
    """

    sentence: str
    where: str


@dataclass
class StateGuards:
    """The Python state that one recorded run read.

    Attributes:
        attributes: (module path, attribute name) to the frozen value.
        globals: (Python module, global name, attributes below it) to the frozen value.
        references: (object, attribute, frozen value, where it was read) for objects and closures outside the model.
        patched: the modules of the tree with hooks or a forward of their own.
        places: for each of these keys, ``file:line`` of the user's code that read it first.
    """

    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    globals: dict[tuple[str, ...], Any] = field(default_factory=dict)
    references: list[tuple[Any, str, Any, str]] = field(default_factory=list)
    patched: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def depends_on_state(self) -> bool:
        """True where a change of plain state, apart from training flags, could make the run take another path."""
        values = [value for (_, name), value in self.attributes.items() if name != "training"]
        values += [*self.globals.values(), *self.references]
        return any(value == MISSING or not isinstance(value, Kind) for value in values)

    def note_attribute(self, path: str, name: str, value: Any, where: str) -> None:
        """Keep the frozen value of a module's attribute as it was first read."""
        self.attributes.setdefault((path, name), value)
        self.places.setdefault((path, name), where)

    def note_global(self, names: tuple[str, ...], value: Any, where: str) -> None:
        """Keep the frozen value of a global, or of an attribute below one, as it was first seen."""
        self.globals.setdefault(names, value)
        self.places.setdefault(names, where)

    def note_reference(self, owner: Any, name: str, value: Any, where: str) -> None:
        """Keep the frozen value of an attribute of an object that has no path."""
        if not any(known is owner and attribute == name for known, attribute, *_ in self.references):
            self.references.append((owner, name, value, where))

    def first_change(self, tree: TreeIndex) -> Change | None:
        """Return the first value that is no longer as recorded, or None where all hold."""
        if self.patched != tree.patched():
            return Change("hooks, or a module's own forward, were others", "")
        for owner, path, name, frozen in self._watched(tree):
            if owner.get(name, _ABSENT) is frozen:  # most hold, and this is the fastest way to see it
                continue
            value = getattr(tree.modules.get(path), name, MISSING)
            if value is not frozen and freeze(value, tree.paths) != frozen:
                return Change(f"`{path or 'the model'}.{name}` was {_show(frozen)}", self.places.get((path, name), ""))
        for names, frozen in self.globals.items():
            value = _follow(names)
            if value is not frozen and freeze(value, tree.paths) != frozen:
                return Change(f"the global `{'.'.join(names)}` was {_show(frozen)}", self.places.get(names, ""))
        for owner, name, frozen, where in self.references:
            value = getattr(owner, name, MISSING)
            if value is not frozen and freeze(value, tree.paths) != frozen:
                return Change(f"`{name}` of {_name_of(owner)} was {_show(frozen)}", where)
        return None

    def _watched(self, tree: TreeIndex) -> list[tuple[dict[str, Any], str, str, Any]]:
        """Return the attributes that were read, with their owners' tables in a tree, which remembers them."""
        found: list[tuple[dict[str, Any], str, str, Any]]
        attributes, found = tree.watched.get(id(self), (None, []))
        if attributes is not self.attributes or len(found) != len(attributes):
            tables = {path: vars(tree.modules[path]) for path, _ in self.attributes if path in tree.modules}
            items = self.attributes.items()
            found = [(tables.get(path, {}), path, name, frozen) for (path, name), frozen in items]
            tree.watched[id(self)] = (self.attributes, found)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the objects outside the model: in another process they are others, and nothing holds."""
        kept = [(None, name, Kind("of another process"), where) for _, name, _, where in self.references]
        return {**vars(self), "references": kept}

    def add(self, other: StateGuards) -> None:
        """Hold to what another run of the same path read, too."""
        self.attributes = {**other.attributes, **self.attributes}
        self.globals = {**other.globals, **self.globals}
        for reference in other.references:
            self.note_reference(*reference)


def _follow(names: tuple[str, ...]) -> Any:
    owner, *rest = names
    value: Any = sys.modules.get(owner)
    for name in rest:
        value = getattr(value, name, MISSING)
    return value


def _name_of(owner: Any) -> str:
    return "an enclosing function" if isinstance(owner, CellType) else f"a {type(owner).__qualname__}"


def _show(frozen: Any) -> str:
    if isinstance(frozen, Kind):
        return frozen.text
    if isinstance(frozen, tuple) and frozen and isinstance(frozen[0], type):
        frozen = frozen[1]
    text = repr(frozen)
    return text if len(text) < 60 else text[:57] + "..."
