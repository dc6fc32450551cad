"""Modules of a simplified model that the user replaces, and what then is the first thing done with it."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import image
from toponas_fx.errors import ToponasError
from toponas_fx.module_tree.index import TreeIndex

USES: dict[str, Callable[[Any], Any]] = {
    "forward": lambda fast: fast(image(channels=3)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "reference": lambda fast: fast.reference(image(channels=3)),
    "restore": toponas_fx.restore,
    "state_dict": lambda fast: fast.load_state_dict(fast.state_dict()),
    "report": lambda fast: str(fast.report),
}


class Supernet(nn.Module):
    """One mixed operation of three convolutions that share, and a module that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.rand(3))
        self.ops = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, 3, k, padding=k // 2), nn.BatchNorm2d(3)) for k in (1, 3, 5)
        )
        self.unread = nn.ModuleList([nn.Conv2d(3, 3, 1)])
        self.double()

    def forward(self, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


@pytest.mark.parametrize("use", USES)
def test_modules_may_be_replaced_before_any_use(use: str) -> None:
    fast, x = toponas_fx.simplify(Supernet(), image(channels=3)), image(channels=3)
    toponas_fx.retire(fast, ["unread.0.weight", "unread.0.bias"])
    assert "unread.0.weight" in fast._toponas.removed
    assert fast._toponas.sharing.kernels.keys() == {f"ops.{i}.0.weight" for i in range(3)}
    fast.unread[0], fast.ops[1] = nn.Tanh(), nn.Tanh()
    found = USES[use](fast)
    for one in (fast, found if isinstance(found, nn.Module) else fast):
        assert not {"ops.1.0.weight", "unread.0.weight"} & one.state_dict().keys()
        assert one.eval()(x).shape == x.shape
        if one is fast:
            assert torch.allclose(fast(x), fast.reference(x), rtol=0, atol=1e-10)


def test_there_is_no_graph_of_what_was_replaced() -> None:
    fast = toponas_fx.simplify(Supernet(), image(channels=3))
    fast.ops[1] = nn.Tanh()
    for look in (fast.topology, fast.recompile, lambda: fast.code, lambda: fast.graph):
        with pytest.raises(ToponasError, match="not run in this mode"):
            look()


def _to_the_end(root: Any, name: str) -> None:
    root[name] = root.pop(name)


def _renamed(root: nn.Module) -> None:
    root._modules["c"] = root._modules.pop("b")


def _moved(root: nn.Module) -> None:
    """Hand the last child of one over to be the first of the next: the same names and modules in a row."""
    last, first = root._modules["a"], root._modules["b"]
    held = {"1": last._modules.pop("1"), **first._modules}  # type: ignore[union-attr]
    first._modules.clear()  # type: ignore[union-attr]
    first._modules.update(held)  # type: ignore[union-attr]


SAME = nn.ReLU()
TREES: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "order": (lambda: nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()}), lambda root: _to_the_end(root, "a")),
    "order of two that are one": (
        lambda: nn.ModuleDict({"a": SAME, "b": SAME}),
        lambda root: _to_the_end(root, "a"),
    ),
    "order of an ordered table": (
        lambda: _with_table(OrderedDict(a=nn.ReLU(), b=nn.Tanh())),
        lambda root: root._modules.move_to_end("a"),
    ),
    "last name": (lambda: nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()}), _renamed),
    "place": (lambda: nn.ModuleDict({"a": nn.Sequential(SAME, nn.Tanh()), "b": _named("2", nn.Tanh())}), _moved),
    "none": (lambda: _named("a", nn.Tanh()), lambda root: root.register_module("b", None)),
    "another": (lambda: _named("a", nn.Tanh()), lambda root: root.register_module("a", nn.Tanh())),
    "first child": (lambda: nn.Sequential(nn.Sequential()), lambda root: root[0].append(SAME)),
}


def _with_table(table: Any) -> nn.Module:
    root = nn.Module()
    vars(root)["_modules"] = table
    return root


def _named(name: str, child: nn.Module) -> nn.Module:
    return _with_table({name: child})


@pytest.mark.parametrize("case", TREES)
def test_another_tree_is_seen(case: str) -> None:
    make, change = TREES[case]
    root = make()
    index = TreeIndex.of(root)
    assert index.is_current()
    change(root)
    assert not index.is_current()
    assert TreeIndex.of(root).is_current()
