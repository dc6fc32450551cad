"""Finding the user's line that draws from a generator which no graph can repeat."""

from __future__ import annotations

from types import FrameType
from typing import Any

from toponas_fx.capture.advice import DRAW
from toponas_fx.errors import ForeignDrawError
from toponas_fx.module_tree.isolation import foreign_generators


def why_foreign(before: tuple[Any, Any], where: str, place: str = "") -> ForeignDrawError | None:
    """Return the error that says which of Python's and numpy's generators left a state, or None where none did.

    Args:
        before: the states, from ``foreign_generators``.
        where: ``file:line`` of the user's code.
        place: where the draw is, seen from there.
    """
    for name, state, now in zip(("Python", "numpy"), before, foreign_generators(), strict=True):
        if now != state and state is not None:
            return ForeignDrawError(f"{name}'s random generator is used{place}; {DRAW}", where)
    return None


class DrawFinder:
    """Looks at the generators after every line of the user's, as a local trace function: slow, and only when asked for.

    Attributes:
        found: the first draw.
    """

    def __init__(self) -> None:
        """Begin with the generators as they are."""
        self.found: ForeignDrawError | None = None
        self._before = foreign_generators()
        self._line = ""

    def on_event(self, frame: FrameType, event: str, _: Any) -> Any:
        """Check what the line before did; a call is part of its caller's line until the callee's first."""
        if self.found is None and event in ("line", "return"):
            self.found = why_foreign(self._before, self._line)
            outer = frame.f_back if event == "return" else frame
            self._line = "" if outer is None else f"{outer.f_code.co_filename}:{outer.f_lineno}"
        return self.on_event
