"""By how much one row lets a process grow: each row in a process of its own.

On a CUDA device torch's own counter is read, elsewhere the resident size of the process at its largest.
"""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.rows import Row, Size, prepare
from benchmarks.steps import step_seconds, trained_tensors

STEPS = 2


class MeasuringFailed(Exception):
    """The process that was to take a row's steps ended without numbers."""


@dataclass(frozen=True)
class Growth:
    """How much memory a row takes, in bytes.

    Attributes:
        steps: above what the process holds between two steps, or None where the system keeps one peak alone.
        whole: above what it held before the model was made; capture, passes and compilation are in it.
    """

    steps: int | None
    whole: int


def growth(row: Row, size: Size) -> Growth:
    """Measure in this process, which is new and has everything imported."""
    peak = _CudaPeak(size.device) if torch.device(size.device).type == "cuda" else _ResidentPeak()
    start = peak.read()
    ready = prepare(row, size)
    step_seconds(ready.model, ready.batch, 0)
    whole = peak.read() - start
    for tensor in trained_tensors(ready.model):
        tensor.grad = None
    gc.collect()
    at_rest = peak.read() if peak.reset() else None
    for seed in range(STEPS):
        step_seconds(ready.model, ready.batch, seed)
    return Growth(None if at_rest is None else peak.read() - at_rest, max(whole, peak.read() - start))


def growth_in_subprocess(script: Path, options: Sequence[str]) -> Growth:
    """Run a script that calls `print_growth`, and return what it found."""
    command = [sys.executable, "-W", "ignore", str(script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        errors = done.stderr.strip().splitlines() or ["it printed nothing"]
        raise MeasuringFailed(f"the process for memory ended with {done.returncode}: {errors[-1]}")
    return Growth(**json.loads(lines[-1]))


def print_growth(row: Row, size: Size) -> None:
    """Measure in this process and print it for the one that started it."""
    print(json.dumps(asdict(growth(row, size))))


class _CudaPeak:
    """What torch has given out at most on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def read(self) -> int:
        return torch.cuda.max_memory_allocated(self.device)

    def reset(self) -> bool:
        torch.cuda.reset_peak_memory_stats(self.device)
        return True


class _ResidentPeak:
    """How large this process was at most.

    Linux counts into `getrusage` the process that started this one, as large as it was then; the system's own page on
    this process does not, and lets the peak be forgotten.
    """

    def read(self) -> int:
        try:
            with open("/proc/self/status", encoding="ascii") as lines:
                return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else 1024 * peak

    def reset(self) -> bool:
        """Hand freed memory back to the system and let it forget the peak; return whether it could."""
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except (OSError, AttributeError):
            return False
        return True
