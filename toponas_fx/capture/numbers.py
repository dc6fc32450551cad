"""Numbers that stay symbolic: a temperature that is another at each step enters the graph as a value that it reads.

A number that a module holds, and that was seen to change, is handed to forward as a ``float`` that remembers how it was
reached. Arithmetic with it gives more of these, and torch calls that take one take a node of the graph. What Python
asks of it is a condition (``if self.drop_prob > 0``): it is asked again at each call. All other uses (``int()``, a
text, a table looked up by it) hold for this number only; where there is one, the number stays a constant.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, Protocol

from torch import fx

from toponas_fx.capture.tree_index import TreeIndex

Key = tuple[str, str]
"""Which number: the path of a module, and the name of its attribute."""


@dataclass(frozen=True)
class Read:
    """A number that a module holds.

    Attributes:
        path: of the module.
        name: of its attribute.
    """

    path: str
    name: str

    @property
    def target(self) -> str:
        """Where a graph reads it."""
        return f"{self.path}.{self.name}" if self.path else self.name

    def reads(self) -> Iterator[Read]:
        """Yield itself."""
        yield self

    def value(self, read: Reader) -> Any:
        """Return the number."""
        return read(self)

    def __str__(self) -> str:
        """Name it."""
        return f"`{self.path or 'the model'}.{self.name}`"


@dataclass(frozen=True)
class Computed:
    """What arithmetic makes of numbers.

    Attributes:
        target: a function of ``operator``.
        args: what it takes: numbers, read ones, computed ones.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]

    def reads(self) -> Iterator[Read]:
        """Yield the numbers of modules that it is made of."""
        for part in self.args:
            if isinstance(part, Read | Computed):
                yield from part.reads()

    def value(self, read: Reader) -> Any:
        """Return the result; ``read`` gives the numbers of modules."""
        return self.target(*(part.value(read) if isinstance(part, Read | Computed) else part for part in self.args))

    def __str__(self) -> str:
        """Write it as a call."""
        return f"{self.target.__name__}({', '.join(map(str, self.args))})"


@dataclass(frozen=True)
class Condition:
    """What Python asked of a number, and the answer that the recorded run got."""

    asked: Computed
    answer: bool

    def holds(self, read: Reader) -> bool:
        """Ask again; an error is another answer."""
        try:
            return bool(self.asked.value(read)) is self.answer
        except (ArithmeticError, TypeError, ValueError):
            return False


Reader = Callable[[Read], Any]


def present(tree: TreeIndex) -> Reader:
    """Return what reads the numbers that the modules of a tree have now."""
    return lambda read: getattr(tree.modules[read.path], read.name)


def others_like(
    numbers: Mapping[Key, float], known: Mapping[Key, Sequence[float]], conditions: Collection[Condition]
) -> dict[Key, float] | None:
    """Return other values that numbers may have where all conditions hold; None where there seem to be none.

    Args:
        numbers: their values, by module path and name.
        known: values that they had at some time: these come first.
        conditions: that hold for their values.
    """
    found = {}
    for key, value in numbers.items():
        tried = [*known.get(key, ()), *(value * factor if value else factor - 1 for factor in _FACTORS)]
        for other in tried:
            if other != value and _hold(conditions, {**numbers, key: other}):
                found[key] = other
                break
    return found if found.keys() == numbers.keys() and _hold(conditions, found) else None


_FACTORS = (1.5, 0.6, 1.1, 0.9, 1.01, 0.99, 1.001, 0.999)


def _hold(conditions: Collection[Condition], numbers: Mapping[Key, float]) -> bool:
    return all(condition.holds(lambda read: numbers[read.path, read.name]) for condition in conditions)


class NumberLog(Protocol):
    """What numbers report to."""

    def emit_number(self, expression: Read | Computed) -> fx.Node:
        """Make the node that computes a number."""

    def saw_condition(self, asked: Computed, answer: bool) -> None:
        """Python asks something of a number."""

    def saw_value(self, expression: Read | Computed) -> None:
        """A number is used such that what follows may hold for this one only."""


class RecordedFloat(float):
    """A number of the recorded run, with how it is computed in another run."""

    _log: NumberLog
    expression: Read | Computed

    @classmethod
    def of(cls, value: float, log: NumberLog, expression: Read | Computed) -> RecordedFloat:
        """Wrap ``value``, which ``expression`` computes."""
        self = cls(value)
        self._log, self.expression = log, expression
        return self

    @property
    def node(self) -> fx.Node:
        """The node that computes this number."""
        return self._log.emit_number(self.expression)

    def used(self) -> float:
        """Note that it is used as a number that stays as it is, and return that."""
        self._log.saw_value(self.expression)
        return plain_float(self)

    def __reduce__(self) -> Any:
        return float, (self.used(),)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        self.used()
        return getattr(ufunc, method)(*(plain_float(x) if isinstance(x, float) else x for x in inputs), **options)

    def __array__(self, *args: Any, **options: Any) -> Any:
        import numpy

        return numpy.asarray(self.used(), *args)


