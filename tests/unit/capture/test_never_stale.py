"""Nothing that forward reads goes stale: clocks, generators and iterators, numbers reached through code, methods.

Each case changes what forward reads after ``simplify``; the very next call must follow. What answers otherwise at each
call cannot be compiled: the model runs as written and the warning names it.
"""

from __future__ import annotations

import contextvars
import datetime
import functools
import itertools
import os
import random
import secrets
import sys
import threading
import time
import types
import uuid
import weakref
from collections.abc import Callable, Iterator
from time import perf_counter_ns
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image, no_capture


class Settings:
    def __init__(self, tau: float = 1.0) -> None:
        self.tau = tau


class Slotted:
    __slots__ = ("tau",)


class Single:
    made: Settings | None = None

    @classmethod
    def get(cls) -> Settings:
        cls.made = cls.made or Settings()
        return cls.made


class OfSettings:
    """A descriptor."""

    def __get__(self, owner: Any, kind: Any = None) -> float:
        return SETTINGS.tau


class Supernet(nn.Module):
    """A mixed operation whose weights are sharpened by ``tau()``, and one candidate that ``pick()`` chooses."""

    described = OfSettings()

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(3, 4, k, padding=k // 2) for k in (1, 3, 5))
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0, 1.5]))
        self.double()
        self.own = 1.0
        self.read = self.hot

    def tau(self) -> float:
        return 1.0

    def pick(self) -> int:
        return 2

    def hot(self) -> float:
        return 1.0

    def cold(self) -> float:
        return 4.0

    def forward(self, x: Tensor) -> Any:
        weights = torch.softmax(self.alphas / self.tau(), 0)
        mixed = sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))
        return mixed + weights[0] * self.ops[self.pick() % 3](x)


def count() -> Iterator[int]:
    yield from itertools.count()


SETTINGS = Settings()
HELD = [SETTINGS]
TABLE = {"tau": 1.0}
DEEP = {"a": [{"b": {"c": [{"d": {"e": {"f": [1.0]}}}]}}]}
TEXTS = {"settings": SETTINGS}
VARIABLE: contextvars.ContextVar[float] = contextvars.ContextVar("tau", default=1.0)
LOCAL = threading.local()
LOCAL.tau = 1.0
WEAK = weakref.ref(SETTINGS)
SLOTTED = Slotted()
SLOTTED.tau = 1.0
NUMPY, PYTHON, SYSTEM = numpy.random.default_rng(0), random.Random(0), random.SystemRandom()
COUNT, CYCLE, GENERATOR, ITERATOR = itertools.count(), itertools.cycle(range(3)), count(), iter(range(10**6))
IMPORTED = types.ModuleType("toponas_imported_settings")
IMPORTED.settings = SETTINGS  # type: ignore[attr-defined]


def settings() -> Settings:
    return SETTINGS


def through() -> Settings:
    return HELD[0]


@functools.lru_cache
def cached() -> Settings:
    return Settings()


@functools.cache
def cached_by(name: str) -> Settings:
    return Settings()


def with_attribute() -> float:
    return with_attribute.tau  # type: ignore[attr-defined, no-any-return]


with_attribute.tau = 1.0  # type: ignore[attr-defined]


def swapped() -> float:
    return 1.0


def late_import() -> float:
    import toponas_imported_settings  # type: ignore[import-not-found]

    return toponas_imported_settings.settings.tau  # type: ignore[no-any-return]


def late_clock() -> int:
    from time import time_ns

    return time_ns() // 100


