"""Audits: what no guard can see is found by its effect, within a budget, and said with the user's line."""

from __future__ import annotations

import array
import ctypes
import decimal
import mmap
import operator
import pickle
import sqlite3
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from audited import repeat
from exactness import assert_runs_like, image
from toponas_fx.runtime import auditing


class Settings:
    def __init__(self) -> None:
        self.tau = 1.0


class Layout(ctypes.Structure):
    _fields_ = [("tau", ctypes.c_double)]


SETTINGS = Settings()
NUMBER, NUMBERS, LAYOUT = ctypes.c_double(1.0), (ctypes.c_double * 2)(1.0, 1.0), Layout(1.0)
MEMORY, ARRAY, BYTES = mmap.mmap(-1, 8), array.array("d", [1.0]), bytearray(8)
ITEMS, TABLE, VIEW = [1.0], {"tau": 1.0}, memoryview(BYTES)
GET, OWN = operator.attrgetter("tau"), SETTINGS.__getattribute__
FIRST, OF_TABLE = ITEMS.__getitem__, TABLE.__getitem__
BASE = sqlite3.connect(":memory:", check_same_thread=False)
BASE.execute("create table settings (tau)")
BASE.execute("insert into settings values (1.0)")


def put(target: Any, key: Any) -> Callable[[float], None]:
    return lambda value: operator.setitem(target, key, value)


def pack(target: Any) -> Callable[[float], None]:
    return lambda value: operator.setitem(target, slice(0, 8), struct.pack("d", value))


def set_precision(value: float) -> None:
    decimal.getcontext().prec = int(28 * value)


CASES: dict[str, tuple[Callable[[], float], Callable[[float], Any]]] = {
    "ctypes": (lambda: NUMBER.value, lambda value: setattr(NUMBER, "value", value)),
    "ctypes_array": (lambda: NUMBERS[0], put(NUMBERS, 0)),
    "ctypes_structure": (lambda: LAYOUT.tau, lambda value: setattr(LAYOUT, "tau", value)),
    "mmap": (lambda: struct.unpack("d", MEMORY[:8])[0], pack(MEMORY)),
    "array": (lambda: ARRAY[0], put(ARRAY, 0)),
    "bytearray": (lambda: struct.unpack("d", BYTES)[0], pack(BYTES)),
    "memoryview": (lambda: struct.unpack("d", VIEW)[0], pack(BYTES)),
    "attrgetter": (lambda: GET(SETTINGS), lambda value: setattr(SETTINGS, "tau", value)),
    "getattribute": (lambda: OWN("tau"), lambda value: setattr(SETTINGS, "tau", value)),
    "list_method": (lambda: FIRST(0), put(ITEMS, 0)),
    "dict_method": (lambda: OF_TABLE("tau"), put(TABLE, "tau")),
    "frame": (lambda: sys._getframe(0).f_globals["SETTINGS"].tau, lambda value: setattr(SETTINGS, "tau", value)),
    "sqlite": (
        lambda: BASE.execute("select tau from settings").fetchone()[0],
        lambda value: BASE.execute("update settings set tau = ?", (value,)),
    ),
    "decimal": (lambda: decimal.getcontext().prec / 28, set_precision),
}


class Supernet(nn.Module):
    """A mixed operation whose weights are sharpened by a number that is reached by ``read``."""

    def __init__(self, read: Callable[[], float]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3, 5))
        self.norm = nn.BatchNorm2d(4)
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0, 1.5]))
        self.read, self.scale = read, 1.0
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.alphas * self.scale / self.read(), dim=0)
        return self.norm(sum(w * op(x) for w, op in zip(weights, self.ops, strict=True)))


LINE = f"{__file__}:{Supernet.forward.__code__.co_firstlineno + 1}"
X = image(channels=3)


def number() -> float:
    return float(NUMBER.value)


def made(read: Callable[[], float] = number, **options: Any) -> tuple[Any, Any]:
    model = Supernet(read)
    return model, toponas_fx.simplify(model, X, mode="exact", **options)


