"""The errors of this package: one tree, so that ``except ToponasError`` catches all of it and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ToponasError(Exception):
    """Base of every error that this package raises by itself; a user's own exceptions pass through untouched."""


class ArgumentError(ToponasError):
    """An argument of a public function cannot be used as given."""


class InputError(ToponasError):
    """The example inputs do not fit the model's forward, or could not be inferred."""


class CaptureError(ToponasError):
    """One run of forward could not be recorded as a graph.

    Attributes:
        where: ``file:line`` in the user's code, or an empty string where no frame of it was on the stack.
        guards: the Python state that forward had read by then, ``StateGuards``; None where nobody noted it.
    """

    guards: Any = None

    def __init__(self, message: str, where: str = "") -> None:
        """Join the sentence with the user's file and line, where there is one."""
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where


class ForeignDrawError(CaptureError):
    """Forward drew from Python's or numpy's random generator."""


class CountError(CaptureError):
    """Forward left another integer in an attribute than it read there: it counts, unless the next run finds it settled.

    Attributes:
        left: the table of attributes, the name and what forward left there, of each plain value that it wrote.
    """

    left: Sequence[tuple[dict[str, Any], str, Any]] = ()

    def leaving(self, left: Sequence[tuple[dict[str, Any], str, Any]]) -> CountError:
        """Note what forward left, and return the error."""
        self.left = left
        return self


class NotReadyError(CaptureError):
    """Forward failed for want of state that the search loop sets later."""


class GuardFailure(ToponasError):
    """A recorded answer no longer holds in this run; the model reacts by capturing again."""


class PassError(ToponasError):
    """A pass failed, or did not come to an end; carries the graph around the node in its text.

    Attributes:
        passes: the passes at fault, of which one fails or all have no end; empty where the captured graph was broken.
    """

    passes: tuple[Any, ...] = ()

    @property
    def short(self) -> str:
        """What failed and how, in one line."""
        names = ", ".join(f"pass '{pass_.name}'" for pass_ in self.passes)
        cause = self.__cause__ or self
        return f"{names or 'the capture'} failed ({type(cause).__name__}: {(str(cause).splitlines() or [''])[0]})"


class PreconditionError(PassError):
    """A pass was placed where what it requires does not hold."""


class VerificationError(PassError):
    """The graph that a pass left behind is not well formed."""