DRAWS: dict[str, Callable[[Any], Any]] = {
    "numpy_generator": lambda m: int(NUMPY.integers(3)),
    "numpy_generator_made": lambda m: int(numpy.random.default_rng().integers(3)),
    "python_generator": lambda m: PYTHON.randrange(3),
    "python_generator_in_c": lambda m: int(PYTHON.random() * 3),
    "python_generator_made": lambda m: random.Random().randrange(3),
    "system": lambda m: SYSTEM.randrange(3),
    "secrets": lambda m: secrets.randbelow(3),
    "bytes": lambda m: os.urandom(1)[0],
    "uuid": lambda m: uuid.uuid4().int,
    "clock": lambda m: time.time_ns() // 100,
    "counter": lambda m: perf_counter_ns() // 100,
    "imported_clock": lambda m: late_clock(),
    "date": lambda m: datetime.datetime.now().microsecond,
    "count": lambda m: next(COUNT),
    "cycle": lambda m: next(CYCLE),
    "generator": lambda m: next(GENERATOR),
    "iterator": lambda m: ITERATOR.__next__(),
    "own_count": lambda m: next(m.count),
    "own_numpy": lambda m: int(m.numpy.integers(3)),
    "own_python": lambda m: m.python.randrange(3),
}
"""Which candidate: another at nearly every call."""


@pytest.mark.parametrize("way", DRAWS)
def test_what_answers_otherwise_each_time_is_not_compiled(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supernet, "pick", DRAWS[way])
    model = Supernet()
    model.count, model.numpy, model.python = itertools.count(), numpy.random.default_rng(1), random.Random(1)
    with pytest.warns(UserWarning, match="runs as its user wrote it"):
        fast = toponas_fx.simplify(model, image(channels=3))
    names = {name for name, _ in model.named_parameters()}
    assert {name for name, _ in fast.named_parameters()} == names, "a path that may come yet is lost"
    assert len({float(fast(image(channels=3)).detach().sum()) for _ in range(40)}) == 3


