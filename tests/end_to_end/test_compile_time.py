"""What the compiler may cost, on the supernet of eight DARTS cells."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch

import toponas_fx
from supernets.darts import DARTSSupernet
from toponas_fx.runtime.call import Call


def instructions(call: Callable[[], Any]) -> int:
    """Return how many instructions of Python a call runs: a count, which no load on the machine changes."""
    found = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal found
        frame.f_trace_opcodes = True
        found += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return found


def ratio(call: Callable[[], Any], other: Callable[[], Any], count: int) -> float:
    """Return the time of one call in those of another, which alternate; the fastest of each count."""
    found: list[list[float]] = [[], []]
    for _ in range(count):
        for times, run in zip(found, (call, other), strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return min(found[0]) / min(found[1])


@pytest.mark.slow
@pytest.mark.timed
def test_eight_cells_compile_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In CPU time one capture takes less than 5 s, the passes less than 10 s; a call adds less than ``zero_grad``."""
    spent: dict[str, list[float]] = {}

    def timed(module: str, name: str) -> None:
        real = getattr(importlib.import_module(module), name)

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return real(*args, **kwargs)
            finally:
                spent.setdefault(name, []).append(time.process_time() - start)

        monkeypatch.setattr(importlib.import_module(module), name, run)

    timed("toponas_fx.capture.small_batches", "capture")
    timed("toponas_fx.compiling.fail_open", "run_passes")
    model = DARTSSupernet(C=16, layers=8)
    fast = toponas_fx.simplify(model)
    assert len(spent["capture"]) == 2, "one in training, one in evaluation"
    assert len(spent["run_passes"]) == 1, "both run one program"
    assert min(spent["capture"]) < 5
    assert min(spent["run_passes"]) < 10

    x = torch.randn(2, 3, 32, 32)
    fast(x)
    state, program = fast._toponas, fast._toponas.programs[0]

    def choose() -> None:
        """Do what a call does before and after it runs the program."""
        call, tree = Call.of((x,), {}, True), state.tree(fast)
        assert program.accepts(call)
        assert program.first_change(tree) is None
        state.used(program)

    def walk() -> None:
        """Do what ``zero_grad`` and ``train`` do at each step, and less."""
        for _ in model.modules():
            pass

    choose()
    walk()
    assert instructions(choose) < 0.06 * instructions(walk), "what is compared, C compares"
    assert ratio(choose, walk, 50) < 1, "and in time less than one of the walks that each step does anyway"
    assert ratio(choose, lambda: model(x), 20) < 0.02, "and after a step, which takes its place in the cache"
