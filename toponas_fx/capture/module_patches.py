"""The patches that let a recorder see modules run and attributes read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn
from torch.autograd import Function, Variable

from toponas_fx.analysis.effects import has_global_hooks, is_hooked
from toponas_fx.capture.expressions import Numbers
from toponas_fx.capture.legacy import seen_by, stand_ins
from toponas_fx.capture.math_calls import math_stand_ins
from toponas_fx.module_tree.tensor_paths import MODULE_INTERNALS, is_library

_UNWATCHED = MODULE_INTERNALS - {"training"}
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _own(module: nn.Module) -> dict[str, Any]:
    """Return a module's own attributes, unseen by a watcher."""
    found: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return found


class Watcher(Protocol):
    """What the patches report to.

    Attributes:
        is_watching: False while a leaf runs.
        numbers: those kept symbolic.
        kept_names: of the attributes that hold choices.
    """

    is_watching: bool
    numbers: Numbers
    kept_names: frozenset[str]

    def kept_read(self, module: nn.Module, name: str, value: Any) -> Any:
        """An attribute is read by a name of those that hold choices."""

    def number_read(self, module: nn.Module, name: str, value: float) -> float:
        """An attribute that is a number is read, while some are symbolic."""

    def picked(self, take: Callable[[], nn.Module]) -> nn.Module:
        """A module is taken out of a container of modules, by an index or a name."""

    def starts(self, module: nn.Module) -> None:
        """A module is about to run."""

    def run_module(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module's forward is called."""

    def run_hooked(self, module: nn.Module, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A module with hooks is called."""

    def run_function(self, function: type[Function], run: Callable[..., Any], args: Any) -> Any:
        """``function.apply`` is called."""

    def saw_read(self, module: nn.Module, name: str, value: Any) -> None:
        """An attribute of a module is read."""

    def saw_table(self, module: nn.Module, table: dict[str, Any]) -> None:
        """The table of a module's own attributes is read."""

    def saw_missing(self, module: nn.Module, name: str) -> None:
        """An attribute of a module is asked for that is not there."""

    def saw_write(self, module: nn.Module, name: str, *value: Any) -> None:
        """An attribute of a module is written, or deleted where no value is given."""


@contextmanager
def watched(root: nn.Module, forward: Callable[..., Any], watcher: Watcher) -> Iterator[Callable[..., Any]]:
    """Patch modules, attribute access and ``Function.apply`` so that they report to ``watcher``; undo on exit.

    Args:
        root: the model; its own forward is ``forward``, not patched.
        forward: the root's forward as its user wrote it, bound.
        watcher: what to report to.

    Yields:
        ``forward``.
    """
    with ExitStack() as stack:
        for module in root.modules():
            own_call = vars(module).pop("_call_impl", None)  # a layer that computes with its kernel normalized
            if own_call is not None:
                stack.callback(vars(module).__setitem__, "_call_impl", own_call)
            own = vars(module).get("forward")
            if module is not root and (own is None or isinstance(module, torch.jit.ScriptModule)):
                vars(module)["forward"] = _watched_forward(module, watcher, own_call or module.forward)
                stack.callback(_put_forward, module, own)
        stack.enter_context(_replaced(nn.Module, "__call__", _watched_call(watcher)))
        stack.enter_context(_replaced(nn.Module, "__getattribute__", _watched_read(watcher)))
        stack.enter_context(_replaced(nn.Module, "__getattr__", _watched_registered_read(watcher)))
        stack.enter_context(_replaced(nn.Module, "__setattr__", _watched_write(watcher, "__setattr__")))
        stack.enter_context(_replaced(nn.Module, "__delattr__", _watched_write(watcher, "__delattr__")))
        for container in _CONTAINERS:
            stack.enter_context(_replaced(container, "__getitem__", _watched_item(container, watcher)))
        stack.enter_context(_replaced(Function, "apply", _watched_apply(watcher)))
        stack.enter_context(_replaced(type(Variable), "__call__", _watched_variable(watcher)))
        stack.enter_context(seen_by(watcher))
        for owner, name, stand_in in (*stand_ins(), *(math_stand_ins() if watcher.numbers else ())):
            stack.enter_context(_replaced(owner, name, stand_in))
        yield forward


def _put_forward(module: nn.Module, own: Any) -> None:
    """Give a module its own forward again; a scripted one has it in its table of attributes."""
    if own is None:
        vars(module).pop("forward")
    else:
        vars(module)["forward"] = own


@contextmanager
def _replaced(owner: type | ModuleType, name: str, value: Any) -> Iterator[None]:
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _watched_forward(module: nn.Module, watcher: Watcher, run: Callable[..., Any]) -> Callable[..., Any]:
    unwatched = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not watcher.is_watching:
            return unwatched(*args, **kwargs)
        watcher.starts(module)
        return watcher.run_module(module, run, args, kwargs)

    return forward


def _watched_call(watcher: Watcher) -> Callable[..., Any]:
    run = nn.Module.__call__

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not watcher.is_watching:
            return run(self, *args, **kwargs)
        if not is_hooked(self):
            own = _own(self)
            if "forward" in own and own.get("_compiled_call_impl") is None and not has_global_hooks():
                return own["forward"](*args, **kwargs)  # all that a plain call comes to
            return run(self, *args, **kwargs)
        watcher.starts(self)
        return watcher.run_hooked(self, run, args, kwargs)

    return __call__


def _watched_item(container: type, watcher: Watcher) -> Callable[[Any, Any], Any]:
    take: Callable[[Any, Any], Any] = vars(container)["__getitem__"]

    def __getitem__(self: nn.Module, key: Any) -> Any:
        return watcher.picked(lambda: take(self, key)) if watcher.is_watching else take(self, key)

    return __getitem__


def _watched_read(watcher: Watcher) -> Callable[[nn.Module, str], Any]:
    read = object.__getattribute__

    def __getattribute__(self: nn.Module, name: str) -> Any:
        name = name if type(name) is str else str(name)  # that of a choice is used so
        value = read(self, name)
        if watcher.is_watching and name[:2] != "__" and name not in _UNWATCHED:
            if name in watcher.kept_names:
                return watcher.kept_read(self, name, value)
            if type(value) is float and watcher.numbers:
                return watcher.number_read(self, name, value)
            watcher.saw_read(self, name, value)
        elif watcher.is_watching and name == "__dict__" and not is_library(sys._getframe(1).f_globals["__name__"]):
            watcher.saw_table(self, value)
        return value

    return __getattribute__


def _watched_registered_read(watcher: Watcher) -> Callable[[nn.Module, str], Any]:
    read = nn.Module.__getattr__

    def __getattr__(self: nn.Module, name: str) -> Any:
        name = name if type(name) is str else str(name)
        try:
            value = read(self, name)
        except AttributeError:
            if watcher.is_watching:
                watcher.saw_missing(self, name)
            raise
        if watcher.is_watching:
            watcher.saw_read(self, name, value)
        return value

    return __getattr__


def _watched_write(watcher: Watcher, method: str) -> Callable[..., None]:
    write = getattr(nn.Module, method)

    def change(self: nn.Module, name: str, *value: Any) -> None:
        name = name if type(name) is str else str(name)
        if watcher.is_watching:
            watcher.saw_write(self, name, *value)
        write(self, name, *value)

    return change


def _watched_apply(watcher: Watcher) -> Any:
    descriptor = next(vars(base)["apply"] for base in Function.__mro__ if "apply" in vars(base))

    def run(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        return descriptor.__get__(None, cls)(*args, **kwargs)

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        if not watcher.is_watching:
            return run(cls, *args, **kwargs)
        return watcher.run_function(cls, run, args)

    return classmethod(apply)


def _watched_variable(watcher: Watcher) -> Callable[..., Any]:
    """Make ``Variable(tensor)``, which no mode sees, the ``tensor.detach()`` that it is."""
    make = type.__call__

    def __call__(cls: type, *args: Any, **kwargs: Any) -> Any:
        if watcher.is_watching and len(args) == 1 and isinstance(args[0], torch.Tensor) and not any(kwargs.values()):
            return args[0].detach()
        return make(cls, *args, **kwargs)

    return __call__
