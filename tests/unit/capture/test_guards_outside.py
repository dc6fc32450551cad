"""State outside the model is not frozen either: globals, classes, objects with methods, variables of closures."""

from __future__ import annotations

import cProfile
import enum
import pickle
import sys
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import networkx as nx
import numpy
import pytest
import torch
from torch import Tensor, nn

from exactness import assert_runs_like, compiled, image, no_capture, weights


class Mode(enum.Enum):
    SOFT = 1
    HARD = 2


class Gate:
    MODE: Any = "full"
    RATE = 1.0

    @classmethod
    def rate(cls) -> float:
        return cls.RATE


class Settings:
    """Settings read through methods and properties."""

    def __init__(self) -> None:
        self._tau, self._table = 1.0, {"tau": 1.0}

    @property
    def tau(self) -> float:
        return self._tau

    def get(self, name: str) -> float:
        return self._table[name]


class Slotted:
    __slots__ = ("_tau",)

    def tau(self) -> float:
        return self._tau


DECAY: Any = 0.5
TABLE: Any = {"scale": [1.0]}
ARRAY = numpy.array([1.0])
MODE = Mode.SOFT
ACT: Any = torch.relu
ARGS = Namespace(tau=1.0, inner=SimpleNamespace(scale=2.0))
SETTINGS = Settings()
SLOTTED = Slotted()
SLOTTED._tau = 1.0


def scale(m: Any, x: Tensor) -> Tensor:
    return x * DECAY


def halved(x: Tensor) -> Tensor:
    return x / 2


def scaled(x: Tensor, by: float = 2.0) -> Tensor:
    return x * by


def shifted(x: Tensor, *, by: float = 2.0) -> Tensor:
    return x + by


HALVED: Any = halved


class Supernet(nn.Module):
    """A body under test, ``forward(self, x)``, and a class attribute."""

    rate = 1.0

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.layer = nn.Linear(6, 6).double()
        self.settings = SETTINGS

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


GLOBALS: dict[str, tuple[Callable[[Any, Tensor], Any], tuple[Any, str, Any]]] = {
    "number": (scale, (None, "DECAY", 2.0)),
    "rebound": (lambda m, x: x * len(TABLE), (None, "TABLE", [1, 2, 3])),
    "dict": (lambda m, x: x * TABLE["scale"][0], (TABLE, "scale", [3.0])),
    "enum": (lambda m, x: x * 2 if MODE is Mode.HARD else x, (None, "MODE", Mode.HARD)),
    "function": (lambda m, x: ACT(x), (None, "ACT", torch.tanh)),
    "own function": (lambda m, x: HALVED(x), (None, "HALVED", lambda x: x / 4)),
    "default": (lambda m, x: scaled(x), (scaled, "__defaults__", (3.0,))),
    "keyword default": (lambda m, x: shifted(x), (shifted, "__kwdefaults__", {"by": 3.0})),
    "array": (lambda m, x: x * float(ARRAY[0]), (None, "ARRAY", numpy.array([4.0]))),
    "class": (lambda m, x: x * 2 if Gate.MODE == "two" else x, (Gate, "MODE", "two")),
    "class_rate": (lambda m, x: x * Gate.RATE, (Gate, "RATE", 3.0)),
    "class_method": (lambda m, x: x * Gate.rate(), (Gate, "RATE", 3.0)),
    "namespace": (lambda m, x: x * ARGS.tau, (ARGS, "tau", 3.0)),
    "inner": (lambda m, x: x * ARGS.inner.scale, (ARGS.inner, "scale", 3.0)),
    "own_class": (lambda m, x: x * m.rate, (Supernet, "rate", 3.0)),
    "type_of_self": (lambda m, x: x * type(m).rate, (Supernet, "rate", 3.0)),
    "dunder_class": (lambda m, x: x * m.__class__.rate, (Supernet, "rate", 3.0)),
    "named_class": (lambda m, x: x * Supernet.rate, (Supernet, "rate", 3.0)),
    "property": (lambda m, x: x * SETTINGS.tau, (SETTINGS, "_tau", 3.0)),
    "method": (lambda m, x: x * SETTINGS.get("tau"), (SETTINGS, "_table", {"tau": 3.0})),
    "held": (lambda m, x: x * m.settings.get("tau"), (SETTINGS, "_table", {"tau": 3.0})),
    "slots": (lambda m, x: x * SLOTTED.tau(), (SLOTTED, "_tau", 3.0)),
}