NUMBERS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, float], Any]]] = {
    "function": (lambda m: settings().tau, lambda m, tau: setattr(SETTINGS, "tau", tau)),
    "function_through": (lambda m: through().tau, lambda m, tau: setattr(SETTINGS, "tau", tau)),
    "single": (lambda m: Single.get().tau, lambda m, tau: setattr(Single.get(), "tau", tau)),
    "lru_cache": (lambda m: cached().tau, lambda m, tau: setattr(cached(), "tau", tau)),
    "cache": (lambda m: cached_by("it").tau, lambda m, tau: setattr(cached_by("it"), "tau", tau)),
    "context": (lambda m: VARIABLE.get(), lambda m, tau: VARIABLE.set(tau)),
    "thread": (lambda m: LOCAL.tau, lambda m, tau: setattr(LOCAL, "tau", tau)),
    "environ": (lambda m: float(os.environ["TAU"]), lambda m, tau: os.environ.update(TAU=str(tau))),
    "environ_get": (lambda m: float(os.environ.get("TAU", 1)), lambda m, tau: os.environ.update(TAU=str(tau))),
    "getenv": (lambda m: float(os.getenv("TAU", "1")), lambda m, tau: os.environ.update(TAU=str(tau))),
    "weak": (lambda m: WEAK().tau, lambda m, tau: setattr(SETTINGS, "tau", tau)),  # type: ignore[union-attr]
    "vars": (lambda m: vars(m)["own"], lambda m, tau: setattr(m, "own", tau)),
    "own_dict": (lambda m: m.__dict__.get("own"), lambda m, tau: setattr(m, "own", tau)),
    "getattr": (lambda m: getattr(m, "".join(("o", "wn"))), lambda m, tau: setattr(m, "own", tau)),
    "deep": (
        lambda m: DEEP["a"][0]["b"]["c"][0]["d"]["e"]["f"][0],  # type: ignore[index]
        lambda m, tau: DEEP["a"][0]["b"]["c"][0]["d"]["e"]["f"].__setitem__(0, tau),  # type: ignore[index]
    ),
    "globals": (lambda m: globals()["TABLE"]["tau"], lambda m, tau: TABLE.update(tau=tau)),
    "module_text": (lambda m: sys.modules[__name__].TABLE["tau"], lambda m, tau: TABLE.update(tau=tau)),
    "in_table": (lambda m: TEXTS["settings"].tau, lambda m, tau: setattr(SETTINGS, "tau", tau)),
    "descriptor": (lambda m: m.described, lambda m, tau: setattr(SETTINGS, "tau", tau)),
    "slots": (lambda m: SLOTTED.tau, lambda m, tau: setattr(SLOTTED, "tau", tau)),
    "function_attribute": (lambda m: with_attribute(), lambda m, tau: setattr(with_attribute, "tau", tau)),
    "import": (lambda m: late_import(), lambda m, tau: setattr(SETTINGS, "tau", tau)),
    "deterministic": (
        lambda m: 4.0 if torch.are_deterministic_algorithms_enabled() else 1.0,
        lambda m, tau: torch.use_deterministic_algorithms(tau == 4.0),
    ),
    "anomaly": (
        lambda m: 4.0 if torch.is_anomaly_enabled() else 1.0,
        lambda m, tau: torch.autograd.set_detect_anomaly(tau == 4.0),
    ),
}
"""How forward comes by a temperature, and how it is changed."""


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("way", NUMBERS)
def test_numbers_reached_through_code(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, change = NUMBERS[way]
    monkeypatch.setenv("TAU", "1.0")
    monkeypatch.setitem(sys.modules, IMPORTED.__name__, IMPORTED)
    monkeypatch.setattr(Supernet, "tau", read)
    model, x = Supernet(), image(channels=3)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast._toponas.programs
    with no_capture(monkeypatch):
        before = fast(x)
    try:
        for tau in (4.0, 1.0, 4.0):
            for each in (model, fast):
                change(each, tau)
            assert torch.equal(fast(x), before) == (tau == 1.0)
            assert_runs_like(fast, model, x)
    finally:
        change(model, 1.0)


def test_what_only_looks_impure_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that forward writes to, names of its own that a clock has too, and iterators that it makes."""

    def tau(m: Any) -> float:
        print("tau", file=sys.stderr)
        return m.time + next(iter([0.5]))  # type: ignore[no-any-return]

    monkeypatch.setattr(Supernet, "tau", tau)
    model, x = Supernet(), image(channels=3)
    model.time = 0.5
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast._toponas.programs
    model.time = fast.time = 3.5
    assert_runs_like(fast, model, x)


def cold(self: Any) -> float:
    return 4.0


METHODS: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "attribute": (lambda m: m.read(), lambda m, patch: setattr(m, "read", m.cold)),
    "class": (lambda m: m.hot(), lambda m, patch: patch.setattr(Supernet, "hot", cold)),
    "class_lambda": (lambda m: m.hot(), lambda m, patch: patch.setattr(Supernet, "hot", lambda self: 4.0)),
    "instance": (lambda m: m.hot(), lambda m, patch: setattr(m, "hot", m.cold)),
    "function": (lambda m: swapped(), lambda m, patch: patch.setitem(globals(), "swapped", lambda: 4.0)),
}


@pytest.mark.parametrize("way", METHODS)
def test_methods_that_are_switched(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, change = METHODS[way]
    monkeypatch.setattr(Supernet, "tau", read)
    model, x = Supernet(), image(channels=3)
    fast = toponas_fx.simplify(model, x, mode="exact")
    with no_capture(monkeypatch):
        before = fast(x)
    for each in (model, fast):
        change(each, monkeypatch)
    assert not torch.equal(fast(x), before)
    assert_runs_like(fast, model, x)


def test_a_module_outside_the_tree() -> None:
    model, outside, x = Supernet(), nn.Module(), image(channels=3)
    outside.rate = 1.0
    model.rates = [lambda: outside.rate]
    model.tau = lambda: model.rates[0]()
    fast = toponas_fx.simplify(model, x, mode="exact")
    for outside.rate in (4.0, 1.0):
        assert_runs_like(fast, model, x)
