"""What a recorder suspends while a leaf runs or it works itself, and what governs torch calls from outside."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import torch


class Pausable(Protocol):
    """A recorder, as far as it is suspended."""

    is_watching: bool
    tracer: Any


class Pause:
    """Lets nothing be watched inside: what the recorder does itself, and a leaf, which is one node."""

    __slots__ = ("_recorder", "_was_watching")

    def __init__(self, recorder: Pausable) -> None:
        """Take the recorder."""
        self._recorder = recorder

    def __enter__(self) -> None:
        recorder = self._recorder
        self._was_watching, recorder.is_watching = recorder.is_watching, False
        if self._was_watching and recorder.tracer is not None:
            sys.settrace(None)

    def __exit__(self, *_: object) -> None:
        recorder = self._recorder
        recorder.is_watching = self._was_watching
        if self._was_watching and recorder.tracer is not None:
            sys.settrace(recorder.tracer)


class OffStack:
    """Takes a recorder off torch's stack of modes, where it would be asked for each call inside a leaf."""

    __slots__ = ("_is_off", "_recorder")

    def __init__(self, recorder: Pausable) -> None:
        """Take the recorder."""
        self._recorder = recorder

    def __enter__(self) -> None:
        depth = torch._C._len_torch_function_stack()
        self._is_off = depth > 0 and torch._C._get_function_stack_at(depth - 1) is self._recorder
        if self._is_off:
            torch._C._pop_torch_function_stack()

    def __exit__(self, *_: object) -> None:
        if self._is_off:
            torch._C._push_on_torch_function_stack(self._recorder)


MODES = ("autocast", "autocast", "inference mode", "the default dtype", "saving of tensors for backward")


def present_modes() -> tuple[Any, ...]:
    """Return what governs torch calls from outside, in the order of ``MODES``; grad mode is seen as a call."""
    autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return *autocast, torch.is_inference_mode_enabled(), torch.get_default_dtype(), hooks
