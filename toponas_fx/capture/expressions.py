"""How a number is reached again in another run: read of a module, given to forward, or computed from such ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toponas_fx.module_tree.index import TreeIndex


class _Leaf:
    """A number that is not computed from others."""

    def reads(self: Any) -> Iterator[Source]:
        """Yield itself."""
        yield self

    def value(self: Any, read: Reader) -> Any:
        """Return the number."""
        return read(self)


@dataclass(frozen=True)
class Read(_Leaf):
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

    def __str__(self) -> str:
        """Name it."""
        return f"`{self.path or 'the model'}.{self.name}`"


@dataclass(frozen=True)
class Given(_Leaf):
    """A number that forward is given.

    Attributes:
        position: among the floats of the call's arguments.
    """

    position: int

    def __str__(self) -> str:
        """Name it."""
        return f"number {self.position} of forward's arguments"


Source = Read | Given


@dataclass(frozen=True)
class Computed:
    """What arithmetic makes of numbers.

    Attributes:
        target: a function of ``operator``.
        args: what it takes: numbers, read ones, computed ones.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]

    def reads(self) -> Iterator[Source]:
        """Yield the numbers that it is made of."""
        for part in self.args:
            if isinstance(part, Expression):
                yield from part.reads()

    def value(self, read: Reader) -> Any:
        """Return the result; ``read`` gives the numbers that it is made of."""
        return self.target(*(part.value(read) if isinstance(part, Expression) else part for part in self.args))

    def __str__(self) -> str:
        """Write it as a call."""
        return f"{self.target.__name__}({', '.join(map(str, self.args))})"


Expression = Read | Given | Computed


@dataclass(frozen=True)
class Condition:
    """What Python asked of a number, and the answer that the recorded run got; ``float`` where one was computed."""

    asked: Computed
    answer: bool | type

    @property
    def told(self) -> str:
        """The answer, in words."""
        return f"was {self.answer}" if isinstance(self.answer, bool) else "was a float"

    def holds(self, read: Reader) -> bool:
        """Ask again; an error is another answer."""
        try:
            value = self.asked.value(read)
            return value is self.answer or type(value) is self.answer
        except (ArithmeticError, TypeError, ValueError):
            return False


Reader = Callable[[Source], Any]
Numbers = Mapping[Source, float]
NO_NUMBERS: Numbers = {}


def present(tree: TreeIndex, given: Sequence[float] = ()) -> Reader:
    """Return what reads the numbers that the modules of a tree have now, and those that forward is given."""

    def read(source: Source) -> Any:
        if isinstance(source, Given):
            return given[source.position]
        return getattr(tree.modules.get(source.path), source.name, None)

    return read


def others_like(
    numbers: Numbers, known: Mapping[Source, Sequence[float]], conditions: Collection[Condition]
) -> dict[Source, float] | None:
    """Return other values that numbers may have where all conditions hold; None where there seem to be none.

    Args:
        numbers: their values.
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


def _hold(conditions: Collection[Condition], numbers: Numbers) -> bool:
    return all(condition.holds(numbers.__getitem__) for condition in conditions)
