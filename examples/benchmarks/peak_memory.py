"""By how much one row lets a process grow: each row in a process of its own.

On a CUDA device torch's own counter is read, elsewhere the resident size of the process at its largest.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.rows import prepare
from benchmarks.spaces import SPACES, Row, Size
from benchmarks.steps import step_seconds, trained_tensors
from toponas_fx.tuning.steps import CudaPeak, ResidentPeak

STEPS = 2
"""Steps whose peak is taken; of a sampled path as many for each round of warming up, as paths differ in memory."""


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
    peak = CudaPeak(size.device) if torch.device(size.device).type == "cuda" else ResidentPeak()
    start = peak.read()
    ready = prepare(row, size)
    step_seconds(ready.model, ready.batch, 0)
    whole = peak.read() - start
    for tensor in trained_tensors(ready.model):
        tensor.grad = None
    gc.collect()
    at_rest = peak.read() if peak.reset() else None
    for seed in range(STEPS * SPACES[size.space].warm_up):
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
