"""A user's class may use the names that a simplified model has, and check its subclasses: it comes first."""

from __future__ import annotations

import abc
import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import networkx as nx
import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from exactness import assert_runs_like, image
from toponas_fx.facade.assembly import simplified_class


class Supernet(nn.Module):
    """One mixed operation of three convolutions that share; what its attribute of a name holds counts."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.alphas = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))
        self.ops = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4, 4, k, padding=k // 2), nn.BatchNorm2d(4)) for k in (1, 3, 5)
        )
        self.double()

    def forward(self, x: Tensor) -> Any:
        found = getattr(self, self.name) if self.name else 1
        found = found(x) if isinstance(found, nn.Module) else found() if callable(found) else found
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True)) * found

    def new(self) -> Any:
        """Return another of its kind, as unrolled search does."""
        return type(self)()


class Method(Supernet):
    def taken(self) -> int:
        return 7


NAMES = ["graph", "code", "meta", "report", "reference", "topology", "recompile", "print_readable", "_graph", "_code"]
HOW: dict[str, Any] = {
    "attribute": lambda name: setattr_on(Supernet(), name, 7),
    "module": lambda name: setattr_on(Supernet(), name, nn.Conv2d(4, 4, 1).double()),
    "parameter": lambda name: setattr_on(Supernet(), name, nn.Parameter(torch.tensor(2.0).double())),
    "method": lambda name: type("WithMethod", (Supernet,), {name: Method.taken})(),
    "property": lambda name: type("WithProperty", (Supernet,), {name: property(Method.taken)})(),
    "constant": lambda name: type("WithConstant", (Supernet,), {name: 7})(),
}


def setattr_on(model: Any, name: str, value: Any) -> Any:
    setattr(model, name, value)
    return model


def simplified(model: nn.Module, **options: Any) -> Any:
    with pytest.warns(UserWarning, match=r"leaves to it: toponas_fx.inspection\(fast\) has"):
        return toponas_fx.simplify(model, image(), **options)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_the_users_name_wins(name: str, how: str) -> None:
    model = HOW[how](name)
    model.name = name
    fast = simplified(model, mode="exact")
    assert not fast._toponas.as_written
    assert type(getattr(fast, name)) is type(getattr(model, name))
    assert_runs_like(fast, model, image())
    plain = toponas_fx.restore(fast)
    assert type(plain) is type(model)
    assert torch.equal(plain.eval()(image()), model.eval()(image()))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", NAMES)
def test_an_inspection_has_what_is_hidden(name: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = HOW[how](name)
    model.name = name
    fast = simplified(model)
    view = toponas_fx.inspection(fast)
    assert isinstance(view, fx.GraphModule)
    assert toponas_fx.inspection(view) is view
    assert f"`{name}`" in view.report.notes[-1]
    assert "merge-kernels" in view.report.details()
    assert view.topology().number_of_edges() > 0
    assert torch.allclose(view.reference(image()), fast(image()), rtol=0, atol=1e-10)
    assert "def forward" in view.code
    assert "def forward" in str(view)
    view.print_readable()
    assert "alphas" in capsys.readouterr().out
    node = next(node for node in view.graph.nodes if node.op == "output")
    with view.graph.inserting_before(node):
        node.args = (view.graph.call_function(torch.neg, node.args),)
    before = fast(image())
    view.recompile()
    assert torch.equal(fast(image()), -before)
    if how not in ("attribute", "module", "parameter"):  # which a new one lacks
        assert type(fast.new()) is type(fast)


def test_a_model_without_such_names_is_inspected_too() -> None:
    fast = toponas_fx.simplify(Supernet(), image())
    view = toponas_fx.inspection(fast)
    assert view.report is fast.report
    assert view.graph is fast.graph
    assert view.code == fast.code
    assert dict(view.named_parameters()).keys() == dict(fast.named_parameters()).keys()
    twin = copy.deepcopy(view)
    assert twin.alphas is not fast.alphas
    assert torch.equal(twin.reference(image()), fast.reference(image()))
    with pytest.raises(toponas_fx.ArgumentError, match="inspection"):
        type(view)()
    with pytest.raises(AttributeError, match="reference"):
        view.reference = 1


class DirectedSupernet(nx.DiGraph, nn.Module):  # type: ignore[misc, type-arg]
    """A supernet that is a networkx graph: it owns ``graph``, ``nodes``, ``edges`` and ``name``."""

    def __init__(self) -> None:
        nx.DiGraph.__init__(self, depth=2)
        nn.Module.__init__(self)
        self.alphas = nn.Parameter(torch.rand(2).double())
        self.add_edge(1, 2)
        self.add_edge(2, 3)
        self.candidates = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2).double() for k in (1, 3))

    def forward(self, x: Tensor) -> Any:
        for _ in self.edges:
            x = sum(w * op(x) for w, op in zip(self.alphas, self.candidates, strict=True))
        return x * self.graph["depth"] * len(self.nodes)


def test_a_supernet_that_is_a_networkx_graph() -> None:
    model = DirectedSupernet()
    fast = simplified(model)
    assert isinstance(fast, nx.DiGraph)
    assert fast.graph == {"depth": 2}
    assert_runs_like(fast, model, image())
    fast.graph["depth"] = model.graph["depth"] = 3
    assert_runs_like(fast, model, image())
    for twin in (copy.deepcopy(fast), copy.copy(fast), pickle.loads(pickle.dumps(fast))):
        assert twin.graph == {"depth": 3}
        assert torch.equal(twin(image()), fast(image()))
        assert toponas_fx.inspection(twin).graph.nodes


# -- classes that check their subclasses -------------------------------------------------------------------------------


class FinalMeta(abc.ABCMeta):
    """Refuses a class that overrides what a base calls final."""

    def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
        for base in bases:
            for final in getattr(base, "FINAL", ()):
                if final in namespace:
                    raise TypeError(f"{name} overrides {final}")
        return super().__new__(mcs, name, bases, namespace)

    def __init__(cls, name: str, bases: Any, namespace: Any) -> None:
        if not hasattr(cls, "arity"):
            raise TypeError(f"{name} lacks an arity")
        super().__init__(name, bases, namespace)


class Final(Supernet, metaclass=FinalMeta):
    FINAL: ClassVar[tuple[str, ...]] = ("forward", "loss")
    arity = 1

    def loss(self) -> int:
        return 1


class Listed(Supernet):
    """Keeps a list of its subclasses, and wants a keyword of each."""

    known: ClassVar[list[str]] = []

    def __init_subclass__(cls, kind: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(name in vars(cls) for name in ("forward", "loss")):
            raise TypeError(f"{kind} overrides what is final")
        Listed.known.append(cls.__name__)

    def loss(self) -> int:
        return 1


class Entry(Listed, kind="entry"):
    pass


@pytest.mark.parametrize("kind", [Final, Entry])
def test_classes_that_check_their_subclasses(kind: type[Any]) -> None:
    model = kind()
    fast = toponas_fx.simplify(model, image(), mode="exact")
    assert isinstance(fast, kind)
    assert fast.loss() == 1
    assert_runs_like(fast, model, image())
    assert not issubclass(kind, type(fast))
    assert Listed.known == ["Entry"]
    with pytest.raises(TypeError):
        type("Mine", (kind,), {"loss": None})


# -- classes that override what every module has -----------------------------------------------------------------------


class Overrides(Supernet):
    """Adds to what every module has."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        found = super().state_dict(*args, **kwargs)
        found["epoch"] = torch.tensor(3)
        return found

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        yield from super().named_modules(*args, **kwargs)


def test_what_an_override_adds_to_is_the_simplified_model() -> None:
    fast, plain = (toponas_fx.simplify(kind(), image()) for kind in (Overrides, Supernet))
    assert fast.state_dict().keys() - plain.state_dict().keys() == {"epoch"}
    assert dict(fast.named_modules()).keys() == dict(plain.named_modules()).keys()


def test_a_class_that_is_patched_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Patched(Supernet):
        def factor(self) -> float:
            return 2.0

        def forward(self, x: Tensor) -> Any:
            return super().forward(x) * self.factor()

    first = toponas_fx.simplify(Patched(), image(), mode="exact")
    monkeypatch.setattr(Patched, "factor", lambda self: 7.0)
    model = Patched()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_runs_like(toponas_fx.simplify(model, image(), mode="exact"), model, image())
    assert first.factor() == 7.0
    assert simplified_class(Patched) is simplified_class(Patched)
