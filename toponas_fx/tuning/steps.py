"""One forward and backward pass of a model: how long it takes beside another's, and how much memory at most."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.module_tree.tensor_paths import model_tensors

_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_STEPS = 2


@dataclass(frozen=True)
class Step:
    """One forward and backward pass, which leaves no gradients behind.

    Attributes:
        text: what is measured.
        call: the forward pass.
        owner: the model whose tensors get gradients.
    """

    text: str
    call: Callable[[], Any]
    owner: nn.Module

    def run(self) -> float:
        """Return how many seconds it takes."""
        tensors = {id(tensor): tensor for _, tensor in model_tensors(self.owner)}
        wanted = [tensor for tensor in tensors.values() if tensor.requires_grad and tensor.is_leaf]
        _wait()
        start = time.perf_counter()
        with torch.enable_grad():
            outputs = [leaf for leaf in pytree.tree_leaves(self.call()) if isinstance(leaf, Tensor)]
            losses = [(output * output).sum() for output in outputs if output.requires_grad]
            if losses and wanted:
                torch.autograd.grad(sum(losses), wanted, allow_unused=True)  # type: ignore[arg-type]
        _wait()
        return time.perf_counter() - start


def peak_bytes(step: Step, device: torch.device) -> int | None:
    """Return by how much a step lets memory grow above what is held between two steps.

    On a CUDA device torch's own counter is read, elsewhere the resident size of this process at its largest.

    Returns:
        Bytes; None where the system does not forget an earlier peak.
    """
    peak = CudaPeak(device) if device.type == "cuda" else ResidentPeak()
    step.run()
    gc.collect()
    if not peak.reset():
        return None
    at_rest = peak.read()
    for _ in range(_PEAK_STEPS):
        step.run()
    return peak.read() - at_rest


class CudaPeak:
    """What torch has given out at most on a device."""

    def __init__(self, device: torch.device | str) -> None:
        """Take the device."""
        self.device = device

    def read(self) -> int:
        """Return the peak in bytes."""
        return torch.cuda.max_memory_allocated(self.device)

    def reset(self) -> bool:
        """Forget the peak."""
        torch.cuda.reset_peak_memory_stats(self.device)
        return True


class ResidentPeak:
    """How large this process was at most.

    Linux counts into ``getrusage`` the process that started this one, as large as it was then; the system's own page
    on this process does not, and lets the peak be forgotten.
    """

    def read(self) -> int:
        """Return the peak in bytes."""
        try:
            with _STATUS.open(encoding="ascii") as lines:
                return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else 1024 * peak

    def reset(self) -> bool:
        """Hand freed memory back to the system and let it forget the peak; return whether it could."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
            _FORGET.write_text("5", encoding="ascii")
        except (OSError, AttributeError):
            return False
        return True


def _wait() -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
