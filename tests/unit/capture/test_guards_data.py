"""Answers read from data are guards; what a graph cannot repeat runs as its user wrote it, and a note says where."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import toponas_fx
from exactness import assert_runs_like, compiled, counted_captures, image, left_as_written, no_capture
from toponas_fx.analysis.arms import selects


class Supernet(nn.Module):
    """Three candidates and a body under test, ``forward(self, x)``."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = torch.tensor([0.3, 0.0, 0.7], dtype=torch.float64, requires_grad=True)
        self.ops = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()])
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.index = torch.tensor(0)
        self.seen: list[Any] = []
        self.generator = random.Random(5)
        self.numbers = numpy.random.default_rng(0)
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def sampled(m: Any, x: Tensor) -> Tensor:
    index = m.alphas.argmax().item()
    return sum(w * op(x) if i == index else w for i, (w, op) in enumerate(zip(m.alphas, m.ops, strict=True)))


def retried(m: Any, x: Tensor) -> Tensor:
    while True:
        gumbels = -torch.empty_like(m.alphas).exponential_().log()
        logits = (m.alphas.log_softmax(-1) + gumbels) / 2
        probs = logits.softmax(-1)
        if torch.isinf(gumbels).any() or torch.isinf(probs).any():
            continue
        return sum(w * op(x) for w, op in zip(probs, m.ops, strict=True))


def counted(m: Any, x: Tensor) -> Tensor:
    assert torch.all(m.alphas > -100), "an assertion on a tensor"
    alive = [(w, op) for w, op in zip(m.alphas, m.ops, strict=True) if not w == 0]
    return sum(w * op(x) for w, op in alive) / len(alive)


DATA: dict[str, Callable[[Any, Tensor], Any]] = {
    "not_zero": lambda m, x: sum(w * op(x) for w, op in zip(m.alphas, m.ops, strict=True) if w != 0),
    "positive": lambda m, x: sum(w * op(x) for w, op in zip(m.alphas, m.ops, strict=True) if w > 0),
    "counted": counted,
    "item": lambda m, x: sum(w * op(x) for w, op in zip(m.alphas, m.ops, strict=True) if w.item()),
    "argmax": lambda m, x: m.ops[m.alphas.argmax()](x),
    "int": lambda m, x: m.ops[int(m.alphas.argmax())](x),
    "tolist": lambda m, x: sum(op(x) for v, op in zip(m.alphas.gt(0).tolist(), m.ops, strict=True) if v),
    "sampled": sampled,
    "retried": retried,
    "nonzero": lambda m, x: x * 2 if len(torch.nonzero(m.alphas)) > 2 else m.ops[0](x) * m.alphas[0],
    "equal": lambda m, x: x if torch.equal(m.alphas[0], m.alphas[1]) else m.ops[0](x) * m.alphas[0],
    "input": lambda m, x: m.ops[0](x) if x.mean() > 0 else m.ops[1](x),
    "flag": lambda m, x: m.ops[0](x) if m.index == 0 else x,
    "index": lambda m, x: [op(x) for op in m.ops][m.index],
    "max": lambda m, x: sum(op(x) for op in m.ops) if max(m.alphas) > 0.5 else x,
    "format": lambda m, x: m.ops[int(f"{m.alphas.argmax().item()}")](x),
}  # fmt: skip


