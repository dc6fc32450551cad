"""Telling a forward that lacks state, which the search loop sets later, from one that fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import nn

from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.values import user_location
from toponas_fx.errors import CaptureError, NotReadyError, ToponasError
from toponas_fx.module_tree.snapshots import MISSING


@contextmanager
def telling_state(guards: StateGuards) -> Iterator[None]:
    """Let each error of a recorded run carry the state that was read by then; other errors pass untouched.

    Raises:
        NotReadyError: instead of an error of the user's that comes from state that is not set yet.
    """
    try:
        yield
    except CaptureError as error:
        error.guards = guards
        raise
    except ToponasError:
        raise
    except Exception as error:
        frames = _frames(error)
        unset = _unset_state(error, guards, frames)
        if unset is None:
            raise
        (path, name), value = unset
        what = "is not there" if value == MISSING else "is empty" if value else f"is {value}"
        sentence = (
            f"forward cannot run yet: `{path or 'the model'}.{name}` {what} ({type(error).__name__}: {error}); "
            "it is captured at the first call after that is set"
        )
        found = NotReadyError(sentence, next(filter(None, map(_place, reversed(frames))), ""))
        found.guards = guards
        raise found from error


def _unset_state(error: Exception, guards: StateGuards, frames: list[FrameType]) -> Any:
    """Return the attribute, with its value, that an error comes from because nobody has set it, or None.

    Python says so itself where a missing attribute, or one of None, is used. What the user's own code raises counts
    right after it read an attribute that is missing, None or empty for the first time, or where the function that
    raises it reads such a one, and the message names it or says None. All else does not, above all what torch raises
    on the shapes of tensors: that is a wrong input, or a mistake.
    """
    attributes = list(guards.attributes.items())[::-1]
    if isinstance(error, AttributeError) and isinstance(error.obj, nn.Module):
        return next((item for item in attributes if item[0][1] == error.name and item[1] == MISSING), None)
    is_of_none = isinstance(error, AttributeError) and error.obj is None
    if is_of_none or (isinstance(error, TypeError) and "NoneType" in str(error)):
        return next((item for item in attributes if item[1] is None), None)
    if isinstance(error, AttributeError | TypeError | NameError):
        return None
    is_users = bool(frames) and bool(_place(frames[-1]))
    if not is_users or not attributes:
        return None
    if _is_unset(attributes[0][1]):
        return attributes[0]
    names = _names_read(frames[-1])
    named = (item for item in attributes if _is_unset(item[1]) and item[0][1] in names)
    return next((item for item in named if item[0][1] in str(error) or "None" in str(error)), None)


def _names_read(frame: FrameType) -> set[str]:
    """Return the names that a method looks up, and those that its properties do."""
    code = frame.f_code
    owner = type(frame.f_locals.get(code.co_varnames[0])) if code.co_argcount else object
    found = set(code.co_names)
    for name in code.co_names:
        getter = getattr(getattr(owner, name, None), "fget", None)
        found.update(getattr(getter, "__code__", code).co_names)
    return found


def _is_unset(frozen: Any) -> bool:
    is_empty = isinstance(frozen, tuple) and len(frozen) == 2 and frozen[1] in ((), frozenset())
    return frozen is None or frozen == MISSING or is_empty


def _frames(error: Exception) -> list[FrameType]:
    """Return the frames that an error went through, the innermost last."""
    found, trace = [], error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame)
        trace = trace.tb_next
    return found


def _place(frame: FrameType) -> str:
    """Return ``file:line`` of a frame of the user's, or nothing for one of torch or this package."""
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return place if user_location(frame) == place else ""
