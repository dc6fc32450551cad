"""Watch the user's functions as they run, for the state outside the model that their code names."""

from __future__ import annotations

import enum
import gc
import inspect
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, MemberDescriptorType
from typing import Any

import torch
from torch import nn
from torch.nn.utils.stateless import _functional_call
from torch.utils import checkpoint

from toponas_fx.capture.advice import LEND, SEED, VMAP
from toponas_fx.capture.draws import DrawFinder
from toponas_fx.capture.guards import follow
from toponas_fx.capture.outside import (
    asks_identity,
    held_by,
    imported,
    is_environment,
    is_generator,
    is_memory,
    is_users_function,
    reached,
    readings,
    why_impure,
)
from toponas_fx.capture.recorder import Recorder
from toponas_fx.capture.symbolic_numbers import UNSEEN_READS, may_hide
from toponas_fx.capture.torch_calls import GRAD_MODE
from toponas_fx.capture.values import user_location
from toponas_fx.errors import CaptureError
from toponas_fx.module_tree.code_names import BY_TEXT, names_of
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.snapshots import freeze
from toponas_fx.module_tree.tensor_paths import attributes_of, is_library, is_users

_PLAIN = (bool, int, float, str, bytes, type(None), list, tuple, dict, set, frozenset, deque, range, enum.Enum)
_DEPTH = 3
_OF_CLASSES = frozenset(("__class__",))
"""Variables of enclosing scopes that hold the class for ``super()``, and no state of the user's."""

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
    """Sees each call of a function while ``watching``; meant for the time of one recorded run."""

    def __init__(self, recorder: Recorder, tree: TreeIndex, draws: DrawFinder | None = None) -> None:
        """Take the recorder of the run, whose guards to fill, the tree, and what looks for draws line by line."""
        self._recorder = recorder
        self._guards = recorder.guards
        self._tree = tree
        self._draws = draws
        self._seen: dict[tuple[int, int], Any] = {}
        self._passed: dict[int, CodeType] = {}
        self._reached: set[int] = set()
        self._made: dict[int, Any] = {}
        self._memories: list[tuple[Any, CodeType, str]] = []
        self._refused: CaptureError | None = None

    @property
    def failure(self) -> CaptureError | None:
        """The first call, or draw, that a graph cannot repeat."""
        return self._refused or (self._draws.found if self._draws is not None else None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside, in this thread; leave debuggers and coverage alone, which a trace would replace."""
        if sys.gettrace() is None:
            sys.settrace(self._on_event)  # called for Python's functions only: cheaper than a profile
            if self._draws is None and sys.version_info < (3, 12):  # from there on, switching a trace takes its time
                self._recorder.tracer = self._on_event
            try:
                yield
            finally:
                self._recorder.tracer = None
                sys.settrace(None)
                self._note_memories()
            return
        before: Any = sys.getprofile()
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            self._note_memories()
            sys.setprofile(before if callable(before) else None)
            if hasattr(before, "enable"):
                before.enable()  # cProfile's own object cannot be set again, only enabled

    def _on_event(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == "return":
            return self._on_return(frame, event, value)  # to a profile
        if event != "call" or not self._recorder.is_watching:
            return None  # what runs whole, hooks say, does so each time
        code = frame.f_code
        if id(code) in self._passed:
            return None
        if id(code) in _REFUSED and self._refused is None:
            self._refused = CaptureError(_REFUSED[id(code)], user_location(frame))
        owner = frame.f_globals.get("__name__", "")
        if is_library(owner) or owner not in sys.modules:
            self._passed[id(code)] = code  # by identity: a code object's hash takes its time
            return None
        self._enter(frame, owner)
        if self._draws is not None:
            return self._draws.on_event
        frame.f_trace_lines = False
        return self._on_return

    def _on_return(self, frame: FrameType, event: str, value: Any) -> Any:
        """Note what a function of the user's leads to, ``config().tau`` say: the code that called it names what."""
        if event == "return" and self._recorder.is_watching and not isinstance(value, _PLAIN):
            outer = frame.f_back
            if outer is not None and self._is_state(value) and not isinstance(value, type):
                where = f"{outer.f_code.co_filename}:{outer.f_lineno}"
                self._note_object(value, outer.f_code, where)
        return self._on_return

    def _enter(self, frame: FrameType, owner: str) -> None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if code.co_name == "__init__":
            self._made[id(first)] = first  # what the run makes for itself is no state
        key = id(code), id(first) if isinstance(first, nn.Module) or is_users(first) else 0
        if key in self._seen or _is_import(frame):
            return
        self._seen[key] = code, first
        where = f"{code.co_filename}:{code.co_firstlineno}"
        self._recorder.looks_at_grad_mode |= not GRAD_MODE.isdisjoint(names_of(code))
        self._recorder.asks_identity |= asks_identity(code)
        for name in names_of(code):
            if name in frame.f_globals and not name.startswith("__"):
                self._note_global((owner, name), frame.f_globals[name], code, where, _DEPTH)
        if id(code) not in self._reached:  # once for all modules that run it
            self._reached.add(id(code))
            self._note_reached(code, frame.f_globals, where)
            if not _OF_CLASSES.issuperset(code.co_freevars) and not _is_nested(frame):
                self._note_closure(code, where)  # those of all functions that have the code
        if isinstance(first, nn.Module):
            self._note_class(first, code, where)
            if not UNSEEN_READS.isdisjoint(names_of(code)):
                self._recorder.saw_table(first, vars(first))
        elif self._is_state(first):
            self._note_object(first, code, where)

    def _is_state(self, value: Any) -> bool:
        """Return whether a value is the user's and was there before the run."""
        return is_users(value) and id(value) not in self._made and not self._recorder.is_handed(value)

    def _note_global(self, path: tuple[str, ...], value: Any, code: CodeType, where: str, depth: int) -> None:
        """Note a plain global; of a class, a module or an object, those attributes that the code names too."""
        if _is_plain(value) or is_generator(value):
            self._guards.note_global(path, freeze(value, self._tree.paths), where)
        elif callable(value) and (_name_of(value, path[-1]) != path[-1] or _is_at(value, path)):
            self._guards.note_global(path, freeze(value, self._tree.paths), where)
            for name in _held_names(value, code):
                self._note_global((*path, name), vars(value)[name], code, where, 0)
        elif depth and is_users(value):
            for name in names_of(code):
                inner = _static(value, name)
                if inner is not value and not name.startswith("__"):
                    self._note_global((*path, name), inner, code, where, depth - 1)

    def _note_reached(self, code: CodeType, outer: dict[str, Any], where: str) -> None:
        """Refuse what answers otherwise at each call, and note what is looked up by one."""
        if self._recorder.numbers and may_hide(code, reached(code, outer)):
            self._guards.fixed_numbers.update(self._recorder.numbers)
        for names, value in reached(code, outer):
            reason = why_impure(value, names)
            if reason is not None:
                self._refused = self._refused or CaptureError(reason, where)
            if is_environment(value):
                self._guards.note_global(("os", "environ"), freeze(os.environ), where)
            for name in (None, *names_of(code)) if not callable(value) else (None,):
                for reading in readings(value, name):
                    self._guards.note_reference(reading, "value", freeze(reading.value, self._tree.paths), where)
            if is_memory(value):
                self._memories.append((value, code, where))
        for module, name in imported(code):
            found = getattr(module, name, None)
            reason = why_impure(found, (module.__name__, name))
            if reason is not None:
                self._refused = self._refused or CaptureError(reason, where)
            if not is_library(module.__name__):
                self._note_global((module.__name__, name), found, code, where, _DEPTH - 1)

    def _note_memories(self) -> None:
        """Note the objects that a function with a memory, or a weak reference, has led to by the end of the run."""
        for memory, code, where in self._memories:
            for held in held_by(memory):
                if is_users(held) and not isinstance(held, type):
                    self._note_object(held, code, where)

    def _note_class(self, module: nn.Module, code: CodeType, where: str) -> None:
        """Note the plain class attributes that a method of a module names, as in ``type(self).mode``."""
        path = self._tree.paths.get(id(module))
        for owner in type(module).__mro__ if path is not None else ():
            for name in () if is_library(owner.__module__) else names_of(code):
                if not _is_plain(vars(owner).get(name, owner)):
                    continue
                if name in self._recorder.kept_names:  # the module's own is seen as it is read
                    self._guards.note_reference(owner, name, freeze(vars(owner)[name], self._tree.paths), where)
                else:
                    value = freeze(getattr(module, name, None), self._tree.paths)
                    self._guards.note_attribute(str(path), name, value, where)
            own = vars(owner).get(code.co_name)
            if isinstance(own, FunctionType) and own.__code__ is code:
                self._guards.note_method(owner, code.co_name, own, where)

    def _note_object(self, value: Any, code: CodeType, where: str) -> None:
        """Note the plain attributes that a method of an object, or of a class, names; all where it reads by text."""
        names = names_of(code)
        if not (BY_TEXT | UNSEEN_READS).isdisjoint(names):
            kinds = (kind for kind in type(value).__mro__ if not is_library(kind.__module__))
            inherited = (name for kind in kinds for name in vars(kind) if not name.startswith("__"))
            names = tuple(dict.fromkeys((*names, *attributes_of(value), *inherited)))
        for name in names:
            inner = _static(value, name)
            if _is_plain(inner):
                self._guards.note_reference(value, name, freeze(inner, self._tree.paths), where)

    def _note_closure(self, code: CodeType, where: str) -> None:
        """Note the plain variables of enclosing functions that have returned."""
        functions = [f for f in gc.get_referrers(code) if isinstance(f, FunctionType) and f.__code__ is code]
        for cell in (cell for function in functions for cell in function.__closure__ or ()):
            inner = getattr(cell, "cell_contents", cell)
            if _is_plain(inner):
                self._guards.note_reference(cell, "cell_contents", freeze(inner, self._tree.paths), where)
            elif is_users(inner) and not isinstance(inner, type):
                self._note_object(inner, code, where)


def _static(value: Any, name: str) -> Any:
    """Return an attribute without running code of the user's; the value itself where there is none."""
    inner = inspect.getattr_static(value, name, value)
    return getattr(value, name, value) if isinstance(inner, MemberDescriptorType) else inner  # that is a slot


def _is_at(value: Any, path: tuple[str, ...]) -> bool:
    """Return whether a value is a function of the user's that lies where it is reached; methods are made when read."""
    return is_users_function(value) and follow(path) is value


def _held_names(function: Any, code: CodeType) -> list[str]:
    """Return the attributes of a function's own that code names."""
    held = vars(function) if isinstance(function, FunctionType) else {}
    return [name for name in names_of(code) if name in held]


def _is_import(frame: FrameType) -> bool:
    """Return whether a function runs for an import: what finds a module, or makes it, is not what forward computes."""
    outer = frame.f_back
    while outer is not None and outer.f_globals.get("__name__") != "toponas_fx.capture":
        if outer.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        outer = outer.f_back
    return False


def _is_nested(frame: FrameType) -> bool:
    """Return whether a function was made by one that runs in the recorded run: its variables are the run's own."""
    outer = frame.f_back
    while outer is not None and outer.f_globals.get("__name__") != "toponas_fx.capture":
        if frame.f_code in outer.f_code.co_consts:
            return True
        outer = outer.f_back
    return False


def _name_of(value: Any, default: str) -> Any:
    """Return what a function or class is called, without asking an object that answers to any name."""
    try:
        return object.__getattribute__(value, "__name__")
    except AttributeError:
        return default


def _is_plain(value: Any) -> bool:
    if isinstance(value, _PLAIN) or (type(value).__module__ == "numpy" and hasattr(value, "tobytes")):
        return True
    return is_library(type(value).__module__) and isinstance(value, Mapping)  # a ChainMap, what a ConfigParser holds
