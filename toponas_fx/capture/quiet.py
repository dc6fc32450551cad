"""Run a model without leaving a trace: tensors, generators and training flags come back as they were."""

from __future__ import annotations

import functools
import gc
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.owners import MODULE_INTERNALS, model_tensors


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
def no_trace(root: nn.Module) -> Iterator[None]:
    """Restore a model on exit: its tensors' values, what its attributes hold, and all generators."""
    saved: dict[int, tuple[Tensor, Tensor, bool]] = {}
    for _, tensor in model_tensors(root):
        saved.setdefault(id(tensor), (tensor, tensor.detach().clone(), tensor.requires_grad))
    dtype = torch.get_default_dtype()
    undo = [change for module in root.modules() for change in _snapshots_of(module)]
    with restored_generators():
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            for restore in undo:
                restore()
            with torch.no_grad():
                for tensor, value, requires_grad in saved.values():
                    if not torch.equal(tensor.data, value):
                        tensor.data.copy_(value)
                    if tensor.requires_grad != requires_grad:
                        tensor.requires_grad_(requires_grad)


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


def _snapshots_of(module: nn.Module) -> Iterator[Callable[[], None]]:
    own = vars(module)
    for table in (own, module._parameters, module._buffers, module._modules):
        if isinstance(table, dict):  # a scripted module's are not
            yield from _snapshot(table)
    for name, value in list(own.items()):
        if name not in MODULE_INTERNALS:
            yield from _snapshots(value)


def _snapshots(value: Any, depth: int = 5) -> Iterator[Callable[[], None]]:
    """Yield what restores a value: containers and plain objects with all that is in them, generators of its own."""
    if depth == 0 or isinstance(value, Tensor | nn.Module | str | bytes | int | float | type | type(None)):
        return
    if isinstance(value, random.Random):
        yield functools.partial(value.setstate, value.getstate())
    elif hasattr(value, "bit_generator"):
        yield functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    elif isinstance(value, list | deque | set | dict):
        yield from _snapshot(value)
        for part in list(value.values() if isinstance(value, dict) else value):
            yield from _snapshots(part, depth - 1)
    elif isinstance(value, tuple):
        for part in value:
            yield from _snapshots(part, depth - 1)
    elif hasattr(value, "__dict__") and not callable(value):
        yield from _snapshots(vars(value), depth)


def _snapshot(container: Any) -> Iterator[Callable[[], None]]:
    items = list(container.items()) if isinstance(container, dict) else list(container)

    def restore() -> None:
        now = list(container.items()) if isinstance(container, dict) else list(container)
        if len(now) == len(items) and all(_is_same(old, new) for old, new in zip(items, now, strict=True)):
            return
        container.clear()
        container.extend(items) if isinstance(container, list | deque) else container.update(items)

    yield restore


def _is_same(old: Any, new: Any) -> bool:
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return all(left is right for left, right in zip(old, new, strict=True))
    return old is new
