"""Modules of a simplified model that the user replaces, and what then is the first thing done with it."""

from __future__ import annotations

import copy
import pickle
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
    """One mixture of three convolutions that share, and a module that nothing reads."""

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


def test_another_order_of_the_same_children_is_another_tree() -> None:
    root = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Tanh()})
    index = TreeIndex.of(root)
    assert index.is_current()
    root["a"] = root.pop("a")
    assert not index.is_current()
