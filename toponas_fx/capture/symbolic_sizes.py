"""Sizes that stay symbolic: integers that remember which node computes them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol

from torch import fx


class SizeLog(Protocol):
    """What sizes report to."""

    def emit_size(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        """Make the node of an operation on sizes."""

    def saw_size(self, use: str, *sizes: Any) -> None:
        """A size is used for more than arithmetic: what follows may hold for this one only."""


class RecordedInt(int):
    """An integer of the recorded run, with the node that computes it in another run, made when first needed.

    A ``torch.Size`` holds such integers as they are, so the sizes that forward sees are true ones; what torch computes
    from one itself, as ``x.shape.numel()`` is, gives plain numbers.

    What Python does with it besides arithmetic (comparisons, ``range``, ``int()``, indexing a list) holds for this
    size only: a program runs for sizes of inputs with which forward was seen to take its path, or of which two runs
    at two of them show that they do not matter. Where the difference might not show in those, it is logged.
    """

    _log: SizeLog
    _make: Callable[[], fx.Node]
    _node: fx.Node | None

    @classmethod
    def of(cls, value: int, log: SizeLog, make: Callable[[], fx.Node]) -> RecordedInt:
        """Wrap ``value``; ``make`` emits its node, ``log`` those of what is computed from it."""
        self = cls(value)
        self._log, self._make, self._node = log, make, None
        return self

    @property
    def node(self) -> fx.Node:
        """The node that computes this number."""
        if self._node is None:
            self._node = self._make()
        return self._node

    def _arithmetic(self, target: Any, left: Any, right: Any) -> Any:
        value = target(plain_int(left), plain_int(right))
        return RecordedInt.of(value, self._log, lambda: self._log.emit_size(target, (left, right)))

    def __reduce__(self) -> Any:
        return int, (plain_int(self),)

    def __hash__(self) -> int:
        self._log.saw_size("hash", plain_int(self))  # a table that has neither of two sizes may have others
        return hash(plain_int(self))

    def __neg__(self) -> Any:
        return self._arithmetic(operator.sub, 0, self)


def _forward_operator(target: Any, left_name: str, right_name: str) -> None:
    def left(self: RecordedInt, other: Any) -> Any:
        return self._arithmetic(target, self, other) if isinstance(other, int) else NotImplemented

    def right(self: RecordedInt, other: Any) -> Any:
        return self._arithmetic(target, other, self) if isinstance(other, int) else NotImplemented

    setattr(RecordedInt, left_name, left)
    setattr(RecordedInt, right_name, right)


def plain_int(size: int) -> int:
    """Return a size as an integer that remembers nothing; ``int()`` is the user's, and logged."""
    return int.__add__(size, 0)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _forward_operator(getattr(operator, _name), f"__{_name}__", f"__r{_name}__")


def _logged(name: str) -> None:
    of_int = getattr(int, name)

    def use(self: RecordedInt, *others: Any) -> Any:
        self._log.saw_size(name, plain_int(self), *(plain_int(o) if isinstance(o, int) else repr(o) for o in others))
        return of_int(self, *others)

    setattr(RecordedInt, name, use)


for _name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "int", "float", "truediv", "rtruediv", "pow", "rpow"):
    _logged(f"__{_name}__")
for _name in ("lshift", "rlshift", "rshift", "rrshift", "and", "rand", "or", "ror", "xor", "rxor", "divmod", "rdivmod"):
    _logged(f"__{_name}__")
for _name in ("invert", "abs", "round", "trunc", "ceil", "floor", "repr", "str", "format"):
    _logged(f"__{_name}__")
_logged("bit_length")
