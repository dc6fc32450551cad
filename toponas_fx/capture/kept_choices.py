"""Integers and names that modules keep, of which a search sets others before each step: which candidate runs, say.

They lie in attributes, or in the lists, tuples, dicts and plain objects there. All is found, opened and exchanged by
the steps that lead to them from the attribute: in pictures of values (``module_tree.snapshots``), and in values.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.snapshots import MISSING, Open, agree, freeze
from toponas_fx.module_tree.tensor_paths import is_library

Steps = tuple[tuple[str, Any], ...]
"""From a value to a part of it: ``("item", key)`` or ``("attribute", name)`` each."""
Key = tuple[str, str]
"""Path of a module, and name of its attribute."""


@dataclass(frozen=True)
class Kept:
    """An integer or a name that a module keeps.

    Attributes:
        path: of the module.
        name: of its attribute.
        steps: from there on.
    """

    path: str
    name: str
    steps: Steps = ()

    @property
    def key(self) -> Key:
        """The attribute."""
        return self.path, self.name

    def value(self, tree: TreeIndex) -> Any:
        """Return what it is now; what is missing where it is not there any more."""
        found: Any = getattr(tree.modules.get(self.path), self.name, MISSING)
        try:
            for step in self.steps:
                found = _part(found, step)
        except (LookupError, TypeError, AttributeError):
            return MISSING
        return found

    def __str__(self) -> str:
        """Name it."""
        steps = "".join(f"[{key!r}]" if kind == "item" else f".{key}" for kind, key in self.steps)
        return f"`{self.path or 'the model'}.{self.name}{steps}`"


def changed_parts(was: Any, now: Any) -> dict[Steps, Any] | None:
    """Return where two pictures show another integer, or another text, each; None where they differ in more.

    With the place goes the one that was there.
    """
    if type(was) is type(now) and type(was) in (int, str):
        return {} if was == now else {(): was}
    if not (_is_container(was) and _is_container(now)) or was[0] is not now[0] or len(was[1]) != len(now[1]):
        return {} if agree(now, was) else None
    found: dict[Steps, Any] = {}
    for (step, one), (other_step, other) in zip(_parts(was), _parts(now), strict=True):
        inner = None if step is None or step != other_step else changed_parts(one, other)
        if inner is None and not (step == other_step and agree(other, one)):
            return None
        found |= {(step, *steps): value for steps, value in (inner or {}).items() if step is not None}
    return found


def opened(picture: Any, places: Collection[Steps]) -> Any:
    """Return a picture that any integer, or text, fits at some places of it."""
    if () in places:
        return Open(type(picture))
    if not places:
        return picture
    kind, parts = picture
    inner = []
    for part, (step, value) in zip(parts, _parts(picture), strict=True):
        new = opened(value, [steps[1:] for steps in places if steps[0] == step])
        inner.append(new if value is part else (part[0], new))
    return kind, tuple(inner)


def _is_container(picture: Any) -> bool:
    if type(picture) is not tuple or len(picture) != 2 or not isinstance(picture[0], type):
        return False
    return type(picture[1]) is tuple and (issubclass(picture[0], list | tuple | dict) or _is_object(picture[0]))


def _is_object(kind: type) -> bool:
    """Return whether the objects of a class of the user's are made of what is in their tables alone."""
    own = [owner for owner in kind.__mro__ if owner is not object]
    return not any(is_library(owner.__module__) or "__slots__" in vars(owner) for owner in own)


def _parts(picture: Any) -> Iterator[tuple[tuple[str, Any] | None, Any]]:
    """Yield what a picture of a container is made of, with the step to it; None where it cannot be exchanged."""
    kind, parts = picture
    if kind in (list, tuple) or hasattr(kind, "_make"):
        yield from ((("item", index), part) for index, part in enumerate(parts))
    elif kind in (dict, OrderedDict):
        yield from ((("item", key) if type(key) in (int, str) else None, part) for key, part in parts)
    elif _is_object(kind):
        yield from ((("attribute", name), part) for name, part in parts)
    else:
        yield from ((None, part) for part in parts)


def _part(value: Any, step: tuple[str, Any]) -> Any:
    kind, key = step
    return value[key] if kind == "item" else getattr(value, key)


def exchanged(value: Any, parts: Mapping[Steps, Any], made: list[Any]) -> Any:
    """Return a value with others for parts of it; all that leads to these is made anew, and noted in ``made``."""
    if () in parts:
        return parts[()]
    below: dict[tuple[str, Any], dict[Steps, Any]] = {}
    for steps, part in parts.items():
        below.setdefault(steps[0], {})[steps[1:]] = part
    new = {step: exchanged(_part(value, step), inner, made) for step, inner in below.items()}
    if isinstance(value, tuple):
        items = [new.get(("item", index), item) for index, item in enumerate(value)]
        found: Any = type(value)._make(items) if hasattr(value, "_make") else tuple(items)
    elif isinstance(value, list | dict):
        found = copy.copy(value)
        for (_, key), part in new.items():
            found[key] = part
    else:
        found = object.__new__(type(value))
        vars(found).update({**vars(value), **{name: part for (_, name), part in new.items()}})
    made.append(found)
    return found


def contents(container: Any) -> list[Any]:
    """Return what a container that ``exchanged`` made holds, its keys too."""
    table = container if isinstance(container, dict | list | tuple) else vars(container)
    return [*table, *table.values()] if isinstance(table, dict) else list(table)


def pattern_of(tree: TreeIndex, key: Key, places: Collection[Steps]) -> Any:
    """Return the picture of an attribute that is open at some places."""
    return opened(freeze(getattr(tree.modules[key[0]], key[1]), tree.paths), places)


def by_attribute(kept: Iterable[Kept]) -> dict[Key, list[Steps]]:
    """Return the steps that lead to some kept values from each attribute."""
    found: dict[Key, list[Steps]] = {}
    for one in kept:
        found.setdefault(one.key, []).append(one.steps)
    return found