@pytest.mark.parametrize("way", DATA)
def test_answers_read_from_data(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Supernet(DATA[way]), image()
    fast = compiled(model, x, passes=None)
    program = fast._toponas.programs[0]
    assert program.has_guards or selects(program.graph)
    settings = [([0.3, 0.0, 0.7], 0), ([0.0, 1.0, 0.0], 1), ([0.2, 0.2, 0.2], 2), ([-1.0, 1.0, -1.0], 0)]
    for values, index in settings:
        model.alphas.data = torch.tensor(values, dtype=torch.float64)
        model.index.fill_(index)
        for inputs in (x, -x.abs(), x.abs()):
            assert_runs_like(fast, model, inputs)
    with no_capture(monkeypatch):
        for values, index in settings[::-1]:
            model.alphas.data = torch.tensor(values, dtype=torch.float64)
            model.index.fill_(index)
            assert_runs_like(fast, model, x.abs())


def test_a_run_that_fails_half_way_is_undone() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        x.mul_(2)
        h = m.drop(m.norm(m.ops[0](x)))
        m.alphas.data.add_(1)
        return h * m.alphas[0] if m.norm.running_mean.sum() + m.index < 0.5 else h.tanh() * m.alphas[1]

    model, x = Supernet(body), image()
    fast = compiled(model, x)
    for index in (0, 1, 0, 1):
        model.index.fill_(index)
        assert_runs_like(fast, model, x)


def test_a_model_that_keeps_changing_its_path_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        total = x
        for scale in (1e3, 1e4, 1e5):
            total = m.ops[int((x.abs().sum() * scale).item()) % 3](total)
        return total

    model = Supernet(body)
    fast = toponas_fx.simplify(model, image())
    with counted_captures(monkeypatch) as found:
        for seed in range(40):
            x = image() + seed / 7
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    assert len(found) < 12
    assert "keeps changing" in next(iter(fast._toponas.as_written.values()))


@pytest.mark.parametrize("is_by_index", [True, False])
def test_a_model_that_samples_its_path_is_recognized(is_by_index: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        total = x
        for _ in range(3):
            drawn = torch.randint(3, ()) if is_by_index else (torch.rand(()) * 3).long()
            total = m.ops[drawn.item()](total)
        return total

    model, x = Supernet(body), image()
    with nullcontext() if is_by_index else pytest.warns(UserWarning, match="samples another path"):
        fast = toponas_fx.simplify(model, x)
    with counted_captures(monkeypatch) as found:
        for seed in range(5):
            torch.manual_seed(seed)
            found_output = fast(x)
            torch.manual_seed(seed)
            assert torch.allclose(found_output, model(x), rtol=0, atol=1e-12)
    assert not found


def writes(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean().item()
    return m.ops[0](x)


def hooks(m: Any, x: Tensor) -> Tensor:
    w = m.alphas.softmax(0)
    w.register_hook(lambda g: g * 2)
    return sum(v * op(x) for v, op in zip(w, m.ops, strict=True))


def cast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return m.ops[0](x)


@torch.inference_mode()
def inferred(m: Any, x: Tensor) -> Tensor:
    return m.ops[0](x)


def retyped(m: Any, x: Tensor) -> Tensor:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    mask = torch.ones(1)
    torch.set_default_dtype(before)
    return x * mask


def saved(m: Any, x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t):
        return m.ops[0](x)


def swallowed(m: Any, x: Tensor) -> Tensor:
    try:
        m.newest = m.ops[0]
    except Exception:
        m.seen.clear()
    return m.ops[0](x)


def grown(m: Any, x: Tensor) -> Tensor:
    m.seen.append(1)
    return m.ops[0](x) * len(m.seen)


def assigned(m: Any, x: Tensor) -> Tensor:
    m.alphas.data = m.alphas.data + 1
    return m.ops[0](x) * m.alphas[0]


def seeded(m: Any, x: Tensor) -> Tensor:
    torch.manual_seed(3)
    return m.drop(x)


def trained(m: Any, x: Tensor) -> Tensor:
    loss = m.ops[0](x).sum()
    loss.backward()
    return m.ops[0](x) * m.ops[0].weight.grad.mean()


def built(m: Any, x: Tensor) -> Tensor:
    return nn.Conv2d(4, 4, 1, dtype=torch.float64)(x)


AS_WRITTEN: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "python_random": (lambda m, x: m.ops[int(random.random() < 0.5)](x), "Python's random generator"),
    "numpy_random": (lambda m, x: x * float(numpy.random.rand()), "numpy's random generator"),
    "own_random": (lambda m, x: x * m.generator.random(), "changes state in place"),
    "own_numpy_random": (lambda m, x: x * m.numbers.random(), "changes state in place"),
    "to_numpy": (lambda m, x: m.ops[int(m.alphas.detach().numpy().argmax())](x), "handed to numpy"),
    "from_numpy": (lambda m, x: x * torch.from_numpy(numpy.ones(1)), "comes neither from the model nor"),
    "legacy_values": (lambda m, x: x * torch.Tensor([2.0]), "legacy constructor"),
    "writes": (writes, "writes the attribute `last`"),
    "swallowed": (swallowed, "writes the attribute `newest`"),
    "eval_inside": (lambda m, x: m.ops.eval() and m.ops[0](x), "writes the attribute `training`"),
    "hook": (hooks, "a hook is registered"),
    "autocast": (cast, "autocast is switched"),
    "inference": (inferred, "inference mode is switched"),
    "saving": (saved, "saving of tensors for backward is switched"),
    "dtype": (retyped, "the default dtype is switched"),
    "grown": (grown, "changes state in place"),
    "assigned": (assigned, "assigned"),
    "seeded": (seeded, "seeded inside forward"),
    "backward": (trained, "backward() is called"),
    "autograd": (lambda m, x: torch.autograd.grad(m.ops[0](x).sum(), m.alphas, allow_unused=True)[0] or x, "gradient"),
    "new_weights": (built, "comes neither from the model nor"),
    "checkpoint": (lambda m, x: checkpoint(m.ops[0], x, use_reentrant=False), "checkpoint() runs a part twice"),
    "old_checkpoint": (lambda m, x: checkpoint(m.ops[0], x, use_reentrant=True), "checkpoint() runs a part twice"),
    "generator": (lambda m, x: x * torch.rand(1, generator=torch.Generator().manual_seed(1)), "Generator"),
}  # fmt: skip


@pytest.mark.parametrize("way", AS_WRITTEN)
def test_what_a_graph_cannot_repeat_runs_as_written(way: str) -> None:
    body, reason = AS_WRITTEN[way]
    model, x = Supernet(body), image()
    twin = copy.deepcopy(model)
    fast = left_as_written(model, x, reason=reason)
    assert model.seen == []
    for training in (True, False):
        fast.train(training)
        twin.train(training)
        for _ in range(2):  # state that forward changes goes on in both
            outputs = []
            for m in (fast, twin):
                _seed()
                outputs.append(m(x.clone().requires_grad_()))
            assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    assert torch.equal(fast.alphas, twin.alphas)
    assert fast.seen == twin.seen
    assert fast.training == twin.training
    assert getattr(fast, "last", None) == getattr(twin, "last", None)
    assert list(fast.parameters()) == list(model.parameters())


def _seed() -> None:
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)


def test_one_mode_may_be_compiled_and_the_other_not() -> None:
    model = Supernet(lambda m, x: m.ops[0](x) if m.training else x * torch.Tensor([2.0]))
    with pytest.warns(UserWarning, match="legacy constructor"):
        fast = toponas_fx.simplify(model, image(), mode="exact")
    assert len(fast._toponas.programs) == 1
    for training in (True, False):
        fast.train(training), model.train(training)
        assert torch.equal(fast(image()), model(image()))


def test_a_later_state_that_cannot_be_captured() -> None:
    model, x = Supernet(lambda m, x: m.ops[0](x) if not m.seen else m.ops[1](x) * random.random()), image()
    fast = compiled(model, x)
    model.seen.append(1)
    fast.seen.append(1)
    outputs = []
    for m in (fast, model):
        _seed()
        outputs.append(m(x))
    assert torch.allclose(*outputs, rtol=0, atol=1e-12)
    (reason,) = fast._toponas.as_written.values()
    assert "Python's random generator" in reason
