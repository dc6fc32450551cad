"""What is called besides ``forward``: other methods of the model, its cells, single layers. They see one model."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from equality import double
from exactness import counted_captures, image
from toponas_fx.testing.differences import scatter_statistics

SIZES = (1, 3, 5)


class Cell(nn.Module):
    """One mixed operation of convolutions that share, with biases, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = (
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=k > 1), nn.BatchNorm2d(4)) for k in SIZES
        )
        self.ops = nn.ModuleList([*convolutions, nn.Identity()])

    def forward(self, x: Tensor, w: Tensor) -> Any:
        return sum(v * op(x) for v, op in zip(w, self.ops, strict=True))

    def single(self, x: Tensor, index: int) -> Any:
        return self.ops[index](x)


class Supernet(nn.Module):
    """Searches all candidates, evaluates single ones by another method, as SETN and DARTS-PT do."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas, self.cells = nn.Parameter(torch.randn(2, 4)), nn.ModuleList(Cell() for _ in range(2))

    def new(self) -> Supernet:
        return double(Supernet())  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Any:
        for cell, w in zip(self.cells, self.alphas, strict=True):
            x = cell(x, w)
        return x

    def forward_single(self, x: Tensor, index: int) -> Any:
        for cell in self.cells:
            x = cell.single(x, index)  # type: ignore[operator]
        return x

    def loss(self, x: Tensor) -> Tensor:
        return F.mse_loss(self(x), x)

    def choose(self, index: int) -> None:
        with torch.no_grad():
            self.alphas.copy_(torch.eye(4)[[index, index]])


def supernet(**options: Any) -> Any:
    torch.manual_seed(0)
    model = double(Supernet())
    scatter_statistics(model)
    return toponas_fx.simplify(model, image(), **options)


COPIES: dict[str, Callable[[Any], Any]] = {
    "itself": lambda fast: fast,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "twice": lambda fast: pickle.loads(pickle.dumps(copy.deepcopy(pickle.loads(pickle.dumps(fast))))),
    "new": lambda fast: fast.new(),
}


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("normalize", ["kernel", "filter"])
def test_another_method_computes_what_forward_does(normalize: str, kind: str) -> None:
    fast, x = COPIES[kind](supernet(normalize=normalize)), image()
    for training in (False, True):
        for index in range(len(SIZES)):
            fast.train(training).choose(index)
            single, mixed = fast.forward_single(x, index), fast.reference(x)
            torch.testing.assert_close(single, mixed, rtol=0, atol=1e-9)
            torch.testing.assert_close(fast.eval()(x), fast.forward_single(x, index), rtol=0, atol=1e-9)


def test_cells_and_layers_called_by_themselves() -> None:
    fast, x = supernet().eval(), image()
    restored = toponas_fx.restore(fast)
    for index in range(len(SIZES)):
        w = torch.eye(4, dtype=torch.float64)[index]
        found, expected = fast.cells[0](x, w), restored.cells[0](x, w)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        for side in (0, 1):
            layers = [model.cells[side].ops[index][1] for model in (fast, restored)]
            torch.testing.assert_close(layers[0](x), layers[1](x), rtol=0, atol=1e-12)


def test_gradients_reach_the_kernels_as_they_are() -> None:
    fast, x = supernet().eval(), image()
    fast.choose(1)
    wanted = [p for name, p in fast.named_parameters() if name != "alphas"]
    found = torch.autograd.grad(fast.forward_single(x, 1).square().sum(), wanted, allow_unused=True)
    expected = torch.autograd.grad(fast(x).square().sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(other) if one is None else one, other, rtol=0, atol=1e-6)


def test_a_kernels_scale_does_not_matter_to_another_method() -> None:
    fast, x = supernet().eval(), image()
    before = fast.forward_single(x, 1)
    with torch.no_grad():
        for cell in fast.cells:
            for part in cell.ops[1][1].parameters():
                part.mul_(10)
    torch.testing.assert_close(fast.forward_single(x, 1), before, rtol=0, atol=1e-9)


def test_programs_call_no_layer_whose_kernel_is_normalized() -> None:
    fast = supernet()
    owners = {path.rpartition(".")[0] for path in fast._toponas.sharing.kernels}
    assert len(owners) == 6
    for training in (True, False):
        called = {str(node.target) for node in fast.train(training).graph.nodes if node.op == "call_module"}
        assert not owners & called


def test_layers_keep_their_names_and_classes() -> None:
    fast, model = supernet(), double(Supernet())
    layer, original = fast.cells[1].ops[2][1], model.cells[1].ops[2][1]  # type: ignore[index,union-attr]
    assert type(layer) is nn.Conv2d
    assert repr(layer) == repr(original)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert isinstance(layer.weight, nn.Parameter)
    layer(image())
    assert isinstance(layer.weight, nn.Parameter)
    fast.loss(image()).backward()
    assert layer.weight.grad is not None
    plain = toponas_fx.restore(fast).cells[1].ops[2][1]
    assert vars(plain).keys() == vars(original).keys()


def test_hooks_of_a_layer_see_it_run() -> None:
    fast, seen = supernet().eval(), []
    fast.cells[0].ops[1][1].register_forward_hook(lambda module, args, output: seen.append(output))
    fast.cells[0].single(image(), 1)
    torch.testing.assert_close(seen[0], toponas_fx.restore(fast).cells[0].ops[1][1](image().relu()))


def test_a_layer_put_elsewhere_computes_as_it_is() -> None:
    fast, x = supernet().eval(), image()
    layer = fast.cells[0].ops[1][1]
    fast.cells[0].ops[1] = nn.Identity()
    fast(x)
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1), rtol=0, atol=0)


class LooksAtData(Supernet):
    """Takes a path by the size of what its cells compute, once it is told to look."""

    looks = False

    def forward(self, x: Tensor) -> Any:
        x = super().forward(x)
        return x * 2 if self.looks and not self.training and x.abs().max() > 50 else x


def test_a_capture_sees_what_programs_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, x = toponas_fx.simplify(double(LooksAtData()), image()).eval(), image()
    with torch.no_grad():
        for name, parameter in fast.named_parameters():
            parameter.mul_(1000 if name.endswith("1.weight") and parameter.dim() == 4 else 1)
    fast.choose(1)
    fast.looks = True
    with counted_captures(monkeypatch) as captures:
        for _ in range(3):
            torch.testing.assert_close(fast(x), fast.reference(x), rtol=0, atol=1e-9)
    assert len(captures) == 1
    assert fast(x).abs().max() < 50


def test_exact_mode_and_later_captures_leave_layers_alone() -> None:
    fast = supernet(mode="exact")
    assert not any("_call_impl" in vars(module) for module in fast.modules())
    fast = supernet()
    fast.choose(2)
    with torch.no_grad():
        found = fast.eval()(image())  # another capture: without gradients
    torch.testing.assert_close(found, fast.reference(image()).detach(), rtol=0, atol=1e-9)
    assert "kernel_scale" in fast.code or "normalize_all" in fast.code
