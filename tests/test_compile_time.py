"""What the compiler may cost, on the supernet of eight DARTS cells."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import toponas_fx
from supernets.darts import DARTSSupernet
from toponas_fx.program import Call


def seconds(call: Callable[[], Any], count: int) -> float:
    """Return the fastest of several runs: what else the machine does only adds to a time."""
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


@pytest.mark.slow
def test_eight_cells_compile_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One capture takes less than 5 s, all passes over it less than 10 s, and the facade adds less than 1 ms."""
    spent: dict[str, list[float]] = {}

    def timed(module: str, name: str) -> None:
        real = getattr(sys.modules[module], name)

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return real(*args, **kwargs)
            finally:
                spent.setdefault(name, []).append(time.perf_counter() - start)

        monkeypatch.setattr(sys.modules[module], name, run)

    timed("toponas_fx.simplify", "capture")
    timed("toponas_fx.compiler", "run_passes")
    model = DARTSSupernet(C=16, layers=8)
    fast = toponas_fx.simplify(model)
    assert len(spent["capture"]) == len(spent["run_passes"]) == 2
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

    assert seconds(choose, 50) < 1e-3
