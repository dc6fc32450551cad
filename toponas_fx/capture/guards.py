"""What Python state a recorded run depended on, and whether it still holds.

Whatever forward read of its modules' plain attributes, and of the module globals that its code names, is kept by
value.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from types import CellType, FunctionType
from typing import Any, cast

from toponas_fx.capture.expressions import Condition, Read, Reader, Source, present
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.snapshots import INHERITED, MISSING, Kind, Same, agree, freeze, is_own_name

_WATCHED = 64
_Watched = tuple[dict[str, Any], str, str, Any]


@dataclass(frozen=True)
class Change:
    """One value that is no longer as recorded.

    Attributes:
        name: which, in words.
        was: what it was.
        where: ``file:line`` of the user's code that read it.
        key: tells it from all others.
    """

    name: str
    was: str
    where: str
    key: tuple[Any, ...] = ()

    @property
    def sentence(self) -> str:
        """Say which, and what it was."""
        return f"{self.name} {self.was}"


@dataclass
class StateGuards:
    """The Python state that one recorded run read.

    Attributes:
        attributes: (module path, attribute name) to the frozen value.
        globals: (Python module, global name, attributes below it) to the frozen value.
        references: (object, attribute, frozen value, where it was read) for objects and closures outside the model.
        patched: the modules of the tree with hooks or a forward of their own.
        layers: the classes and options of torch's own layers; None where they do not matter.
        numbers: those of modules that the run read as symbols, with ``file:line``.
        conditions: what it asked of them, with ``file:line``.
        fixed_numbers: those with which it did what holds for their present values only.
        places: for each of these keys, ``file:line`` of the user's code that read it first.
    """

    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    globals: dict[tuple[str, ...], Any] = field(default_factory=dict)
    references: list[tuple[Any, str, Any, str]] = field(default_factory=list)
    patched: dict[str, Any] = field(default_factory=dict)
    layers: list[list[Any]] | None = None
    numbers: dict[Read, str] = field(default_factory=dict)
    conditions: dict[Condition, str] = field(default_factory=dict)
    fixed_numbers: set[Source] = field(default_factory=set)
    places: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def depends_on_state(self) -> bool:
        """True where a change of plain state, apart from training flags, could make the run take another path."""
        values = [value for (_, name), value in self.attributes.items() if name != "training"]
        values += [value for names, value in self.globals.items() if not is_own_name(value, names[-1])]
        values += [known for known in self.references if not isinstance(known[0], type)]  # of classes these are methods
        return bool(self.conditions) or any(value == MISSING or not isinstance(value, Kind) for value in values)

    def watched(self) -> Iterator[str]:
        """Yield in words what is watched of Python state: not training flags, and no methods or functions."""
        for (path, name), value in self.attributes.items():
            if (
                name != "training"
                and not name.startswith("_toponas")
                and (value == MISSING or not isinstance(value, Kind))
            ):
                yield f"`{path or 'the model'}.{name}`"
        yield from map(str, self.numbers)
        yield from (self.named(key).name for key, value in self.globals.items() if not _is_code(value))
        for owner, name, value, _ in self.references:
            if not _is_code(value) and not isinstance(owner, type):
                yield f"`{name}` of {_name_of(owner)}"

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

    def note_method(self, owner: type, name: str, function: Any, where: str) -> None:
        """Keep which function a class of the user's has for a method."""
        path = owner.__module__, *owner.__qualname__.split("."), name
        if is_own_name(freeze(function), name) and follow(path) is function:
            self.note_global(path, freeze(function), where)
        else:
            self.note_reference(owner, name, freeze(function), where)

    def choosing(self, left_out: tuple[Any, ...] | None = None) -> StateGuards:
        """Return what may decide whether a run can be captured: plain values, not training flags, and no hooks."""
        own = {key: value for key, value in self.attributes.items() if key[1] != "training" and key != left_out}
        plain = {key: value for key, value in own.items() if value == MISSING or not isinstance(value, Kind)}
        others = {key: value for key, value in self.globals.items() if key != left_out}
        references = [known for known in self.references if (known[1], id(known[0])) != left_out]
        return replace(self, attributes=plain, globals=others, references=references, patched={}, layers=None)

    def modes(self) -> StateGuards:
        """Return the same without fractions: a temperature does not change which path is taken, a mode may."""
        return replace(self, attributes={k: v for k, v in self.attributes.items() if not isinstance(v, float)})

    def named(self, key: tuple[Any, ...], was: str = "") -> Change:
        """Return how to speak of the value of a module's attribute or of a global."""
        is_attribute = key in self.attributes
        name = f"`{key[0] or 'the model'}.{key[1]}`" if is_attribute else f"the global `{'.'.join(key)}`"
        return Change(name, was, self.places.get(key, ""), key)

    def value_of(self, key: tuple[Any, ...], tree: TreeIndex) -> Any:
        """Return the present value, frozen, of a module's attribute or of a global; None for others."""
        if len(key) == 2 and key[0] in tree.modules:
            return freeze(getattr(tree.modules[key[0]], key[1], MISSING), tree.paths)
        return freeze(follow(key), tree.paths) if all(isinstance(name, str) for name in key) else None

    def first_change(self, tree: TreeIndex, given: Sequence[float] = ()) -> Change | None:
        """Return the first thing that is no longer as recorded, or None where all holds.

        Args:
            tree: the model's.
            given: the floats among the arguments of the call in question.
        """
        return self.first_value(tree, given) or self.patched_since(tree)

    def patched_since(self, tree: TreeIndex) -> Change | None:
        """Return the change of hooks, or of a module's own forward, if there was one."""
        return (
            None if self.patched == tree.patched() else Change("hooks, or a module's own forward,", "were others", "")
        )

    def first_value(self, tree: TreeIndex, given: Sequence[float] = ()) -> Change | None:
        """Return the first value that is no longer as recorded, or None where all hold."""
        is_open = self.numbers or self.conditions
        number = self._first_number(present(tree, given)) if is_open else None
        return number or self.first_constant(tree) or self.first_option(tree)

    def _first_number(self, read: Reader) -> Change | None:
        for source, where in self.numbers.items():
            if type(read(source)) is not float:
                return Change(str(source), "was a float", where, (source.path, source.name))
        for condition, where in self.conditions.items():
            if not condition.holds(read):
                return Change(f"{condition.asked}", condition.told, where, (condition,))
        return None

    def first_constant(self, tree: TreeIndex) -> Change | None:
        """Return the same, but for numbers that stay symbolic."""
        for owner, path, name, frozen in self._unlike(tree):
            if owner.get(name, INHERITED) is frozen:
                continue
            value = getattr(tree.modules.get(path), name, MISSING)
            if value is not frozen and not _holds_same(value, frozen) and not agree(freeze(value, tree.paths), frozen):
                return self.named((path, name), f"was {_show(frozen)}")
        seen = tree.watched[id(self)][-1]
        for names, frozen in self.globals.items():
            value = follow(names)
            if value is frozen or (value is seen.get(names, MISSING) and _is_itself(value)):
                continue
            if not agree(freeze(value, tree.paths), frozen):
                return self.named(names, f"was {_show(frozen)}")
            if _is_itself(value):
                seen[names] = value
        for owner, name, frozen, where in self.references:
            value = getattr(owner, name, MISSING)
            if value is not frozen and not agree(freeze(value, tree.paths), frozen):
                return Change(f"`{name}` of {_name_of(owner)}", f"was {_show(frozen)}", where, (name, id(owner)))
        return None

    def first_option(self, tree: TreeIndex) -> Change | None:
        """Return the first option of one of torch's own layers that is no longer as recorded, or None."""
        found = None if self.layers is None else tree.layers.first_change(self.layers)
        if found is None:
            return None
        path, name, was = found
        return Change(f"`{path or 'the model'}.{name}`", f"was {_show(was)}", "", (path, name))

    def forget_changed(self, tree: TreeIndex) -> None:
        """Leave out what is no longer as recorded: what forward changes itself is no condition of what follows."""

        def holds(owner: Any, name: str, frozen: Any) -> bool:
            value = getattr(owner, name, MISSING)
            return value is frozen or agree(freeze(value, tree.paths), frozen)

        own, outside, modules = self.attributes.items(), self.globals.items(), tree.modules
        self.attributes = {key: was for key, was in own if was is INHERITED or holds(modules.get(key[0]), key[1], was)}
        self.globals = {names: was for names, was in outside if agree(freeze(follow(names), tree.paths), was)}
        self.references = [known for known in self.references if holds(*known[:3])]

    def changed_numbers(self, tree: TreeIndex) -> Iterator[tuple[Source, tuple[float, float]]]:
        """Yield the attributes that were a number and are another now, with both."""
        for key, frozen in self.attributes.items():
            if type(frozen) is float and key[0] in tree.modules:
                value = getattr(tree.modules[key[0]], key[1], MISSING)
                if type(value) is float and value != frozen:
                    yield Read(*key), (frozen, value)

    def agrees(self, other: StateGuards) -> bool:
        """Return whether a run in evaluation mode, all of it, found the same state else, as far as both read it."""
        if self.patched != other.patched or self.layers != other.layers:
            return False
        if any(value for (_, name), value in other.attributes.items() if name == "training"):
            return False
        own = (item for item in self.attributes.items() if item[0][1] != "training")
        return all(other.attributes.get(key, value) == value for key, value in own)

    def _unlike(self, tree: TreeIndex) -> Iterable[_Watched]:
        """Return the attributes that may be other values than were read, with their owners' tables; asked for in C."""
        attributes, found, owners, names, values, others, _ = tree.watched.get(id(self), (None, *[[]] * 5, {}))
        if attributes is not self.attributes or len(found) != len(attributes):
            tables = {path: vars(tree.modules[path]) for path, _ in self.attributes if path in tree.modules}
            items = self.attributes.items()
            found = [(tables.get(path, {}), path, name, frozen) for (path, name), frozen in items]
            alike = [known for known in found if known[0].get(known[2], INHERITED) is known[3]]
            others = [known for known in found if known[0].get(known[2], INHERITED) is not known[3]]
            owners, names, values = ([known[at] for known in alike] for at in (0, 2, 3))
            if len(tree.watched) > _WATCHED:  # of captures that nobody holds any more
                tree.watched.clear()
            tree.watched[id(self)] = (self.attributes, found, owners, names, values, others, {})
        hold = all(map(operator.is_, map(dict.get, owners, names, repeat(INHERITED)), values))
        return cast("list[_Watched]", others if hold else found)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the objects outside the model: in another process they are others, and nothing holds."""
        kept = [(None, name, Kind("of another process"), where) for _, name, _, where in self.references]
        return {**vars(self), "references": kept}

    def add(self, other: StateGuards) -> None:
        """Hold to what another run of the same path read, too."""
        self.attributes = {**other.attributes, **self.attributes}
        self.globals = {**other.globals, **self.globals}
        self.numbers, self.conditions = {**other.numbers, **self.numbers}, {**other.conditions, **self.conditions}
        for reference in other.references:
            self.note_reference(*reference)


def _is_itself(value: Any) -> bool:
    """Return whether nothing but its identity counts of a value: of a function without defaults, or of a class."""
    is_plain = type(value) is FunctionType and value.__defaults__ is None and value.__kwdefaults__ is None
    return is_plain or issubclass(type(value), type)


def _is_code(frozen: Any) -> bool:
    """Return whether a picture is that of a function, a class or a module."""
    return isinstance(frozen, Kind | Same) or (type(frozen) is tuple and frozen[:1] == ("function or class",))


def _holds_same(value: Any, frozen: Any) -> bool:
    """Tell at once that a list or tuple holds the very items that it did, where these are plain."""
    if type(value) not in (list, tuple) or type(frozen) is not tuple or frozen[0] is not type(value):
        return False
    return len(value) == len(frozen[1]) and all(map(operator.is_, value, frozen[1]))


def follow(names: tuple[str, ...]) -> Any:
    """Return what a Python module's name, a global's in it and attributes below lead to now, or that it is missing."""
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
