"""Sizes that stay symbolic: integers that remember which node computes them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, SupportsIndex, overload

from torch import fx

Emit = Callable[[Any, tuple[Any, ...]], fx.Node]
"""``emit(target, args)`` makes the node of an operation on sizes."""


class RecordedInt(int):
    """An integer of the recorded run, with the node that computes it in another run, made when first needed.

    What Python does with it besides arithmetic (comparisons, ``range``, ``int()``, indexing a list) holds for this
    size only: a program runs for sizes of inputs with which forward was seen to take its path.
    """

    _emit: Emit
    _make: Callable[[], fx.Node]
    _node: fx.Node | None

    @classmethod
    def of(cls, value: int, emit: Emit, make: Callable[[], fx.Node]) -> RecordedInt:
        """Wrap ``value``; ``make`` emits its node, ``emit`` those of what is computed from it."""
        self = cls(value)
        self._emit, self._make, self._node = emit, make, None
        return self

    @property
    def node(self) -> fx.Node:
        """The node that computes this number."""
        if self._node is None:
            self._node = self._make()
        return self._node

    def _arithmetic(self, target: Any, left: Any, right: Any) -> Any:
        value = target(int(left), int(right))
        return RecordedInt.of(value, self._emit, lambda: self._emit(target, (left, right)))

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __neg__(self) -> Any:
        return self._arithmetic(operator.sub, 0, self)


def _forward_operator(target: Any, left_name: str, right_name: str) -> None:
    def left(self: RecordedInt, other: Any) -> Any:
        return self._arithmetic(target, self, other) if isinstance(other, int) else NotImplemented

    def right(self: RecordedInt, other: Any) -> Any:
        return self._arithmetic(target, other, self) if isinstance(other, int) else NotImplemented

    setattr(RecordedInt, left_name, left)
    setattr(RecordedInt, right_name, right)


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _forward_operator(getattr(operator, _name), f"__{_name}__", f"__r{_name}__")


class RecordedSize(tuple[int, ...]):
    """A ``torch.Size`` of recorded integers (``torch.Size`` itself would unwrap them)."""

    def numel(self) -> int:
        """The product of all sizes."""
        total = 1
        for size in self:
            total = total * size
        return total

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> RecordedSize: ...

    def __getitem__(self, index: SupportsIndex | slice) -> int | RecordedSize:
        found = super().__getitem__(index)
        return RecordedSize(found) if isinstance(found, tuple) else found