def plain_float(number: float) -> float:
    """Return a number that remembers nothing; ``float()`` is the user's, and seen."""
    return float.__pos__(number) if type(number) is float else float.__add__(number, -0.0)


def _plain(number: Any) -> Any:
    return plain_float(number) if isinstance(number, RecordedFloat) else number


def _expression(number: Any) -> Any:
    return number.expression if isinstance(number, RecordedFloat) else number


def _compute(target: Callable[..., Any], *numbers: Any) -> Any:
    """Compute with numbers, of which one at least is recorded."""
    if not all(type(number) in (int, float, bool, RecordedFloat) for number in numbers):
        return NotImplemented
    value = target(*map(_plain, numbers))
    log = next(number._log for number in numbers if isinstance(number, RecordedFloat))
    expression = Computed(target, tuple(map(_expression, numbers)))
    if type(value) is float:
        return RecordedFloat.of(value, log, expression)
    if type(value) is bool:
        log.saw_condition(expression, value)
    else:  # a power may be complex
        log.saw_value(expression)
    return value


def _arithmetic(name: str) -> None:
    target = getattr(operator, name)
    _question(name)
    setattr(RecordedFloat, f"__r{name}__", lambda self, other: _compute(target, other, self))


def _question(name: str) -> None:
    target = getattr(operator, name)
    setattr(RecordedFloat, f"__{name}__", lambda self, other: _compute(target, self, other))


def _unary(name: str, target: Callable[..., Any]) -> None:
    setattr(RecordedFloat, name, lambda self: _compute(target, self))


def _used(name: str) -> None:
    of_float = getattr(float, name)
    setattr(RecordedFloat, name, lambda self, *others: of_float(self.used(), *map(_plain, others)))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _arithmetic(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _question(_name)
for _name, _target in (("neg", operator.neg), ("pos", operator.pos), ("abs", operator.abs), ("bool", operator.truth)):
    _unary(f"__{_name}__", _target)
for _name in ("float", "int", "trunc", "floor", "ceil", "round", "hash", "repr", "str", "format", "divmod", "rdivmod"):
    _used(f"__{_name}__")
for _name in ("real", "imag"):
    setattr(RecordedFloat, _name, property(functools.partial(lambda name, self: getattr(self.used(), name), _name)))
for _name in ("is_integer", "hex", "as_integer_ratio", "conjugate", "__getnewargs__"):
    _used(_name)


_LETTING_THROUGH = frozenset(
    "len isinstance issubclass range enumerate zip list tuple dict set frozenset getattr hasattr setattr min max abs "
    "sum any all sorted reversed map filter print super type id iter next callable vars property staticmethod float "
    "classmethod int bool str repr round pow divmod slice object hash format locals globals __build_class__".split()
)
"""Python's own functions that ask a number openly, or do nothing with its value."""
_OPEN = frozenset(
    "torch torchvision toponas_fx typing itertools functools collections logging warnings contextlib copy enum abc "
    "dataclasses types __future__".split()
)
"""Libraries whose functions do so too."""
_OF_NUMBERS = ("numpy", "scipy", "statistics", "decimal", "fractions")
"""Libraries whose functions and classes, in Python too, lead to C at once."""
_FORMAT = re.compile(r"%[-+ #0-9.*]*[a-zA-Z]")


def _owner(value: Any) -> str:
    """Return the library that a value is of, by its first name."""
    held = getattr(value, "__self__", None)
    of_held = held.__name__ if isinstance(held, ModuleType) else getattr(held, "__module__", None)
    return str(getattr(value, "__module__", None) or of_held or "").split(".")[0]


def may_hide(code: CodeType, reached: Iterator[tuple[tuple[str, ...], Any]]) -> bool:
    """Tell whether something in code may look at a number unseen: C's functions read its value at once.

    Args:
        code: of the user's, that ran.
        reached: what its names lead to.
    """
    texts = (text for text in code.co_consts if isinstance(text, str))
    return any(_FORMAT.search(text) for text in texts) or any(_looks_inside(value) for _, value in reached)


def _looks_inside(value: Any) -> bool:
    """Tell whether a function or class may take the value of a number that it is given, unseen."""
    owner, kind = _owner(value), type(value).__name__
    if owner in _OPEN or (owner == "builtins" and getattr(value, "__name__", "") in _LETTING_THROUGH):
        return False
    if isinstance(value, type):
        return owner in ("builtins", *_OF_NUMBERS) and not issubclass(value, BaseException)
    if isinstance(value, FunctionType):
        return owner in _OF_NUMBERS
    return isinstance(value, BuiltinFunctionType) or kind == "ufunc"