@pytest.mark.parametrize("way", GLOBALS)
def test_globals_classes_and_objects(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, (owner, name, value) = GLOBALS[way]
    model, x = Supernet(body), image()
    fast = compiled(model, x)
    before = fast(x)
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, x)
    if owner is None or isinstance(owner, dict):
        monkeypatch.setitem(globals() if owner is None else owner, name, value)
    else:
        monkeypatch.setattr(owner, name, value)
        if way == "held":
            monkeypatch.setattr(fast.settings, name, value)
    assert not torch.equal(fast(x), before)
    assert_runs_like(fast, model, x)


def test_variables_of_enclosing_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    tau, args, counts = 1.0, Namespace(p=1.0), [1]
    x = image()

    class Inside(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sum(x * tau * args.p * n for n in counts)  # type: ignore[return-value]

    def candidate(x: Tensor) -> Tensor:
        return x * tau

    def body(m: Any, x: Tensor) -> Tensor:
        return x * tau * len(counts) * args.p

    for model in (Inside(), Supernet(body), Supernet(lambda m, x: candidate(x))):
        tau, args.p = 1.0, 1.0
        counts[:] = [1]
        fast = compiled(model, x)
        with no_capture(monkeypatch):
            assert_runs_like(fast, model, x)
        tau = 2.0
        assert torch.equal(fast(x), 2 * x)
        counts.append(1)
        assert torch.equal(fast(x), model(x))
        args.p = 3.0
        assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize("tool", ["none", "trace", "profile", "profiler", "both"])
def test_debuggers_coverage_and_profilers_go_on(tool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def tracer(*_: Any) -> None:
        return None

    profiler = cProfile.Profile()
    outer = sys.gettrace(), sys.getprofile()
    model, x = Supernet(scale), image()
    try:
        if tool in ("trace", "both"):
            sys.settrace(tracer)
        if tool in ("profile", "both"):
            sys.setprofile(tracer)
        if tool == "profiler":
            profiler.enable()
        before = sys.gettrace(), sys.getprofile()
        fast = compiled(model, x)
        assert (sys.gettrace(), sys.getprofile()) == before
    finally:
        profiler.disable()
        sys.settrace(outer[0])
        sys.setprofile(outer[1])
    monkeypatch.setitem(globals(), "DECAY", 7.0)
    assert torch.equal(fast(x), 7 * x), "the global was not seen"


def test_objects_that_the_run_makes_for_itself() -> None:
    class Sum:
        def __init__(self) -> None:
            self.count = 0
            self.total: Any = 0

        def add(self, value: Tensor) -> None:
            self.count += 1
            self.total = self.total + value

        def mean(self) -> Tensor:
            return self.total / self.count

    def body(m: Any, x: Tensor) -> Tensor:
        sums = Sum()
        for value in (x, x.tanh(), m.layer(x)):
            sums.add(value)
        return sums.mean()

    model, x = Supernet(body), image()
    assert_runs_like(compiled(model, x), model, x)


def test_graphs_of_networkx() -> None:
    """A graph makes views of itself when it is first read, which is no change; its data are state."""

    def walk(m: Any, x: Tensor) -> Any:
        values = {0: x}
        for head in list(nx.topological_sort(m.dag))[1:]:
            into = m.dag.in_edges(head, data=True)
            values[head] = sum((torch.tanh, torch.relu)[data["op"]](values[tail]) * data["w"] for tail, _, data in into)
        return values[2]

    model = Supernet(walk)
    model.dag = nx.DiGraph([(0, 1, {"op": 0, "w": 0.5}), (1, 2, {"op": 1, "w": weights(1)})])
    fast = compiled(model, image())
    assert_runs_like(fast, model, image())
    for dag in (model.dag, fast.dag):
        dag.edges[0, 1]["op"] = 1
    assert_runs_like(fast, model, image())
    for dag in (model.dag, fast.dag):
        dag.add_edge(0, 2, op=0, w=2.0)
    assert_runs_like(fast, model, image())


def test_another_process_captures_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Supernet(scale), image()
    fast = pickle.loads(pickle.dumps(compiled(model, x)))
    with no_capture(monkeypatch):
        fast(x)
    monkeypatch.setitem(globals(), "DECAY", 3.0)
    assert torch.equal(fast(x), 3 * x)
    fast.body = model.body = by_method
    fast(x)
    again = pickle.loads(pickle.dumps(fast))
    again.settings._tau = SETTINGS._tau = 5.0
    try:
        assert torch.equal(again(x), 5 * x)
    finally:
        SETTINGS._tau = 1.0


def by_method(m: Any, x: Tensor) -> Tensor:
    return x * SETTINGS.tau
