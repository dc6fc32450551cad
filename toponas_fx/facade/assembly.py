"""Making simplified models: the class that joins facade and user, a first instance, and further ones like it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

from torch import fx, nn

from toponas_fx.errors import ArgumentError
from toponas_fx.facade.dispatch import forward_of
from toponas_fx.module_tree.copying import copy_tree
from toponas_fx.module_tree.index import walk_modules
from toponas_fx.module_tree.isolation import collector_off
from toponas_fx.module_tree.layers import is_leaf
from toponas_fx.module_tree.snapshots import Kind, freeze
from toponas_fx.module_tree.tensor_paths import is_library
from toponas_fx.runtime.normalized_layers import watch_layers
from toponas_fx.runtime.simplified_module import SimplifiedModule, tell_sharing
from toponas_fx.runtime.state import State

_PLAIN = (int, float, bool, str, tuple, type(None))
_OWN = frozenset(("meta", *vars(fx.GraphModule), *vars(SimplifiedModule))) - frozenset(dir(nn.Module))
_MUST = ("__new__", "__deepcopy__", "__copy__", "__reduce_ex__", "__reduce__", "__setstate__")


def assemble(model: nn.Module, mode: str, passes: tuple[Any, ...], *, is_strict: bool = False) -> SimplifiedModule:
    """Return an unsimplified facade over a copy of the model's tree.

    Raises:
        ArgumentError: the model has an attribute whose name starts with ``_toponas``.
    """
    user_class = type(model)
    fast: Any = copy_tree(model, simplified_class(user_class, _taken_names(model)))
    forward = vars(fast).pop("forward", None)
    user_forward = (lambda self, *a, **k: forward(*a, **k)) if forward is not None else user_class.forward
    vars(fast)["_toponas"] = State(user_class, user_forward, mode, passes, is_strict)
    tell_sharing(fast)
    return fast  # type: ignore[no-any-return]


def _taken_names(model: nn.Module) -> frozenset[str]:
    """Return the names of a GraphModule, or of a simplified model, that the user gave to something else."""
    if isinstance(model, fx.GraphModule):
        return frozenset()
    found = {*vars(model), *model._modules, *model._parameters, *model._buffers}
    for owner in _own_classes(type(model)):
        found |= set(vars(owner))
    reserved = sorted(name for name in found if name.startswith("_toponas"))
    if reserved:
        raise ArgumentError(f"{type(model).__name__} has an attribute `{reserved[0]}`: rename it, `_toponas` is taken")
    return frozenset(found & _OWN)


def _own_classes(user_class: type) -> list[type]:
    """Return a class and its bases that are no part of every module."""
    return [owner for owner in user_class.__mro__ if owner not in (nn.Module, object)]


def simplified_class(user_class: type[nn.Module], taken: frozenset[str] = frozenset()) -> type[SimplifiedModule]:
    """Return the class of simplified models of a user's class, the same one each time.

    The user's class comes first in it: its attributes go before those of a GraphModule, and what it adds to
    ``state_dict`` or the like adds to that of a simplified model. It is made past a metaclass of the user's and
    ``__init_subclass__``, which check, or keep a list of, what users write.

    Args:
        user_class: the class.
        taken: names of ``SimplifiedModule`` that the model, or its class, uses for something else.
    """
    made: Any = user_class
    return _simplified_class(made, taken)


@functools.cache
def _simplified_class(user_class: Any, taken: frozenset[str]) -> type[SimplifiedModule]:
    namespace: dict[str, Any] = {"__doc__": user_class.__doc__, "__module__": user_class.__module__}
    names = {name for owner in _own_classes(user_class) for name in vars(owner)}
    namespace |= {name: _OfInstance() for name in taken - names}
    for owner in reversed(user_class.__mro__):
        if owner.__module__.split(".")[0] == "torch" or owner is object:
            continue
        for name, method in vars(owner).items():
            if isinstance(method, FunctionType) and not name.startswith("__") and name != "forward":
                namespace[name] = _returning_models(method, name, user_class)
    namespace |= {name: vars(SimplifiedModule)[name] for name in _MUST}
    namespace |= {"_toponas_class": user_class, "_toponas_taken": taken, "_toponas_unpickle": staticmethod(unpickle)}
    namespace["forward"] = forward_of(user_class.forward)
    metaclass = type(user_class)
    maker: Any = next(kind for kind in metaclass.__mro__ if is_library(kind.__module__))
    bases = (_Unasked, user_class, SimplifiedModule)
    made: type[SimplifiedModule] = maker.__new__(metaclass, f"Simplified{user_class.__name__}", bases, namespace)
    return made


class _Unasked:
    """Keeps the ``__init_subclass__`` of a user's class from a class that is none of the user's."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        pass