@pytest.fixture(autouse=True)
def _at_one() -> Any:
    for _, change in CASES.values():
        change(1.0)
    yield
    for _, change in CASES.values():
        change(1.0)


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that grows with each audit."""
    found: list[Any] = []
    real = auditing.finding
    monkeypatch.setattr(auditing, "finding", lambda *args: found.append(args[2]) or real(*args))
    return found


def audited_calls(audits: list[Any], fast: Any, count: int) -> list[int]:
    """Return which calls, of some in turn, were audited."""
    found = []
    for call in range(1, count + 1):
        before = len(audits)
        fast(X)
        found += [call] * (len(audits) - before)
    return found


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_what_no_guard_sees_is_found(name: str) -> None:
    read, change = CASES[name]
    model, fast = made(read)
    for _ in range(5):
        fast(X)
    change(2.0)
    for _ in range(2):
        fast(X)
    with pytest.warns(UserWarning, match="an audit found that forward had changed") as caught:
        assert_runs_like(fast, model, X)
    assert [LINE in str(warning.message) for warning in caught] == [True]
    assert [note for note in fast.report.notes if LINE in note and "dropped" in note]
    assert not fast._toponas.as_written
    assert_runs_like(fast.eval(), model.eval(), X)

    change(4.0)
    with pytest.warns(UserWarning, match="cannot be watched") as caught:
        repeat(fast, X, 32)
    assert len(caught) == 1
    assert all(LINE in reason for reason in fast._toponas.as_written.values())
    assert any("runs as its user wrote it" in note and LINE in note for note in fast.report.notes)
    for value in (3.0, 5.0):  # as written, for every kind of call
        change(value)
        for training in (True, False):
            assert_runs_like(fast.train(training), model.train(training), X)


def test_a_path_that_no_guard_sees_is_found() -> None:
    class Chosen(Supernet):
        def forward(self, x: Tensor) -> Tensor:
            return self.ops[int(NUMBER.value)](x)

    model = Chosen(number)
    with pytest.warns(UserWarning, match="no mixed operation"):
        fast = toponas_fx.simplify(model, X, mode="exact")
    fast(X)
    NUMBER.value = 2.0
    with pytest.warns(UserWarning, match=r"computes `ops\.2\(%0\)`, the program `ops\.1\(%0\)`"):
        assert_runs_like(fast, model, X)


def test_a_forward_that_cannot_be_captured_any_more_runs_as_written() -> None:
    class Counting(Supernet):
        def forward(self, x: Tensor) -> Tensor:
            if NUMBER.value > 1:
                self.calls.append(1)
            return super().forward(x)

    model = Counting(number)
    model.calls = []
    fast = toponas_fx.simplify(model, X, mode="exact")
    fast(X)
    NUMBER.value = 2.0
    with pytest.warns(UserWarning, match="an audit found .* changes state in place"):
        fast(X)
    assert len(fast.calls) == 1
    assert "changes state in place" in next(iter(fast._toponas.as_written.values()))


def test_a_program_from_a_pickle_is_audited() -> None:
    model, fast = made()
    fast = pickle.loads(pickle.dumps(fast))
    fast(X)
    NUMBER.value = 2.0
    with pytest.warns(UserWarning, match="an audit found"):
        torch.testing.assert_close(fast(X), model(X), rtol=1e-10, atol=1e-10)


def test_sampled_paths_are_audited_one_after_another(audits: list[Any]) -> None:
    class Sampled(Supernet):
        def forward(self, x: Tensor) -> Tensor:
            index = int(torch.multinomial(torch.softmax(self.alphas, 0), 1))
            y = self.ops[index](x)
            return y * NUMBER.value if index == 2 else y

    model = Sampled(number)
    fast = toponas_fx.simplify(model, X, mode="exact")
    assert fast._toponas.programs[0].turns
    assert audited_calls(audits, fast, 9) == [2, 4, 8]
    NUMBER.value = 3.0
    with pytest.warns(UserWarning, match="an audit found") as caught:
        repeat(fast, X, 60)  # until each candidate had its turn
    assert len(caught) == 1
    for seed in range(6):
        torch.manual_seed(seed)
        expected = model(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(fast(X), expected, rtol=1e-10, atol=1e-10)


# -- when --------------------------------------------------------------------------------------------------------------


def test_early_calls_are_audited(audits: list[Any]) -> None:
    _, fast = made()
    assert audited_calls(audits, fast, 20) == [2, 4, 8, 16]
    fast.eval()
    assert audited_calls(audits, fast, 3) == [2]
    fast.train()
    assert audited_calls(audits, fast, 2) == [1]  # the 21st of its program, the first after another
    fast.load_state_dict(fast.state_dict())
    assert audited_calls(audits, fast, 3) == [1]


def test_nothing_is_recorded_where_no_audit_is_wanted(audits: list[Any]) -> None:
    model, fast = made(audit=False)
    assert audited_calls(audits, fast, 40) == []
    NUMBER.value = 2.0
    assert audited_calls(audits, fast, 40) == []
    assert not torch.allclose(fast(X), model(X))  # what audits are for
