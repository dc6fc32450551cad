"""What goes in and out of a captured forward, hooks on its modules, and that a capture leaves no trace."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, compiled, image, left_as_written, no_capture, weights
from toponas_fx.module_tree.tensor_paths import model_tensors

Pair = namedtuple("Pair", "first second")


class Body(nn.Module):
    """A little of everything, and a body under test, ``forward(self, ...)``."""

    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(2)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.seen: list[Any] = [1, {"a": [2]}]
        self.generator = random.Random(3)
        self.double()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.body(self, *args, **kwargs)


OUTPUTS: dict[str, Callable[..., Any]] = {
    "tuple": lambda m, x: (m.conv(x), m.alphas.sum()),
    "list": lambda m, x: [m.conv(x), [x, None]],
    "dict": lambda m, x: {"logits": m.conv(x), "aux": (m.alphas, 0.5, "text"), 3: True},
    "ordered": lambda m, x: OrderedDict(b=m.conv(x), a=OrderedDict(c=x)),
    "named": lambda m, x: Pair(m.conv(x), [Pair(x, 1)]),
    "input": lambda m, x: x,
    "parameter": lambda m, x: (m.conv.weight, m.alphas),
    "same": lambda m, x: (lambda h: (h, h))(m.conv(x)),
    "none": lambda m, x: None,
    "number": lambda m, x: float("inf"),
    "shape": lambda m, x: tuple(x.shape),
}


@pytest.mark.parametrize("way", OUTPUTS)
def test_outputs(way: str) -> None:
    model, x = Body(OUTPUTS[way]), image()
    fast = compiled(model, x)
    assert_runs_like(fast, model, image(5))
    assert type(fast(x)) is type(model(x))


class Result:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("made", [Result, lambda h: type("D", (dict,), {})(a=h), lambda h: {Result: h}])
def test_outputs_that_a_graph_cannot_hold(made: Any) -> None:
    model = Body(lambda m, x: made(m.conv(x)))
    fast = left_as_written(model, image(), reason="which a graph cannot hold")
    assert type(fast(image())).__name__ == type(model(image())).__name__


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "list": (lambda m, xs: m.conv(xs[0]) + xs[1], ([image(), image(seed=2)],), {}),
    "dict": (lambda m, d: m.conv(d["x"]) * d["w"][0], ({"x": image(), "w": (weights(1), "text")},), {}),
    "named": (lambda m, p: m.conv(p.first) - p.second, (Pair(image(), image(seed=2)),), {}),
    "keywords": (lambda m, x, *, other, scale=2: m.conv(x) * scale - other, (image(),), {"other": image(seed=2)}),
    "none": (lambda m, x, mask=None: m.conv(x) if mask is None else x * mask, (image(), None), {}),
    "same_names": (lambda m, x, x_0: x[0] - x_0, ([image()], image(seed=2)), {}),
    "odd_keys": (lambda m, d: d["a b"] - d["a-b"] * d[1], ({"a b": image(), "a-b": image(), 1: image()},), {}),
    "generator": (lambda m, xs: sum(m.conv(x) for x in xs), ((image(), image(seed=2)),), {}),
}


@pytest.mark.parametrize("way", CALLS)
def test_inputs(way: str) -> None:
    body, args, kwargs = CALLS[way]
    model = Body(body)
    fast = compiled(model, *args) if not kwargs else _simplified_without_keywords(model)
    for _ in range(2):
        assert_runs_like(fast, model, *args, **kwargs)
    assert not fast._toponas.as_written


def _simplified_without_keywords(model: Body) -> Any:
    body = model.body
    model.body = lambda m, x: m.conv(x)
    fast = compiled(model, image())
    model.body = fast.body = body
    return fast


def test_plain_arguments_are_told_apart() -> None:
    model = Body(
        lambda m, x, discrete=False, op=torch.relu, edges=(), **kw: (op(x) if discrete else m.conv(x)) * len(edges)
    )
    fast = toponas_fx.simplify(model, image(), mode="exact")
    x = image()
    for _ in range(2):
        for more in ({}, {"discrete": True}, {"edges": [1, 2]}, {"discrete": True, "op": torch.tanh}, {"edges": (3,)}):
            assert_runs_like(fast, model, x, **more)
    module_model = Body(lambda m, x, op: op(x))
    fast = compiled(module_model, image(), nn.ReLU())
    assert_runs_like(fast, module_model, x, nn.Tanh())


def test_an_input_list_that_forward_empties() -> None:
    model = Body(lambda m, x, w: m.conv(x) * w.pop(0))
    given = [weights(1), weights(1)]
    fast = left_as_written(model, image(), given, reason="changes a list or dict that it is given")
    assert len(given) == 2, "the capture took from the caller's list"
    fast(image(), given)
    assert len(given) == 1


def test_hooks_run_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Supernet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ops = nn.ModuleList([nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 3, padding=1)])
            self.alphas = weights(2)
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))

    model, x = Supernet(), image()
    hook = model.ops[0].register_forward_hook(lambda m, args, out: seen.append("before") or out * 2)
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert seen == [] or set(seen) == {"before"}
    for _ in range(2):
        assert_runs_like(fast, model, x)
        seen.clear()
        fast(x)
        assert seen == ["before"]
    hook.remove()
    fast.ops[0]._forward_hooks.clear()
    assert_runs_like(fast, model, x)
    added = fast.ops[1].register_forward_pre_hook(lambda m, args: seen.append("after"))
    backward = fast.ops[0][1].register_full_backward_hook(lambda *_: seen.append("backward"))
    x.requires_grad_()
    fast(x)
    seen.clear()
    for _ in range(2):
        fast(x).sum().backward()
    assert seen == ["after", "backward"] * 2
    added.remove(), backward.remove()
    seen.clear()
    with no_capture(monkeypatch):
        assert_runs_like(fast, model, x)
        assert seen == []
    fast.ops[1].forward = lambda x: x * 3
    model.ops[1].forward = lambda x: x * 3
    assert_runs_like(fast, model, x)
    root = fast.register_forward_hook(lambda m, args, out: out * 5)
    assert torch.allclose(fast(x), 5 * model(x), rtol=0, atol=1e-12)
    root.remove()


def everything(m: Any, x: Tensor) -> Tensor:
    numbers = [len(m.seen), len(m.seen[1]["a"])]
    h = m.drop(m.norm(m.conv(x))) * m.alphas[0] + m.alphas[1] * torch.rand(())
    m.norm.running_mean[0] += 1
    return h * sum(numbers)


def failing(m: Any, x: Tensor) -> Tensor:
    h = everything(m, x)
    m.seen.append(3)
    m.seen[1]["a"][0] = 4
    m.seen[1]["h"] = h
    m.alphas.requires_grad_(False)
    m.conv.weight.data.add_(1)
    m.__dict__["extra"] = 1
    m.register_buffer("late", torch.zeros(1))
    numpy.random.rand()
    raise KeyError("mine", random.random(), m.generator.random())


@pytest.mark.parametrize("body", [everything, failing])
@pytest.mark.parametrize("training", [True, False])
def test_a_capture_leaves_no_trace(body: Callable[..., Any], training: bool) -> None:
    model, x = Body(body), image()
    model.drop.eval()
    model.train(training)
    model.norm.train()
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    fast = toponas_fx.simplify(Body(everything), x, mode="exact")
    vars(fast)["_toponas"].programs.clear()
    fast.body = body
    watched = [model, fast]
    before = [_trace(m) for m in watched]
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    if body is failing:
        with pytest.raises(KeyError, match="mine"):
            toponas_fx.simplify(model, x)
    else:
        toponas_fx.simplify(model, x)
    assert [_trace(m) for m in watched] == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states[1:]
    assert torch.equal(x, image())


def _trace(model: nn.Module) -> list[Any]:
    """Write down all that a capture could leave in a model."""
    found: list[Any] = []
    for path, module in model.named_modules():
        found += [path, module.training, sorted(vars(module)), list(module._buffers), list(module._forward_hooks)]
    for path, tensor in model_tensors(model):
        found += [
            path,
            tensor.tolist(),
            tensor.requires_grad,
            id(tensor),
            None if tensor.grad is None else tensor.grad.tolist(),
        ]
    return [*found, copy.deepcopy(getattr(model, "seen", None)), model.generator.getstate()]


def test_the_users_exception_passes_untouched() -> None:
    class Odd(Exception):
        pass

    def body(m: Any, x: Tensor) -> Tensor:
        raise Odd("as it was")

    model = Body(body)
    with pytest.raises(Odd, match=r"^as it was$"):
        toponas_fx.simplify(model, image())
    assert "forward" not in vars(model.conv)
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl"