class _OfInstance:
    """Leaves a name of the facade's to the attribute, or the module, that a model has by it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, model: Any, owner: Any = None) -> Any:
        raise AttributeError(f"{owner.__name__} has no attribute {self._name!r} but that of its models")


def _returning_models(method: Callable[..., Any], name: str, user_class: Any) -> Callable[..., Any]:
    """Wrap a method of the user's so that a model of the user's class that it returns comes back simplified.

    What the user's class has by its name is asked for at each call: a class may be patched later.
    """

    @functools.wraps(method)
    def call(self: SimplifiedModule, *args: Any, **kwargs: Any) -> Any:
        result = getattr(super(_simplified_class(user_class, self._toponas_taken), self), name)(*args, **kwargs)
        state = vars(self).get("_toponas")
        if state is None or type(result) is not state.user_class:
            return result
        with collector_off():  # a search makes one a step, of a hundred thousand small objects
            return bind(self, result)

    return call


def bind(template: SimplifiedModule, model: nn.Module) -> nn.Module:
    """Simplify another model of the same class and structure as ``template`` was, without another capture.

    A model of another structure is simplified from the start.
    """
    state = template._toponas
    state.tree(template)
    if state.structure is None:
        state.structure = _structure(template)
    if _structure(model) != state.structure:
        fresh: nn.Module = state.simplify_like(template, model)
        return fresh
    fast = assemble(model, state.mode, state.passes)
    twin = state.copy()
    twin.user_forward = fast._toponas.user_forward
    vars(fast)["_toponas"] = twin
    tell_sharing(fast)
    for removed, kept in twin.sharing.ties.items():
        owner, _, name = removed.rpartition(".")
        fast.get_submodule(owner)._modules[name] = fast.get_submodule(kept)
    take_out(fast, state.removed)
    watch_layers(fast, twin.sharing)
    twin.tree(fast)
    return fast


def _structure(model: nn.Module) -> dict[str, Any]:
    """Return what the graphs of one model must find alike in another: classes, layers' options, parameters' shapes."""
    return {
        path: (_kind(module) if path else None, [(name, _shape(module, name)) for name in module._parameters])
        for path, module in walk_modules(model)
    }


def _kind(module: nn.Module) -> Any:
    if not is_leaf(module) or isinstance(module, nn.modules.dropout._DropoutNd):
        return type(module)
    options = [(name, value) for name, value in vars(module).items() if name[0] != "_" and name != "training"]
    plain = [(name, value if type(value) in _PLAIN else freeze(value)) for name, value in options]
    return type(module), [option for option in plain if not isinstance(option[1], Kind)]  # tensors have no say


def _shape(module: nn.Module, name: str) -> Any:
    tensor = vars(module).get(name, module._parameters[name])
    return None if tensor is None else tensor.shape


def take_out(fast: SimplifiedModule, paths: Iterable[str]) -> None:
    """Take parameters that no run reads out of ``parameters()``; they stay readable as plain attributes."""
    for path in list(paths):
        owner, _, name = path.rpartition(".")
        module = fast.get_submodule(owner)
        parameter = module._parameters.get(name)
        if parameter is not None:
            module._parameters[name] = None
            vars(module)[name] = parameter
            fast._toponas.removed[path] = parameter


def unpickle(user_class: type[nn.Module], taken: frozenset[str] = frozenset()) -> Any:
    """Return an empty simplified model for pickle to fill."""
    return object.__new__(simplified_class(user_class, taken))
