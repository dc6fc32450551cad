"""Audits change nothing where they find nothing: no number, no draw, no hook, no memory, no time beyond the budget."""

from __future__ import annotations

import copy
import ctypes
import gc
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_audits import Supernet, X, made
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import toponas_fx
from audited import assert_equal, audit_always
from toponas_fx.runtime import auditing
from toponas_fx.runtime.auditing import EARLY, SHARE


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Audit every call that a program runs, and return the list of what audits find."""
    return audit_always(monkeypatch)


# -- where a recording might be noticed --------------------------------------------------------------------------------


def test_hooks_run_once_a_call(always: list[Any]) -> None:
    _, fast = made()
    calls: list[Any] = []
    fast.norm.register_forward_hook(lambda *_: calls.append(1))
    fast(X)
    calls.clear()
    always.clear()
    for _ in range(4):
        fast(X)
    assert (len(calls), always) == (4, [])
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        fast(X)
    finally:
        handle.remove()
    assert always == []


def test_what_looks_on_sees_the_program_alone(always: list[Any]) -> None:
    _, fast = made()
    _, other = made(audit=False)
    counts = []
    for model in (fast, other):
        with FlopCounterMode(display=False) as counter:
            model(X)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    saved: list[Any] = [[], []]
    for model, found in zip((fast, other), saved, strict=True):
        with torch.autograd.graph.saved_tensors_hooks(lambda t, found=found: found.append(t.shape) or t, lambda t: t):
            model(X)
    assert saved[0] == saved[1]
    assert always == [None]


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_backward_pass_that_runs_it_again_is_left_alone(use_reentrant: bool, always: list[Any]) -> None:
    gradients = []
    for audit in (True, False):
        torch.manual_seed(0)
        _, fast = made(audit=audit)
        x = X.clone().requires_grad_()
        y = checkpoint(fast, x, use_reentrant=use_reentrant)
        before = len(always)
        y.square().sum().backward()
        assert len(always) == before == 1
        gradients.append([x.grad, *(parameter.grad for parameter in fast.parameters())])
    assert_equal(*gradients)


def test_transforms_and_second_derivatives(always: list[Any]) -> None:
    def squares(weights: Any, model: Any) -> Tensor:
        return torch.func.functional_call(model, weights, (X,)).square().sum()

    found = []
    for audit in (True, False):
        torch.manual_seed(0)
        _, fast = made(audit=audit)
        fast.eval()
        weights = dict(fast.named_parameters())
        loss = fast(X).square().sum()
        first = torch.autograd.grad(loss, weights.values(), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), weights.values())
        count = len(always)
        mapped = torch.func.grad(squares)({name: value.detach() for name, value in weights.items()}, fast)
        assert len(always) == count == 1
        found.append([first, second, mapped])
    assert_equal(*found)


def test_inference_mode_is_none_of_forwards(always: list[Any]) -> None:
    model, fast = made()
    for batch in (X, X[:, :, :4, :4]):  # which is captured in it
        with torch.inference_mode():
            torch.testing.assert_close(fast(batch), model(batch), rtol=1e-10, atol=1e-10)
    assert always == [None]
    assert not fast._toponas.as_written


def test_several_processes_or_threads_are_left_alone(always: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "get_world_size", lambda: 2)
        fast(X)
        assert always == []
        patch.setattr(torch.distributed, "get_world_size", lambda: 1)
        fast(X)
        assert always == [None]
    shared = copy.deepcopy(fast).share_memory()
    shared(X)
    assert always == [None]
    thread = threading.Thread(target=fast, args=(X,))
    thread.start()
    thread.join()
    fast(X)
    assert always == [None]


def test_compiled_models(always: list[Any]) -> None:
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    _, fast = made()
    _, plain = made(audit=False)
    plain.load_state_dict(fast.state_dict())
    fast.compile(fullgraph=True, backend=counter)
    for _ in range(3):
        torch.testing.assert_close(fast(X), plain(X), rtol=1e-10, atol=1e-10)
    assert counter.frame_count == 1
    assert always == [None] * 3


def test_an_error_of_a_recorded_run_is_not_the_calls(always: list[Any]) -> None:
    refused = ctypes.c_int(0)

    class Picky(Supernet):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] == refused.value:
                raise ValueError("not of this size")
            return super().forward(x)

    fast = toponas_fx.simplify(Picky(lambda: 1.0), X, mode="exact", passes=())
    refused.value = 2
    torch.testing.assert_close(fast(X), fast.reference(X), rtol=1e-10, atol=1e-10)
    assert always == [None]


def test_other_data_are_no_finding(always: list[Any]) -> None:
    class Asking(Supernet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (2.0 if x[0, 0, 0, 0] > 0 else 3.0)

    model = Asking(lambda: 1.0)
    fast = toponas_fx.simplify(model, X.abs(), mode="exact")
    for x in (X.abs(), -X.abs(), X.abs(), -X.abs()):
        torch.testing.assert_close(fast(x), model(x), rtol=1e-10, atol=1e-10)
    assert len(always) >= 4
    assert set(always) == {None}


def test_a_finding_that_does_not_come_back_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    programs = list(fast._toponas.programs)
    found = iter([("here", "another thread"), None])
    monkeypatch.setattr(auditing, "finding", lambda *_: next(found, None))
    for _ in range(3):
        fast(X)
    assert programs[0] in fast._toponas.programs


def test_numbers_that_change_are_inputs_of_audits_too(always: list[Any]) -> None:
    model, fast = made(lambda: 1.0)
    for step in range(6):
        for one in (model, fast):
            one.scale = 1.0 + step
        torch.testing.assert_close(fast(X), model(X), rtol=1e-10, atol=1e-10)
    assert len(always) >= 3
    assert set(always) == {None}


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("early", [0.0, EARLY])
def test_audits_take_a_hundredth(early: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    fast._toponas.audits.budget.early = early
    spent, real = [], auditing.is_outdated

    def timed(*args: Any) -> bool:
        start = time.process_time()
        result = real(*args)
        spent.append(time.process_time() - start)
        return result

    monkeypatch.setattr("toponas_fx.facade.dispatch.is_outdated", timed)
    start = time.process_time()
    while time.process_time() - start < 1.5:
        fast(X).sum().backward()
    total = time.process_time() - start
    assert len(spent) >= (4 if early else 1)
    if early:
        assert sum(spent) < early
    else:
        assert sum(spent) < SHARE * total * 1.2 + max(spent)


@pytest.mark.slow
def test_a_thousand_steps_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    audits = audit_always(monkeypatch, every=5)

    def steps(count: int) -> tuple[int, int]:
        for _ in range(count):
            fast(X).sum().backward()
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(gc.get_objects())

    tracemalloc.start()
    try:
        memory, objects = steps(1000)  # Python's own tables have grown to their size by then
        audits.clear()
        more_memory, more_objects = steps(1000)
    finally:
        tracemalloc.stop()
    assert len(audits) == 200
    audits.clear()
    assert more_memory - memory < 64 * 1024
    assert more_objects - objects < 100


def clock(monkeypatch: pytest.MonkeyPatch, per_call: float, per_audit: float) -> Callable[[Any, int], list[int]]:
    """Let calls and audits take so many seconds, and return what tells which calls are audited."""
    now, found = [0.0], list[int]()
    monkeypatch.setattr(time, "thread_time", lambda: now[0])
    real = auditing.finding

    def take(*args: Any) -> Any:
        now[0] += per_audit
        found.append(-1)
        return real(*args)

    monkeypatch.setattr(auditing, "finding", take)

    def audited(fast: Any, count: int) -> list[int]:
        numbers = []
        for call in range(1, count + 1):
            before = len(found)
            fast(X)
            now[0] += per_call
            numbers += [call] * (len(found) - before)
        return numbers

    return audited


def test_a_large_model_is_audited_when_a_hundredth_of_its_time_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    audited = clock(monkeypatch, per_call=1.0, per_audit=3.0)
    for program in fast._toponas.programs:
        program.seconds = 3.0
    assert audited(fast, 1000) == [301, 601, 901]


def test_time_that_was_not_used_is_not_spent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    audited = clock(monkeypatch, per_call=10_000.0, per_audit=3.0)
    for program in fast._toponas.programs:
        program.seconds = 3.0
    assert audited(fast, 3) == [2, 3]
    audited = clock(monkeypatch, per_call=1.0, per_audit=3.0)
    fast._toponas.audits.budget.clock = 0.0
    assert audited(fast, 299) == []


def test_an_audit_that_takes_longer_than_expected_is_paid_first(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast = made()
    audited = clock(monkeypatch, per_call=1.0, per_audit=5.0)
    for program in fast._toponas.programs:
        program.seconds = 1.0
    assert audited(fast, 1100) == [101, 1001]
