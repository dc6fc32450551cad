"""Run a model without leaving a trace: tensors, generators and training flags come back as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from toponas_fx.capture.owners import model_tensors


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
    """Restore the values of all tensors of a model and all generators on exit."""
    saved: dict[int, tuple[Tensor, Tensor]] = {}
    for _, tensor in model_tensors(root):
        saved.setdefault(id(tensor), (tensor, tensor.detach().clone()))
    with restored_generators():
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in saved.values():
                    tensor.data.copy_(value)
