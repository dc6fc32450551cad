"""Odd user code, each found by looking for what breaks a capture."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import toponas_fx
from exactness import assert_runs_like, compiled, image, left_as_written, weights


class Odd(nn.Module):
    """Layers of unusual kinds, and a body under test, ``forward(self, x)``."""

    MASK = torch.full((4, 1, 1), 2.0, dtype=torch.float64)

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(3)
        self.conv, self.point = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.weight_norm = parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.spectral_norm = parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.1)
        self.lstm = nn.LSTM(4, 4, batch_first=True, num_layers=2, dropout=0.2)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.parallel = nn.DataParallel(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()))
        self.tau = numpy.linspace(1, 2, 3)[1]
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def profiled(m: Any, x: Tensor) -> Tensor:
    with torch.profiler.record_function("edge"):
        return m.conv(x) * m.alphas[0]


def tried(m: Any, x: Tensor) -> Tensor:
    try:
        return m.conv(x.view(7, 7))
    except RuntimeError:
        return m.conv(x) * m.alphas[0]


def looped(m: Any, x: Tensor) -> Tensor:
    i = 0
    while i < 3:
        x, i = m.conv(x) * m.alphas[i], i + 1
        if x.abs().max() > 1e3:
            break
    return x


def aliased(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    out = h
    out += m.point(x) * m.alphas[0]
    return h * m.alphas[1] + out


def viewed(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x) * m.alphas[0]
    h.view(-1)[:10] = 0
    h.transpose(2, 3).mul_(2)
    return h + m.point(x) * m.alphas[1]


def continued(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x) * m.alphas[0]
    for i, op in enumerate((m.point, m.conv), start=1):
        h += m.alphas[i] * op(x)
    kept = h.clone()
    h *= 2
    return h + kept


def pooled(m: Any, x: Tensor) -> Tensor:
    values, places = m.pool(m.conv(x) * m.alphas[0])
    return m.unpool(values, places) * places.max()


def attended(m: Any, x: Tensor) -> Tensor:
    out, shares = m.attention(*[tokens(x)] * 3)
    return out * m.alphas[0] + shares.sum()


def recurrent(m: Any, x: Tensor) -> Tensor:
    out, (_, cell) = m.lstm(tokens(x))
    return out * m.alphas[0] + cell.sum()


BODIES: dict[str, Callable[[Any, Tensor], Any]] = {
    "weight_norm": lambda m, x: m.alphas[0] * m.weight_norm(x) + m.alphas[1] * m.conv(x),
    "spectral_norm": lambda m, x: m.alphas[0] * m.spectral_norm(x) + m.alphas[1] * m.conv(x),
    "parallel": lambda m, x: m.alphas[0] * m.parallel(x) + m.alphas[1] * m.conv(x),
    "class_tensor": lambda m, x: m.alphas[0] * m.conv(x) * m.MASK,
    "numpy_tau": lambda m, x: m.conv(x) * (m.alphas / m.tau).softmax(0)[0] * m.tau,
    "overload": lambda m, x: torch.ops.aten.relu.default(torch.ops.aten.add(m.conv(x), x)) * m.alphas[0],
    "fourier": lambda m, x: torch.fft.ifft2(torch.fft.fft2(m.conv(x)) * m.alphas[0]).real,
    "keywords": lambda m, x: nn.functional.conv2d(x, weight=m.point.weight, bias=m.point.bias) * m.alphas[0],
    "contains": lambda m, x: x * m.alphas[0] if 3 in m.alphas else m.conv(x) * m.alphas[0],
    "sorted": lambda m, x: sum(w * op(x) for w, op in zip(sorted(m.alphas), (m.conv, m.point), strict=False)),
    "tensordot": lambda m, x: torch.tensordot(m.alphas, torch.stack([m.conv(x), m.point(x), x]), dims=1),
    "matmul": lambda m, x: torch.stack([m.conv(x), m.point(x), x], -1) @ m.alphas,
    "addcmul": lambda m, x: torch.addcmul(m.conv(x), m.alphas[0].expand_as(x), x, value=2).lerp(x, m.alphas[1]),
    "profiled": profiled,
    "tried": tried,
    "looped": looped,
    "aliased": aliased,
    "viewed": viewed,
    "continued": continued,
    "pooled": pooled,
    "attended": attended,
    "recurrent": recurrent,
}


@pytest.mark.parametrize("passes", [(), None], ids=["captured", "rewritten"])
@pytest.mark.parametrize("way", BODIES)
def test_odd_code(way: str, passes: Any) -> None:
    model, x = Odd(BODIES[way]), image()
    fast = compiled(model, x, passes=passes)
    for training in (True, False):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, x)
    with torch.no_grad():
        model.alphas.copy_(torch.tensor([0.5, -1.0, 2.0]))
    assert_runs_like(fast, model, image(5))


def test_a_tensor_of_the_class_is_read_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Odd(BODIES["class_tensor"]), image()
    fast = compiled(model, x)
    monkeypatch.setattr(Odd, "MASK", torch.ones(4, 1, 1, dtype=torch.float64))
    assert_runs_like(fast, model, x)


def test_a_wrapper_that_delegates_attributes() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 6)).double()
            self.net.tau = 2.0
            self.net.alphas = weights(1)

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("net"), name)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.tau * self.alphas

    model, x = Wrapper(), image()
    fast = compiled(model, x)
    assert_runs_like(fast, model, x)
    fast.net.tau = model.net.tau = 3.0
    assert_runs_like(fast, model, x)
    fast.net.alphas = model.net.alphas = weights(1, seed=6)
    assert_runs_like(fast, model, x)


def test_roots_that_are_containers() -> None:
    class MixedOp(nn.ModuleList):
        def forward(self, x: Tensor) -> Any:
            return sum(w * op(x) for w, op in zip(self.alphas, self, strict=True))

    class Chain(nn.Sequential):
        def forward(self, input: Tensor) -> Any:
            return super().forward(input) * self.alphas[0]

    layers = [nn.Linear(6, 6), nn.Tanh()]
    for model in (MixedOp(layers), Chain(*layers)):
        model.double()
        model.alphas = weights(2)
        assert_runs_like(compiled(model, image()), model, image())


def test_compiled_parts_are_told_to_come_later() -> None:
    for model in (nn.Sequential(torch.compile(nn.Linear(6, 6))), torch.compile(nn.Linear(6, 6))):
        with pytest.raises(toponas_fx.ArgumentError, match="simplify before compiling"):
            toponas_fx.simplify(model, image().float())  # type: ignore[arg-type]


def test_a_forward_that_is_called_by_itself_skips_the_hooks() -> None:
    model = Odd(lambda m, x: m.conv(x) + m.conv.forward(x) + m.point.forward(x) * m.alphas[0])
    fast = compiled(model, image())
    for module in (model.conv, model.point, fast.conv, fast.point):
        module.register_forward_hook(lambda module, args, output: output * 2)
    assert_runs_like(fast, model, image())
    assert_runs_like(compiled(model, image()), model, image())


def test_borrowed_parameters_are_refused() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return torch.func.functional_call(m.conv, {k: p * 2 for k, p in m.conv.named_parameters()}, (x,))

    model = Odd(body)
    fast = left_as_written(model, image(), reason="functional_call() lends a module other parameters")
    assert_runs_like(fast, model, image())


def test_a_sparse_tensor_is_left_alone() -> None:
    def mixed(m: Any, x: Tensor) -> Any:
        return m.alphas[0] * torch.relu(x) + m.alphas[1] * torch.tanh(x)

    def propagated(m: Any, x: Tensor) -> Any:
        return torch.sparse.mm(m.adjacency, mixed(m, x).reshape(-1, 6).t()).t().reshape(x.shape)

    for body in (mixed, propagated):
        model = Odd(body)
        model.register_buffer("adjacency", torch.eye(6, dtype=torch.float64).to_sparse())
        if body is mixed:
            fast = compiled(model, image())
        else:
            fast = left_as_written(model, image(), reason="a tensor of the layout torch.sparse_coo is used")
        assert torch.equal(fast(image()), model(image()))
        assert "note" in fast.report.details() or body is mixed


class Finder:
    """An import hook of the user's, or of a tool such as pytest, that keeps books."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        self.asked.append(name)


def test_what_an_import_inside_forward_runs_is_none_of_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside einsum torch imports what it needs, and hooks for imports keep books of what they were asked for."""

    def body(m: Any, x: Tensor) -> Tensor:
        import wave

        return m.conv(x) * wave.WAVE_FORMAT_PCM

    finder = Finder()
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    model = Odd(body)
    assert_runs_like(compiled(model, image()), model, image())
    assert "wave" in finder.asked
