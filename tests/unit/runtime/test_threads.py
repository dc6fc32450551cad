"""Several threads at once: each gets its own results, and no capture sees what another thread does."""

from __future__ import annotations

import copy
import itertools
import os
import pkgutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image

N = 4


def slow(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Let whatever calls a function wait before, so that other threads come in between."""
    owner, _, name = where.rpartition(".")
    real, pauses = getattr(pkgutil.resolve_name(owner), name), itertools.cycle((0.0, 0.003, 0.001, 0.005, 0.002))

    def later(*args: Any, **kwargs: Any) -> Any:
        time.sleep(next(pauses))
        return real(*args, **kwargs)

    monkeypatch.setattr(where, later)


class Edge(nn.Module):
    """A few candidates, and plain state that another thread may set."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4, affine=False))
            for k in (1, 3, 5)
        )
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Mix; another path for each width."""
        weights = self.alphas.softmax(0)
        for width in (7, 9, 11):
            if x.size(3) > width:
                weights = weights * 1.5
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))  # type: ignore[return-value]


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Run tasks in threads that start together; raise what one of them raises."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result() for future in [pool.submit(run, task) for task in tasks]]


@pytest.mark.parametrize("mode", ["exact", "share"])
def test_calls_of_other_sizes_at_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Edge()
    fast = toponas_fx.simplify(model, image(), mode=mode).eval()
    slow(monkeypatch, "toponas_fx.compiling.fail_open.run_passes")
    inputs = [image(batch=2 + k % 3, side=6 + 2 * k, seed=k) for k in range(N)]
    with torch.no_grad():
        expected = [fast.reference(x) for x in inputs]

    def task(k: int) -> Callable[[], Any]:
        def run() -> list[Tensor]:
            with torch.no_grad():
                return [fast(inputs[(k + step) % N]) for step in range(12)]

        return run

    for k, found in enumerate(at_once(*map(task, range(N)))):
        for step, out in enumerate(found):
            assert torch.allclose(out, expected[(k + step) % N], rtol=0, atol=1e-10)
    assert not fast._toponas.as_written


def test_models_are_simplified_at_once() -> None:
    models = [Edge() for _ in range(N)]

    def task(model: Edge) -> Callable[[], Any]:
        return lambda: toponas_fx.simplify(model, image(), mode="exact")

    for model, fast in zip(models, at_once(*map(task, models)), strict=True):
        assert not fast._toponas.as_written
        out, expected = fast(image()), model(image())
        assert torch.allclose(out, expected, rtol=0, atol=1e-10)
    assert nn.Module.__call__.__module__.startswith("torch."), "no patch stays"
    assert "__getattribute__" not in vars(nn.Module)


def test_a_capture_sees_its_own_thread_only() -> None:
    other, stop, wrong = Edge(), threading.Event(), []
    x = image(seed=9)
    expected = copy.deepcopy(other)(x)

    def train() -> int:
        count = 0
        while not stop.is_set() or count < 3:
            other.tau = count  # a write that a recorder of this thread would refuse
            twin = copy.deepcopy(other)
            if not torch.allclose(twin(x), expected, rtol=0, atol=1e-10):
                wrong.append(count)
            count += 1
        return count

    def simplify() -> list[Any]:
        try:
            return [toponas_fx.simplify(Edge(), image(), mode="exact") for _ in range(6)]
        finally:
            stop.set()

    _, found = at_once(train, simplify)
    assert not wrong
    graphs = {fast.code for fast in found}
    assert len(graphs) == 1, "graphs of equal models, whatever the other thread did meanwhile"
    assert not any(fast._toponas.as_written for fast in found)


def test_the_reference_and_layers_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(Edge(), image(), mode="share").eval()
    kernels = [op[1] for op in fast.ops if "_toponas_kernel" in vars(op[1])]
    assert kernels
    x = image()
    with torch.no_grad():
        expected, of_layer = fast.reference(x), kernels[0](x)
    slow(monkeypatch, "torch.nn.Module._call_impl")

    def layer() -> list[Tensor]:
        with torch.no_grad():
            return [kernels[0](x) for _ in range(24)]

    def reference() -> list[Tensor]:
        with torch.no_grad():
            return [fast.reference(x) for _ in range(6)]

    fast.train()
    before = [buffer.clone() for buffer in fast.buffers()]
    at_once(reference, reference)
    assert all(map(torch.equal, fast.buffers(), before))
    fast.eval()
    layers, others, *references = at_once(layer, layer, reference, reference)
    assert all(torch.equal(out, of_layer) for out in (*layers, *others))
    assert all(torch.allclose(out, expected, rtol=0, atol=1e-10) for outs in references for out in outs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_forked_while_another_thread_captures_waits_for_nobody() -> None:
    from toponas_fx.capture.alone import ALONE

    fast = toponas_fx.simplify(Edge(), image(), mode="exact").eval()
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with ALONE:
            taken.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(30)
    child = os.fork()
    if child == 0:
        with torch.no_grad():
            fast(image())
        os._exit(7)
    try:
        for _ in range(300):
            finished, status = os.waitpid(child, os.WNOHANG)
            if finished:
                break
            threading.Event().wait(0.1)
        else:
            os.kill(child, 9)
        assert finished
        assert os.waitstatus_to_exitcode(status) == 7
    finally:
        done.set()
        thread.join()
