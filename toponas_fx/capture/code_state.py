"""Watch the user's functions as they run, for the state outside the model that their code names."""

from __future__ import annotations

import enum
import functools
import gc
import inspect
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, MemberDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _functional_call
from torch.utils import checkpoint

from toponas_fx.capture.advice import LEND, SEED, VMAP
from toponas_fx.capture.frozen import freeze
from toponas_fx.capture.recorder import Recorder
from toponas_fx.capture.tree_index import TreeIndex
from toponas_fx.capture.values import user_location
from toponas_fx.errors import CaptureError

_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"}
_LIBRARIES |= {"torch", "torchvision", "numpy", "networkx", "toponas_fx"}
_RECORDS = ("argparse", "types", "collections")
_PLAIN = (bool, int, float, str, bytes, type(None), list, tuple, dict, set, frozenset, deque, range, enum.Enum)
_DEPTH = 3

_REFUSED = {
    id(inspect.unwrap(function).__code__): sentence
    for function, sentence in (
        (checkpoint.checkpoint, "checkpoint() runs a part twice; drop it here, a simplified model stores less anyway"),
        (_functional_call, LEND),
        (torch.vmap, VMAP),
        (torch.manual_seed, f"torch's random generator is seeded inside forward; {SEED}"),
        (torch.set_rng_state, f"torch's random generator is set inside forward; {SEED}"),
    )
}
"""Functions of torch that work behind the recorder's back."""


class CodeWatcher:
    """Sees each call of a function while ``watching``; meant for the time of one recorded run.

    Attributes:
        failure: the first call that a graph cannot repeat.
    """

    def __init__(self, recorder: Recorder, tree: TreeIndex) -> None:
        """Take the recorder of the run, whose guards to fill, and the modules of the tree."""
        self._recorder = recorder
        self._guards = recorder.guards
        self._tree = tree
        self._seen: dict[tuple[int, int], Any] = {}
        self._passed: dict[int, CodeType] = {}
        self._made: dict[int, Any] = {}
        self.failure: CaptureError | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside, in this thread; leave debuggers and coverage alone, which a trace would replace."""
        if sys.gettrace() is None:
            sys.settrace(self._on_event)  # called for Python's functions only: cheaper than a profile
            try:
                yield
            finally:
                sys.settrace(None)
            return
        before: Any = sys.getprofile()
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(before if callable(before) else None)
            if hasattr(before, "enable"):
                before.enable()  # cProfile's own object cannot be set again, only enabled

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not self._recorder.is_watching:
            return  # what runs whole, hooks say, does so each time
        code = frame.f_code
        if id(code) in self._passed:
            return
        if id(code) in _REFUSED and self.failure is None:
            self.failure = CaptureError(_REFUSED[id(code)], user_location(frame))
        owner = frame.f_globals.get("__name__", "")
        if _is_library(owner) or owner not in sys.modules:
            self._passed[id(code)] = code  # by identity: a code object's hash takes its time
            return
        self._enter(frame, owner)

    def _enter(self, frame: FrameType, owner: str) -> None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code.co_name == "__init__":
            self._made[id(first)] = first  # what the run makes for itself is no state
        key = id(code), id(first) if isinstance(first, nn.Module) or _is_users(first) else 0
        if key in self._seen:
            return
        self._seen[key] = code, first
        where = f"{code.co_filename}:{code.co_firstlineno}"
        for name in _names(code):
            if name in frame.f_globals and not name.startswith("__"):
                self._note_global((owner, name), frame.f_globals[name], code, where, _DEPTH)
        if isinstance(first, nn.Module):
            self._note_class(first, code, where)
        elif _is_users(first) and id(first) not in self._made:
            self._note_object(first, code, where)
        if code.co_freevars and not _is_nested(frame):
            self._note_closure(code, where)

    def _note_global(self, path: tuple[str, ...], value: Any, code: CodeType, where: str, depth: int) -> None:
        """Note a plain global; of a class, a module or an object, those attributes that the code names too."""
        if _is_plain(value) or (callable(value) and getattr(value, "__name__", path[-1]) != path[-1]):
            self._guards.note_global(path, freeze(value, self._tree.paths), where)
        elif depth and _is_users(value):
            for name in _names(code):
                inner = inspect.getattr_static(value, name, value)
                if inner is not value and not name.startswith("__"):
                    self._note_global((*path, name), inner, code, where, depth - 1)

    def _note_class(self, module: nn.Module, code: CodeType, where: str) -> None:
        """Note the plain class attributes that a method of a module names, as in ``type(self).mode``."""
        path = self._tree.paths.get(id(module))
        for owner in type(module).__mro__ if path is not None else ():
            for name in () if _is_library(owner.__module__) else _names(code):
                if _is_plain(vars(owner).get(name, owner)):
                    value = freeze(getattr(module, name, None), self._tree.paths)
                    self._guards.note_attribute(str(path), name, value, where)

    def _note_object(self, value: Any, code: CodeType, where: str) -> None:
        """Note the plain attributes that a method of an object, or of a class, names."""
        for name in _names(code):
            inner = inspect.getattr_static(value, name, value)
            if isinstance(inner, MemberDescriptorType):
                inner = getattr(value, name, value)  # a slot
            if _is_plain(inner):
                self._guards.note_reference(value, name, freeze(inner, self._tree.paths), where)

    def _note_closure(self, code: CodeType, where: str) -> None:
        """Note the plain variables of enclosing functions that have returned."""
        functions = [f for f in gc.get_referrers(code) if isinstance(f, FunctionType) and f.__code__ is code]
        for cell in (cell for function in functions for cell in function.__closure__ or ()):
            inner = getattr(cell, "cell_contents", cell)
            if _is_plain(inner):
                self._guards.note_reference(cell, "cell_contents", freeze(inner, self._tree.paths), where)
            elif _is_users(inner) and not isinstance(inner, type):
                self._note_object(inner, code, where)


@functools.cache
def _names(code: CodeType) -> tuple[str, ...]:
    """Return the names that a function's code, or that of a function within it, looks up."""
    inner = (name for part in code.co_consts if isinstance(part, CodeType) for name in _names(part))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


def _is_nested(frame: FrameType) -> bool:
    """Tell whether a function was made by one that runs in the recorded run: its variables are the run's own."""
    outer = frame.f_back
    while outer is not None and outer.f_globals.get("__name__") != "toponas_fx.capture":
        if frame.f_code in outer.f_code.co_consts:
            return True
        outer = outer.f_back
    return False


def _is_library(name: str) -> bool:
    return name.split(".")[0] in _LIBRARIES


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (type(value).__module__ == "numpy" and hasattr(value, "tobytes"))


def _is_users(value: Any) -> bool:
    """Tell whether a value is a class, a module or an object of the user's, or a record of settings."""
    if isinstance(value, Tensor | nn.Module | FunctionType):
        return False
    if isinstance(value, ModuleType):
        return not _is_library(value.__name__)
    owner = value.__module__ if isinstance(value, type) else type(value).__module__
    return not _is_library(owner) or (owner in _RECORDS and not isinstance(value, type))
