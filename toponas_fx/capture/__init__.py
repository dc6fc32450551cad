"""Capture: record one real forward pass as an ``fx.Graph`` (DESIGN section 2)."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import fx, nn

from toponas_fx.capture.guards import StateGuards, freeze
from toponas_fx.capture.inputs import input_leaves
from toponas_fx.capture.leaves import watched
from toponas_fx.capture.owners import model_tensors
from toponas_fx.capture.quiet import no_trace
from toponas_fx.capture.recorder import Recorder
from toponas_fx.errors import CaptureError

__all__ = ["Capture", "capture", "no_trace"]


@dataclass(frozen=True)
class Capture:
    """One recorded run.

    Attributes:
        graph: the nodes; its placeholders are the input's tensors in order.
        guards: the Python state that the run depended on.
        entered: paths of the modules that ran.
        fingerprint: the structure as text; two runs with equal fingerprints took the same path with the same numbers.
    """

    graph: fx.Graph
    guards: StateGuards
    entered: tuple[str, ...]
    fingerprint: str


def capture(root: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Capture:
    """Run ``forward`` once and record it; nothing of the run is left behind.

    Args:
        root: the model whose tree the graph refers to.
        forward: its forward as the user wrote it, bound to ``root``.
        args: positional inputs: tensors, or containers and plain values with tensors in them.
        kwargs: keyword inputs, likewise.

    Returns:
        The recorded run, for the model's present training mode.

    Raises:
        CaptureError: the run did something that a graph cannot repeat; the sentence names the user's file and line.
    """
    inputs = input_leaves(forward, args, kwargs)
    batch = next((tensor.shape[0] for _, tensor in inputs if tensor.dim()), None)
    recorder = Recorder(root, batch)
    tensors_before = {id(tensor) for _, tensor in model_tensors(root)}
    with no_trace(root), watched(root, forward, recorder) as run:
        for name, tensor in inputs:
            recorder.add_input(name, tensor)
        python_random, numpy_random = random.getstate(), _numpy_random()
        with _named_globals(recorder.guards), recorder.recording():
            value = run(*args, **kwargs)
        if random.getstate() != python_random or _numpy_random() != numpy_random:
            raise CaptureError(
                "forward draws from Python's or numpy's random generator; use torch's, which graphs repeat"
            )
        recorder.add_output(value)
    changed = recorder.guards.first_change(dict(root.named_modules()))
    if changed:
        raise CaptureError(f"forward changes state in place: {changed} when it was first read")
    if any(id(tensor) not in tensors_before for _, tensor in model_tensors(root)):
        raise CaptureError("forward puts a new tensor into the model")
    return Capture(recorder.graph, recorder.guards, tuple(recorder.entered), _fingerprint(recorder))


def _fingerprint(recorder: Recorder) -> str:
    lines = [f"{node.op} {node.name} {_target(node)} {node.args} {node.kwargs}" for node in recorder.graph.nodes]
    return "\n".join([*lines, *recorder.decisions])


def _target(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else str(id(node.target))


def _numpy_random() -> Any:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return None
    name, keys, *rest = numpy.random.get_state()
    return name, keys.tobytes(), *rest


@contextmanager
def _named_globals(guards: StateGuards) -> Iterator[None]:
    """Note the plain module globals that the code of the user's functions names, as they run inside."""
    seen: set[Any] = set()

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code in seen:
            return
        seen.add(code)
        owner = frame.f_globals.get("__name__", "")
        if owner.split(".")[0] in _LIBRARIES or owner not in sys.modules:
            return
        for name in code.co_names:
            value = frame.f_globals.get(name)
            if isinstance(value, bool | int | float | str | list | tuple | dict) and not name.startswith("__"):
                guards.globals.setdefault((owner, name), freeze(value))

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # its callbacks are not the user's code
    sys.setprofile(on_event)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


_LIBRARIES = frozenset(sys.stdlib_module_names) - {"__main__"} | {"torch", "numpy", "toponas_fx", "torchvision"}
