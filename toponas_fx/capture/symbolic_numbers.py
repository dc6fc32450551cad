"""Numbers that stay symbolic: a temperature that is another at each step enters the graph as a value that it reads.

A number that a module holds, or that forward is given, and that was seen to change, is handed to forward as a
``float`` that remembers how it was reached. Arithmetic with it gives more of these, and torch calls that take one take
a node of the graph. What Python asks of it is a condition (``if self.drop_prob > 0``): it is asked again at each call.
All other uses (``int()``, a text, a table looked up by it) hold for this number only; where there is one, the number
stays a constant.
"""

from __future__ import annotations

import functools
import operator
import random
import re
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Protocol

from torch import fx

from toponas_fx.capture.expressions import Computed, Expression
from toponas_fx.capture.symbolic_sizes import RecordedInt
from toponas_fx.module_tree.snapshots import MISSING
from toponas_fx.module_tree.tensor_paths import is_library


class NumberLog(Protocol):
    """What numbers report to."""

    is_live: bool
    """False once the recorded run has ended: a number that somebody kept is a plain one from then on."""

    def emit_number(self, expression: Expression) -> fx.Node:
        """Make the node that computes a number."""

    def saw_condition(self, asked: Computed, answer: bool | type) -> None:
        """Python asks something of a number, and gets an answer; or computes what is a float for some numbers only."""

    def saw_value(self, expression: Expression) -> None:
        """A number is used such that what follows may hold for this one only."""


class RecordedFloat(float):
    """A number of the recorded run, with how it is computed in another run."""

    _log: NumberLog
    expression: Expression

    def __new__(cls, value: Any = 0.0) -> Any:
        """Make a plain number, as code does that calls the type of one."""
        return float(value)

    @classmethod
    def of(cls, value: float, log: NumberLog, expression: Expression) -> RecordedFloat:
        """Wrap ``value``, which ``expression`` computes."""
        self = float.__new__(cls, value)
        self._log, self.expression = log, expression
        return self

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return float

    @property
    def argument(self) -> fx.Node | float:
        """The node that computes this number; the number itself once its run has ended."""
        return self._log.emit_number(self.expression) if self._log.is_live else plain_float(self)

    def used(self) -> float:
        """Note that it is used as a number that stays as it is, and return that."""
        if self._log.is_live:
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
    if type(number) is not RecordedFloat:
        return number
    return number.expression if number._log.is_live else plain_float(number)


def compute(target: Callable[..., Any], *numbers: Any) -> Any:
    """Compute with numbers, of which one at least is recorded; ``NotImplemented`` where another is no number."""
    numbers = tuple(float(number) if type(number) is RecordedInt else number for number in numbers)
    if any(type(number) is complex for number in numbers):  # whose own methods would not ask
        return target(*(number.used() if type(number) is RecordedFloat else number for number in numbers))
    if not all(type(number) in (int, float, bool, RecordedFloat) for number in numbers):
        return NotImplemented
    try:
        value = target(*map(_plain, numbers))
    except ArithmeticError:  # which the code may catch, and go another way
        for number in numbers:
            if type(number) is RecordedFloat:
                number.used()
        raise
    log = next((number._log for number in numbers if type(number) is RecordedFloat and number._log.is_live), None)
    if log is None:
        return value
    expression = Computed(target, tuple(map(_expression, numbers)))
    if type(value) is float:
        if target in _PARTIAL or getattr(target, "__module__", "") == "math":
            log.saw_condition(expression, float)
        return RecordedFloat.of(value, log, expression)
    if type(value) is bool:
        log.saw_condition(expression, value)
    else:  # a power may be complex
        log.saw_value(expression)
    return value


_PARTIAL = (operator.truediv, operator.floordiv, operator.mod, operator.pow)
"""Arithmetic that is an error, or no float, for some numbers."""


def _arithmetic(name: str) -> None:
    target = getattr(operator, name)
    _question(name)
    setattr(RecordedFloat, f"__r{name}__", lambda self, other: compute(target, other, self))


def _question(name: str) -> None:
    target = getattr(operator, name)
    setattr(RecordedFloat, f"__{name}__", lambda self, other: compute(target, self, other))


def _unary(name: str, target: Callable[..., Any]) -> None:
    setattr(RecordedFloat, name, lambda self: compute(target, self))


