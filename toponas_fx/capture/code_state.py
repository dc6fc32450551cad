"""Watch the user's functions as they run, for the globals and class attributes that their code names."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from toponas_fx.capture.frozen import freeze
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.tree_index import TreeIndex
from toponas_fx.capture.values import user_location
from toponas_fx.errors import CaptureError

_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch", "numpy", "toponas_fx", "torchvision"}
_RECORDS = ("argparse", "types", "collections")
_PLAIN = (bool, int, float, str, type(None), list, tuple, dict, set)
_DEPTH = 3


_REFUSED = {
    inspect.unwrap(function).__code__: sentence
    for function, sentence in (
        (checkpoint.checkpoint, "checkpoint() runs a part twice; drop it here, a simplified model stores less anyway"),
        (torch.manual_seed, "torch's random generator is seeded inside forward; a graph cannot repeat that"),
        (torch.set_rng_state, "torch's random generator is set inside forward; a graph cannot repeat that"),
    )
}
"""Functions of torch that work behind the recorder's back."""


class CodeWatcher:
    """Sees each call of a function while ``watching``; meant for the time of one recorded run.

    Attributes:
        failure: the first call that a graph cannot repeat.
    """

    def __init__(self, guards: StateGuards, tree: TreeIndex) -> None:
        """Take the guards to fill, and the modules of the tree."""
        self._guards = guards
        self._tree = tree
        self._seen: set[tuple[CodeType, int]] = set()
        self.failure: CaptureError | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside, in this thread."""
        before: Any = sys.getprofile()
        collects = gc.isenabled()
        gc.disable()  # its callbacks are not the user's code
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(before if callable(before) else None)
            if hasattr(before, "enable"):
                before.enable()  # cProfile's own object cannot be set again, only enabled
            if collects:
                gc.enable()

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        if frame.f_code in _REFUSED and self.failure is None:
            self.failure = CaptureError(_REFUSED[frame.f_code], user_location(frame))
        self._enter(frame)

    def _enter(self, frame: FrameType) -> None:
        code, names = frame.f_code, frame.f_globals
        owner = names.get("__name__", "")
        module = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        key = code, id(module) if isinstance(module, nn.Module) else 0
        if key in self._seen or _is_library(owner) or owner not in sys.modules:
            return
        self._seen.add(key)
        for name in code.co_names:
            if name in names and not name.startswith("__"):
                self._note(code, (owner, name), names[name], _DEPTH)
        if isinstance(module, nn.Module) and id(module) in self._tree.paths:
            self._note_class(code, self._tree.paths[id(module)], module)

    def _note(self, code: CodeType, path: tuple[str, ...], value: Any, depth: int) -> None:
        """Note a plain global; of a class, a module or a record, those attributes that the code names too."""
        if isinstance(value, _PLAIN):
            self._guards.note_global(path, freeze(value, self._tree.paths), f"{code.co_filename}:{code.co_firstlineno}")
        elif depth and _is_users(value):
            for name in code.co_names:
                inner = inspect.getattr_static(value, name, value)
                if inner is not value and not name.startswith("__"):
                    self._note(code, (*path, name), inner, depth - 1)

    def _note_class(self, code: CodeType, path: str, module: nn.Module) -> None:
        """Note the plain class attributes that a method of a module names, as in ``type(self).mode``."""
        for owner in type(module).__mro__:
            if _is_library(owner.__module__):
                continue
            for name in code.co_names:
                if name in vars(owner) and isinstance(vars(owner)[name], _PLAIN):
                    value = freeze(getattr(module, name, None), self._tree.paths)
                    self._guards.note_attribute(path, name, value, f"{code.co_filename}:{code.co_firstlineno}")


def _is_library(name: str) -> bool:
    return name.split(".")[0] in _LIBRARIES


def _is_users(value: Any) -> bool:
    """Tell whether a global is a class, a module or an object of the user's, or a record of settings."""
    if isinstance(value, Tensor | nn.Module | FunctionType):
        return False
    if isinstance(value, ModuleType):
        return not _is_library(value.__name__)
    owner = value.__module__ if isinstance(value, type) else type(value).__module__
    return not _is_library(owner) or (owner in _RECORDS and not isinstance(value, type))
