"""What search loops do with a model: new(), conversions, functional calls, graph edits, and the oracle."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from exactness import counted_captures, image, no_capture, weights
from small_darts import batch, network, set_vertex
from toponas_fx.module_tree.tensor_paths import model_tensors


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_new_is_bound_to_the_same_graphs(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode=mode)
    with no_capture(monkeypatch):
        fresh = fast.new()
        assert type(fresh) is type(fast)
        assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in fast.named_parameters()]
        assert not {id(t) for _, t in model_tensors(fresh)} & {id(t) for _, t in model_tensors(fast)}
        assert torch.equal(fresh.alphas_normal, fast.alphas_normal)
        fresh.load_state_dict(fast.state_dict())
        fresh.load_state_dict(model.state_dict())
        for training in (True, False):
            fresh.train(training), fast.train(training)
            found, expected = (m._loss(x, y) for m in (fresh, fast))
            assert torch.allclose(found, expected, rtol=0, atol=1e-10)
            found.backward()
            assert all(parameter.grad is not None for _, parameter in toponas_fx.used_parameters(fresh))
        assert all(parameter.grad is None for parameter in fast.parameters())
        again = fresh.new().new()
        assert type(again) is type(fast)
        again(x)
    fresh.drop_path_prob = 0.3
    assert fast.drop_path_prob == again.drop_path_prob == 0.0


def test_a_new_model_of_another_structure_is_simplified_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(network(4), batch()[0])
    with counted_captures(monkeypatch) as found:
        wider = fast.wider(6)
    assert len(found) == 1, "both modes at once"
    assert type(wider) is type(fast)
    wider.alphas_normal.data = wider.alphas_normal.data.double()
    for one_hot in ((2, 3), (3, 1)):
        set_vertex(wider, *one_hot)
        wider.eval()
        x = batch()[0]
        assert torch.allclose(wider(x), wider.reference(x), rtol=0, atol=1e-8)


def test_new_and_deepcopy_are_cheap() -> None:
    model = network(4)
    fast = toponas_fx.simplify(model, batch()[0])

    def seconds(call: Any) -> float:
        found = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        return min(found)

    assert seconds(fast.new) <= 1.5 * seconds(model.new) + 0.05
    assert seconds(lambda: copy.deepcopy(fast)) <= 1.5 * seconds(lambda: copy.deepcopy(model)) + 0.05


def test_conversions_and_switches() -> None:
    model, (x, y) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast.train() is fast
    assert fast.eval() is fast
    assert not fast.cells[0].training
    expected = fast(x)
    assert fast.float() is fast
    model.alphas_normal.data = model.alphas_normal.data.float()
    assert fast(x.float()).dtype is torch.float32
    assert torch.allclose(fast(x.float()).double(), expected, rtol=0, atol=1e-4)
    assert fast.auxiliary.weight.dtype is torch.float32
    model.alphas_normal.data = model.alphas_normal.data.double()
    fast.to(torch.float64)
    assert_agrees(fast, x)
    fast.requires_grad_(False)
    fast._loss(x, y).backward()
    assert fast.classifier.weight.grad is None
    assert fast.alphas_normal.grad is not None
    fast.requires_grad_()
    fast._loss(x, y).backward()
    assert fast.classifier.weight.grad is not None
    fast.zero_grad()
    assert fast.classifier.weight.grad is None
    before = fast(x)
    fast.apply(lambda m: nn.init.ones_(m.weight) if isinstance(m, nn.Conv2d) else None)
    assert bool((fast.stem[0].weight == 1).all())
    assert not torch.allclose(fast(x), before)
    assert_agrees(fast, x)
    fast.to("cpu", memory_format=torch.channels_last)
    assert_agrees(fast, x.to(memory_format=torch.channels_last))
    fast.share_memory()
    assert_agrees(fast, x)


def assert_agrees(fast: Any, x: Tensor) -> None:
    for training in (True, False):
        fast.train(training)
        expected = fast.reference(x)
        assert torch.allclose(copy.deepcopy(fast)(x), expected, rtol=0, atol=1e-7)
        assert torch.allclose(fast(x), expected, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Network runs as its user wrote it in a later call:UserWarning")
@pytest.mark.parametrize(
    "path", ["stem.1", "cells.0._ops.2.op.1", "cells.0._ops.3.op.2", "cells.1._ops.3", "classifier"]
)
def test_a_hook_on_a_layer_that_was_merged_or_shared(path: str) -> None:
    model, x = network(), batch()[0]
    fast = toponas_fx.simplify(model, x)
    set_vertex(model, 2, 3)
    handle = fast.get_submodule(path).register_forward_hook(lambda module, args, output: output * 1.5)
    assert_agrees(fast, x)
    handle.remove()
    assert_agrees(fast, x)
    assert "self.classifier" in fast.code


def test_optimizers_step_what_forward_reads() -> None:
    model, (x, y) = network(), batch()
    fast = toponas_fx.simplify(model, x)
    weights_optimizer = torch.optim.SGD(fast.parameters(), 0.1, momentum=0.9, weight_decay=3e-4)
    arch_optimizer = torch.optim.Adam(fast.arch_parameters(), 3e-2)
    losses = []
    for _ in range(8):
        for optimizer in (arch_optimizer, weights_optimizer):
            optimizer.zero_grad()
            loss = fast._loss(x, y)
            loss.backward()
            nn.utils.clip_grad_norm_(fast.parameters(), 5.0)
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.8


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_functional_call(mode: str) -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode=mode).eval()
    doubled = {name: parameter * 2 for name, parameter in fast.named_parameters()}
    found = torch.func.functional_call(fast, doubled, (x,))
    assert not torch.allclose(found, fast(x))
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(2)
    assert torch.allclose(found, fast(x), rtol=0, atol=1e-12)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(fast, parameters, (x,)).square().sum()

    used = dict(toponas_fx.used_parameters(fast))
    parameters = {name: parameter.detach() for name, parameter in used.items()}
    gradients = torch.func.grad(loss)(parameters)
    expected = torch.autograd.grad(fast(x).square().sum(), list(used.values()))
    for name, gradient in zip(parameters, expected, strict=True):
        assert torch.allclose(gradients[name], gradient, rtol=1e-10, atol=1e-10)


def test_graphs_can_be_read_edited_and_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x).eval()
    twin = fast.new()
    twin.load_state_dict(fast.state_dict())
    twin.eval()
    before = fast(x)
    assert "def forward(self, input" in fast.code
    assert "self.classifier" in fast.code
    fast.print_readable()
    assert "classifier" in capsys.readouterr().out
    assert "candidate" in str(fast.report)
    assert {data["kind"] for *_, data in fast.topology().edges(data=True)} >= {"candidate"}
    assert torch.allclose(fx.Interpreter(fast).run(x), before, rtol=0, atol=1e-12)
    fast.graph.lint()
    output = next(node for node in fast.graph.nodes if node.op == "output")
    with fast.graph.inserting_before(output):
        output.args = (fast.graph.call_function(torch.neg, (output.args[0],)),)
    assert torch.equal(fast(x), before)
    fast.recompile()
    assert torch.equal(fast(x), -before)
    assert torch.equal(twin(x), before), "a copy's graph is its own"
    fast.train()
    assert "neg" not in fast.code, "the training graph is another"
    graph = fast.graph
    fast.graph = graph
    fast(x)


def test_reference_leaves_no_trace() -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x)
    fast.train()
    before = [tensor.clone() for _, tensor in model_tensors(fast)]
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    names = [sorted(vars(module)) for module in fast.modules()]
    output = fast.reference(x)
    output.sum().backward()
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, model_tensors(fast), strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states[1:]
    assert [sorted(vars(module)) for module in fast.modules()] == names
    assert fast.cells[0]._ops[3].op[1].weight.grad is not None
    for size in (4, 2, 1, 7):
        set_vertex(model, 3, 2)
        images = batch(size)[0]
        fast.eval()
        assert torch.allclose(fast(images), fast.reference(images), rtol=0, atol=1e-8)


def test_a_new_model_whose_layers_have_other_options() -> None:
    class Dilated(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            convs = [nn.Conv2d(4, 4, 3, padding=dilation, dilation=dilation) for _ in range(2)]
            self.ops = nn.ModuleList([nn.Sequential(conv, nn.BatchNorm2d(4)) for conv in convs]).double()
            self.alphas = weights(2)

        def forward(self, x: Tensor) -> Any:
            return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))

        def new(self) -> Any:
            return Dilated(2)

    fresh = toponas_fx.simplify(Dilated(1), image(), mode="exact").new()
    assert torch.allclose(fresh(image()), fresh.reference(image()), rtol=0, atol=1e-10)


class SeveralMethods(nn.Module):
    """Parameters that forward reads, that another method reads, that the caller hands in, and that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.auxiliary, self.nobody = (nn.Linear(6, 6).double() for _ in range(3))
        self.penalty, self.alphas = nn.Parameter(torch.ones(1).double()), nn.Parameter(torch.ones(2).double())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return w[0] * self.layer(x) + w[1] * x

    def loss(self, x: Tensor) -> Tensor:
        out = self(x, getattr(self, "alphas").softmax(0))  # noqa: B009
        return out.square().sum() + self.auxiliary(x).sum() + self.penalty.sum()


def test_all_parameters_stay_those_that_nobody_reads_too() -> None:
    model, x = SeveralMethods(), image()
    fast = toponas_fx.simplify(model, (x, model.alphas.softmax(0)))
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert [name for name, _ in toponas_fx.used_parameters(fast)] == ["layer.weight", "layer.bias"]
    fast.loss(x).backward()
    assert [name for name, p in fast.named_parameters() if p.grad is None] == ["nobody.weight", "nobody.bias"]
