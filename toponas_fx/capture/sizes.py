"""Sizes that stay symbolic: integers that remember which node computes them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, SupportsIndex, overload

from torch import fx


class SizeLog:
    """What the recorder offers to its sizes: a node for an operation, and a guard on a comparison."""

    def __init__(
        self, emit: Callable[[Any, tuple[Any, ...]], fx.Node], compare: Callable[[Any, tuple[Any, ...], bool], None]
    ) -> None:
        """Take the two callbacks: ``emit(target, args)`` makes a node, ``compare(target, args, answer)`` a guard."""
        self.emit = emit
        self.compare = compare


class RecordedInt(int):
    """An integer of the recorded run, with the node that computes it in another run, made when first needed."""

    _log: SizeLog
    _make: Callable[[], fx.Node]
    _node: fx.Node | None

    @classmethod
    def of(cls, value: int, log: SizeLog, make: Callable[[], fx.Node]) -> RecordedInt:
        """Wrap ``value``; ``make`` emits its node."""
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
        value = target(int(left), int(right))
        return RecordedInt.of(value, self._log, lambda: self._log.emit(target, (left, right)))

    def _comparison(self, target: Any, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        answer = bool(target(int(self), int(other)))
        self._log.compare(target, (self, other), answer)
        return answer

    def __eq__(self, other: object) -> Any:
        return self._comparison(operator.eq, other)

    def __ne__(self, other: object) -> Any:
        return self._comparison(operator.ne, other)

    def __lt__(self, other: Any) -> Any:
        return self._comparison(operator.lt, other)

    def __le__(self, other: Any) -> Any:
        return self._comparison(operator.le, other)

    def __gt__(self, other: Any) -> Any:
        return self._comparison(operator.gt, other)

    def __ge__(self, other: Any) -> Any:
        return self._comparison(operator.ge, other)

    def __bool__(self) -> bool:
        answer: bool = self._comparison(operator.ne, 0)
        return answer

    def __hash__(self) -> int:
        return int.__hash__(self)

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
