"""What a program's code reads from the model."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from supernets.mobile import MobileSupernet


def attribute_reads(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Return which names a forward asks of ``Module.__getattr__``, and how often."""
    reads: Counter[str] = Counter()
    plain: Any = nn.Module.__getattr__

    def counting(module: nn.Module, name: str) -> Any:
        reads[name] += 1
        return plain(module, name)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__getattr__", counting)
        model(x)
    return reads


@pytest.mark.parametrize("mode", ["exact", "share"])
def test_a_forward_asks_no_module_for_its_parts(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 8, 8)
    model = MobileSupernet(C=4, layers=1)
    fast = toponas_fx.simplify(copy.deepcopy(model), x, mode=mode)
    found, before = (attribute_reads(which, x, monkeypatch) for which in (fast, model))
    parts = {"expand", "depthwise", "project", "ops", "stem", "blocks"}
    assert not parts & found.keys()
    assert parts < before.keys()
    assert found.total() <= before.total()


class OddlyNamed(nn.Module):
    """Layers whose names Python's syntax knows, or does not."""

    def __init__(self) -> None:
        super().__init__()
        names = ("None", "class", "sep-conv", "1", "a b", "in_")
        self.layers = nn.ModuleDict({name: nn.Conv2d(3, 3, 1) for name in names})
        self.alphas = nn.Parameter(torch.randn(len(names)))

    def forward(self, x: Tensor) -> Tensor:
        return sum(w * layer(x) for w, layer in zip(self.alphas.softmax(0), self.layers.values(), strict=True))


@pytest.mark.parametrize("mode", ["exact", "share"])
def test_layers_may_have_any_name(mode: str) -> None:
    x = torch.randn(2, 3, 4, 4).double()
    model = OddlyNamed().double()
    fast = toponas_fx.simplify(copy.deepcopy(model), x, mode=mode, passes=() if mode == "exact" else None)
    code = fast.code
    compile(code, "code", "exec")
    assert ".None" not in code
    if mode == "exact":
        assert 'getattr(self.layers, "None")' in code
        assert torch.allclose(fast(x), model(x), rtol=1e-12)
    fast(x).sum().backward()
    fast.layers["class"] = nn.Conv2d(3, 3, 1).double()  # another module under the old name is read, and run
    reference = copy.deepcopy(model)
    reference.layers["class"] = fast.layers["class"]
    if mode == "exact":
        assert torch.allclose(fast(x), reference(x), rtol=1e-12)


class ByType(nn.Module):
    """Another path for another type of input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1).double()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        scale = 2.0 if x.dtype == torch.float32 else 1.0
        if y is not None and y.dtype == torch.int64:
            scale = 3.0
        return self.conv(x.double()) * scale


def test_a_program_is_for_the_types_that_it_was_made_for() -> None:
    model, x = ByType(), torch.randn(2, 3, 4, 4).double()
    fast = toponas_fx.simplify(model, x, mode="exact")
    for each in (x, x.float(), x, x.float()):
        assert torch.allclose(fast(each), model(each), rtol=1e-12)
        for y in (x, x.long(), x):
            assert torch.allclose(fast(each, y=y), model(each, y=y), rtol=1e-12)