def _used(name: str) -> None:
    of_float = getattr(float, name)
    setattr(RecordedFloat, name, lambda self, *others: of_float(self.used(), *map(_plain, others)))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _arithmetic(_name)
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _question(_name)
for _name, _target in (("neg", operator.neg), ("abs", operator.abs), ("bool", operator.truth)):
    _unary(f"__{_name}__", _target)
RecordedFloat.__pos__ = lambda self: self  # type: ignore[method-assign]
for _name in ("float", "int", "trunc", "floor", "ceil", "round", "hash", "repr", "str", "format", "divmod", "rdivmod"):
    _used(f"__{_name}__")
for _name in ("real", "imag"):
    setattr(RecordedFloat, _name, property(functools.partial(lambda name, self: getattr(self.used(), name), _name)))
for _name in ("is_integer", "hex", "as_integer_ratio", "conjugate", "__getnewargs__"):
    _used(_name)


_LETTING_THROUGH = frozenset(
    "len isinstance issubclass range enumerate zip list tuple dict set frozenset getattr hasattr setattr min max abs "
    "sum any all sorted reversed map filter print super id iter next callable vars property staticmethod float "
    "classmethod int bool str repr round pow divmod slice object hash format locals globals __build_class__".split()
)
"""Python's own functions that ask a number openly, or do nothing with its value."""
_OPEN = frozenset(
    "torch torchvision toponas_fx typing itertools functools collections logging warnings contextlib copy enum abc "
    "dataclasses types argparse __future__".split()
)
"""Libraries whose functions do so too."""
_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range, type(None), type(...))
_PYTHONS_GENERATOR: Any = random._inst
_FORMAT = re.compile(r"%(?:\([^)]*\))?[-+ #0-9.*]*[a-zA-Z]")
UNSEEN_READS = frozenset("__getattribute__ __getstate__ __reduce__ __reduce_ex__ getattr_static copy deepcopy".split())
"""Names of what reads the attributes of a module behind its back."""
_ASKING = "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __hash__ __repr__ __str__ __format__"
_METHODS = (frozenset(dir(float)) - frozenset(dir(object))) | frozenset(_ASKING.split()) | UNSEEN_READS
"""Methods of numbers, which code that calls them by name may take from another type than a recorded one's."""


def may_hide(code: CodeType, reached: Iterator[tuple[tuple[str, ...], Any]]) -> bool:
    """Return whether something in code may look at a number unseen: C's functions read its value at once.

    Args:
        code: of the user's, that ran.
        reached: what its names lead to.
    """
    texts = (text for text in code.co_consts if isinstance(text, str | bytes))
    if any(_FORMAT.search(text if isinstance(text, str) else text.decode("latin1")) for text in texts):
        return True
    return not _METHODS.isdisjoint(code.co_names) or any(looks_inside(value) for _, value in reached)


def looks_inside(value: Any) -> bool:
    """Return whether a value that forward reaches may take the value of a number, unseen: what is not known to be open.

    Known are code of the user's, which is looked at itself, torch, plain values and containers, and what asks openly.
    """
    if isinstance(value, _PLAIN) or value is MISSING:
        return False
    if isinstance(value, MethodType | BuiltinFunctionType) and value.__self__ is _PYTHONS_GENERATOR:
        return False  # what it draws is no number: any other draw is refused
    if isinstance(value, functools.partial | MethodType):
        return looks_inside(value.func if isinstance(value, functools.partial) else value.__func__)
    owner = _owner(value)
    if owner in _OPEN or not is_library(owner):
        return False
    if owner == "builtins":
        is_error = isinstance(value, type) and issubclass(value, BaseException)
        return not is_error and getattr(value, "__name__", "") not in _LETTING_THROUGH
    return not isinstance(value, ModuleType)


def _owner(value: Any) -> str:
    """Return the library that a function, a class, or the class of another value is of, by its first name."""
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0]
    if not isinstance(value, type | FunctionType | BuiltinFunctionType):
        return type(value).__module__.split(".")[0]
    held = getattr(value, "__self__", None)
    of_held = held.__name__ if isinstance(held, ModuleType) else getattr(held, "__module__", None)
    return str(getattr(value, "__module__", None) or of_held or "builtins").split(".")[0]
