"""Numbers and names that are choices, as Python gets them while a run is recorded: each use of one is seen."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree


class RecordedChoice:
    """An integer that Python read from a draw: it tells where it is used, for there the run goes one of several ways.

    It is no ``int``, though it says so: C's functions ask any other object for its number, and nothing is used unseen.
    """

    def __init__(self, value: Any, saw: Callable[[], None] | None = None) -> None:
        """Wrap ``value``; ``saw`` is called at each use."""
        self.value, self.saw = value, saw

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return int

    def used(self) -> Any:
        """Tell that it is used, and return the number."""
        if self.saw is not None:
            self.saw()
        return self.value

    def __reduce__(self) -> Any:
        return int, (self.used(),)


class RecordedReal(RecordedChoice):
    """A float that Python read from a draw, likewise: a weight of a one-hot row."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return float

    def __reduce__(self) -> Any:
        return float, (self.used(),)


_UNSEEN = "\0a choice that was read unseen"


class RecordedName(str):
    """A name that a module keeps and that is a choice; like a ``RecordedChoice``, it tells where it is used.

    C's functions that take a text as it is (``str.join``) do not ask: what they find is no name at all.
    """

    value: str
    saw: Callable[[], None] | None

    @classmethod
    def of(cls, value: str, saw: Callable[[], None] | None = None) -> RecordedName:
        """Wrap ``value``; ``saw`` is called at each use."""
        self = str.__new__(cls, _UNSEEN)
        self.value, self.saw = value, saw
        return self

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return str

    def used(self) -> str:
        """Tell that it is used, and return the name."""
        if self.saw is not None:
            self.saw()
        return self.value

    def __reduce__(self) -> Any:
        return str, (self.used(),)


def numbers_in(value: Any) -> Any:
    """Return what is given, with numbers and names in the places of choices, all of which are used so."""
    return pytree.tree_map_only((RecordedChoice, RecordedName), lambda choice: choice.used(), value)


def _telling(kind: type, name: str, function: Callable[..., Any]) -> None:
    def use(self: Any, *others: Any, **options: Any) -> Any:
        return function(*numbers_in((self, *others)), **options)

    setattr(kind, name, use)


def _telling_reflected(kind: type, name: str, function: Callable[..., Any]) -> None:
    _telling(kind, name, lambda value, other: function(other, value))


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _telling(RecordedChoice, f"__{_name}__", getattr(operator, _name))
    _telling(RecordedName, f"__{_name}__", getattr(operator, _name))
for _name in "add sub mul floordiv mod truediv lshift rshift and or xor divmod pow".split():
    _function: Any = {"divmod": divmod, "pow": pow}.get(_name) or getattr(operator, f"__{_name}__")
    _telling(RecordedChoice, f"__{_name}__", _function)
    _telling_reflected(RecordedChoice, f"__r{_name}__", _function)
for _name in "hash bool int index float repr str format neg pos abs invert trunc floor ceil round".split():
    _telling(RecordedChoice, f"__{_name}__", getattr(int, f"__{_name}__"))
    if _name not in ("index", "invert"):
        _telling(RecordedReal, f"__{_name}__", getattr(float, f"__{_name}__"))
for _name in ("bit_length", "conjugate"):
    _telling(RecordedChoice, _name, getattr(int, _name))
for _name in ("is_integer", "as_integer_ratio", "hex"):
    _telling(RecordedReal, _name, getattr(float, _name))
for _name in "hash repr str format add mul mod rmul len contains iter getitem".split():
    _telling(RecordedName, f"__{_name}__", getattr(str, f"__{_name}__"))
for _name in (name for name in dir(str) if name[0] != "_"):
    _telling(RecordedName, _name, getattr(str, _name))
for _name, _function in (("int", int), ("float", float), ("bool", bool)):
    _telling(RecordedName, f"__{_name}__", _function)
_telling_reflected(RecordedName, "__radd__", operator.add)
_telling_reflected(RecordedName, "__rmod__", operator.mod)
