"""What the compiler is to know of each function that rewritten graphs call: one entry, above the function itself.

Analyses and passes ask ``facts`` and need not name the functions. What is not said is the usual: a function without
effects, whose result is data of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Operation:
    """The facts of one function; positions are those of its arguments.

    Attributes:
        family: ``"convolution"``, ``"norm"``, ``"activation"`` or ``"pooling"``, by which costs are told; or nothing.
        label: the name for people, where it is not the function's own.
        has_effect: whether running it does more than give a value: it counts, draws, or ends the run. It is neither
            removed when unread nor merged with an equal one.
        draws: whether it draws from a random generator.
        gives_data: False where its result is an answer (a truth value), no part of what is computed.
        norm: the position of the norm that it runs, or of a list of norms.
        scale: of the weight that its result carries.
        window: of the size of its windows; their stride comes next.
        keeps_input: whether the backward pass needs its first argument.
        may_pass_on: whether it may return the very tensor that it is given.
        keeps_layouts: whether the gradients to its operands lie in memory as these do, however the images lie.
    """

    family: str = ""
    label: str = ""
    has_effect: bool = False
    draws: bool = False
    gives_data: bool = True
    norm: int | None = None
    scale: int | None = None
    window: int | None = None
    keeps_input: bool = False
    may_pass_on: bool = False
    keeps_layouts: bool = False


_KNOWN: dict[Hashable, Operation] = {}
_UNKNOWN = Operation()


def operation(**given: Any) -> Callable[[_Function], _Function]:
    """Enter a function that graphs call; the keywords are the attributes of ``Operation``."""

    def enter(function: _Function) -> _Function:
        _KNOWN[function] = Operation(**given)
        return function

    return enter


def facts(target: Any) -> Operation:
    """Return what is known of a node's target; of one that is not entered, a method's name say, nothing unusual."""
    return _KNOWN.get(target, _UNKNOWN)


def operations() -> Iterator[tuple[Any, Operation]]:
    """Yield each function that is entered, with its facts."""
    yield from _KNOWN.items()
