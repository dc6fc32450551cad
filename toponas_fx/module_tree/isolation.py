"""Run a model without leaving a trace: tensors, generators and training flags come back as they were."""

from __future__ import annotations

import copy
import functools
import gc
import operator
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from toponas_fx.module_tree.index import walk_modules
from toponas_fx.module_tree.tensor_paths import attributes_of, model_tensors, plain_attributes


@contextmanager
def restored_generators() -> Iterator[None]:
    """Restore torch's, Python's and numpy's random generators on exit."""
    numpy: Any = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


@contextmanager
def restored_buffers(root: nn.Module) -> Iterator[None]:
    """Restore every buffer's value on exit."""
    saved = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]
    try:
        yield
    finally:
        for buffer, value in saved:
            buffer.data.copy_(value)  # through .data: a backward that is still to come must not see a new version


@contextmanager
def no_trace(root: nn.Module) -> Iterator[Callable[[], str | None]]:
    """Restore a model on exit: its tensors' values, what its attributes hold, and all generators.

    Yields:
        What tells the first attribute that holds something else now, a list that grew say; None where none does.
    """
    saved: dict[int, tuple[Tensor, Tensor, bool]] = {}
    for _, tensor in model_tensors(root):
        if tensor.layout is not torch.strided:
            continue  # torch neither compares nor overwrites sparse values in place
        saved.setdefault(id(tensor), (tensor, tensor.detach().clone(), tensor.requires_grad))
    dtype = torch.get_default_dtype()
    found = dict(walk_modules(root))
    modules = found.values()
    containers = (item for path, module in found.items() for item in _containers_of(path, module))
    held = [(name, kind, container, copy.copy(container)) for name, kind, container in containers]
    own_generators = [part for module in modules for part in _generators_of(module)]
    with restored_generators():
        try:
            yield lambda: next((name for name, kind, now, was in held if not _holds(now, was, kind)), None)
        finally:
            torch.set_default_dtype(dtype)
            for *_, container, items in held:
                _put_back(container, items)
            for generator, name, state in own_generators:
                setattr(generator, name, state) if name else generator.setstate(state)
            with torch.no_grad():
                for tensor, value, requires_grad in saved.values():
                    if not torch.equal(tensor.data, value):
                        tensor.data.copy_(value)
                    if tensor.requires_grad != requires_grad:
                        tensor.requires_grad_(requires_grad)


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode, and each of its modules back into its own on exit."""
    modes = [(module, module.training) for _, module in walk_modules(model)]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training is not mode:
                module.training = mode


@contextmanager
def own_saved_tensors() -> Iterator[None]:
    """Keep what a run inside saves for backward from hooks around it: ``checkpoint`` counts what they are given."""
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is None:
        yield
        return
    with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
        yield


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep Python's garbage collector from running inside: its callbacks are not the user's, and it takes its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def foreign_generators() -> tuple[Any, Any]:
    """Return the state of Python's and numpy's random generators, which graphs cannot repeat, for comparison."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return random.getstate(), None
    name, keys, *rest = numpy.random.get_state()
    return random.getstate(), (name, keys.tobytes(), *rest)


def _containers_of(path: str, module: nn.Module) -> Iterator[tuple[str, type | None, Any]]:
    """Yield the tables of a module, and the containers that its attributes hold.

    Each comes with a name to speak of it, and with the class of the object whose attributes it holds.
    """
    own = vars(module)
    for table in (own, module._parameters, module._buffers, module._modules):
        if isinstance(table, dict):  # a scripted module's are not
            owner = f"`{path}`" if path else "the model"
            yield f"an attribute of {owner}", type(module) if table is own else None, table
    for name, value in plain_attributes(module):
        kinds: dict[int, type] = {}
        for part in _inside(value):
            kinds[id(attributes_of(part))] = type(part)
            if isinstance(part, list | deque | set | dict):
                yield f"`{path or 'the model'}.{name}`", kinds.get(id(part)), part


def _generators_of(module: nn.Module) -> Iterator[tuple[Any, str, Any]]:
    """Yield the random generators that a module holds, with their states."""
    for _, value in plain_attributes(module):
        for part in _inside(value):
            if isinstance(part, random.Random):
                yield part, "", part.getstate()
            elif type(part).__module__.startswith("numpy.") and hasattr(part, "bit_generator"):
                yield part.bit_generator, "state", part.bit_generator.state


def _inside(value: Any, depth: int = 5) -> Iterator[Any]:
    """Yield a value and what it contains: items of containers, attributes of plain objects."""
    if depth == 0 or isinstance(value, Tensor | nn.Module | str | bytes | int | float | type | type(None)):
        return
    yield value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | deque | set | tuple):
        for part in value:
            yield from _inside(part, depth - 1)
    elif not callable(value) and hasattr(type(value), "__dict__"):
        yield from _inside(attributes_of(value), depth)


def _holds(container: Any, items: Any, kind: type | None = None) -> bool:
    """Return whether a container holds the very items that it did; what a class keeps for itself may come."""
    if kind is not None and len(container) > len(items):
        container = {name: value for name, value in container.items() if name in items or not _is_kept(kind, name)}
    if len(container) != len(items):
        return False
    if isinstance(container, dict):
        is_same = all(map(_is_same_key, container, items))
        return is_same and all(map(operator.is_, container.values(), items.values()))
    return bool(container == items) if isinstance(container, set) else all(map(operator.is_, container, items))


def _is_same_key(key: Any, other: Any) -> bool:
    """Return whether keys are one object, or names written alike: what pickle wrote comes back as other strings."""
    return key is other or (type(key) is type(other) is str and key == other)


def _is_kept(kind: type, name: str) -> bool:
    """Return whether an attribute is what a ``cached_property`` leaves on first reading."""
    return any(isinstance(vars(owner).get(name), functools.cached_property) for owner in kind.__mro__)


def _put_back(container: Any, items: Any) -> None:
    """Give a container the items it had, where they are others now."""
    if not _holds(container, items):
        container.clear()
        container.extend(items) if isinstance(container, list | deque) else container.update(items)
