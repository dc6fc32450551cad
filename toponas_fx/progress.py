"""Tell on a terminal what takes long: one line on stderr, from two seconds on, that is gone at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

DELAY = 2.0
"""Seconds before anything is told."""


@dataclass
class _Line:
    """What is going on.

    Attributes:
        title: the whole.
        start: when it began, in seconds.
        width: of what stands on the terminal.
    """

    title: str
    start: float
    width: int = 0


_LINE: ContextVar[_Line | None] = ContextVar("toponas_fx_progress", default=None)


@contextmanager
def progress(title: str) -> Iterator[None]:
    """Tell of the steps inside, within what is told of already where there is such."""
    if _LINE.get() is not None or not sys.stderr.isatty():
        yield
        return
    line = _Line(title, time.monotonic())
    token = _LINE.set(line)
    try:
        yield
    finally:
        _LINE.reset(token)
        _write(line, "")


def step(text: str) -> None:
    """Tell what begins now."""
    line = _LINE.get()
    if line is not None and time.monotonic() - line.start > DELAY:
        _write(line, f"toponas_fx: {line.title}: {text}")


def _write(line: _Line, text: str) -> None:
    if text or line.width:
        print(f"\r{text:<{line.width}}", end="" if text else "\r", file=sys.stderr, flush=True)
    line.width = max(line.width, len(text))
