"""What forward may compute: random draws, own backward functions, grad modes, in-place writes, functional code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, compiled, image, observe, weights


class Body(nn.Module):
    """Modules and weights for a body under test, ``forward(self, x)``."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.alphas = weights(2)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.4)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.register_buffer("count", torch.zeros(4))
        self.double()

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def drop_path(x: Tensor, p: float) -> Tensor:
    return x.div(1 - p).mul_(torch.empty(x.size(0), 1, 1, 1, dtype=x.dtype).bernoulli_(1 - p))


def hard_gumbel(logits: Tensor) -> Tensor:
    noise = -torch.empty_like(logits).exponential_().log()
    soft = F.softmax((logits + noise) / 0.7, dim=-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


RANDOM: dict[str, Callable[[Any, Tensor], Any]] = {
    "dropout_module": lambda m, x: m.alphas[0] * m.drop(x) + m.alphas[1] * m.drop(x),
    "dropout": lambda m, x: F.dropout(x, 0.3, training=m.training) + F.dropout2d(x, 0.3),
    "gumbel": lambda m, x: F.gumbel_softmax(m.alphas, tau=0.5)[0] * m.conv(x),
    "hard_gumbel": lambda m, x: F.gumbel_softmax(m.alphas, hard=True)[1] * m.conv(x) + hard_gumbel(m.alphas)[0] * x,
    "bernoulli": lambda m, x: x * torch.bernoulli(torch.full((x.size(0), 1, 1, 1), 0.5)),
    "drop_path": lambda m, x: drop_path(m.conv(x), 0.3),
    "made": lambda m, x: x * torch.rand(()) + torch.randn_like(x) + torch.randint(3, (1,)) + torch.randperm(6),
    "multinomial": lambda m, x: x * (1 + torch.multinomial(m.alphas.softmax(0), 1)[0]),
    "normal": lambda m, x: (
        x + torch.normal(0.0, 1.0, x.shape) + x.new_empty(1).uniform_() + torch.zeros(4, 1, 6).normal_()
    ),
    "relu": lambda m, x: F.rrelu(x, training=True) + F.alpha_dropout(x, 0.2, training=True),
    "dirichlet": lambda m, x: x * torch.distributions.Dirichlet(F.elu(m.alphas) + 1).rsample()[0],
    "concrete": lambda m, x: (
        x * torch.distributions.RelaxedOneHotCategorical(torch.tensor(0.5), logits=m.alphas).rsample()[1]
    ),
}


@pytest.mark.parametrize("way", RANDOM)
def test_random_draws_are_nodes(way: str) -> None:
    model, x = Body(RANDOM[way]), image()
    fast = compiled(model, x)
    for training in (True, False):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, x)
        if training or way != "dropout_module":
            first, *others = [observe(fast, model, x, seed=seed).output for seed in range(8)]
            assert any(not torch.equal(first, other) for other in others), "drawn in the capture alone"


class Clipped(Function):
    """The identity, whose backward is not that of what its forward computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.scale = scale
        return x * w * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, w = ctx.saved_tensors
        return (gradient * w).clamp(-0.1, 0.1), (gradient * x).sum().sign() * 5, None


class Halves(Function):
    """Two outputs, one of which has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Any:
        index = x.argmax()
        ctx.mark_non_differentiable(index)
        return x / 2, index

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> Tensor:
        return gradient * 7


class InPlace(Function):
    """Writes into its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.add_(1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


FUNCTIONS: dict[str, Callable[[Any, Tensor], Any]] = {
    "own": lambda m, x: Clipped.apply(m.conv(x), m.alphas[0], 2.0) + x,
    "twice": lambda m, x: Clipped.apply(Clipped.apply(x, m.alphas[0], 1.0), m.alphas[1], 3.0),
    "outputs": lambda m, x: Halves.apply(m.conv(x))[0] * (1 + Halves.apply(x * m.alphas[0])[1]),
    "in_place": lambda m, x: (lambda h: InPlace.apply(h) * h)(m.conv(x)),
}


@pytest.mark.parametrize("way", FUNCTIONS)
def test_functions_keep_their_own_backward(way: str) -> None:
    model, x = Body(FUNCTIONS[way]), image().requires_grad_()
    assert_runs_like(compiled(model, x), model, x)


def half_frozen(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.conv(x) * m.alphas[0]
        with torch.enable_grad():
            h = h + m.alphas[1] * x
        h = h * m.alphas[0]
    return h + m.conv(x) * m.alphas[0]


@torch.no_grad()
def decorated(m: Any, x: Tensor) -> Tensor:
    return m.conv(x) * m.alphas[0]


def set_by_hand(m: Any, x: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(m.training)
    h = m.conv(x) * m.alphas[0]
    torch.set_grad_enabled(before)
    return h + x * m.alphas[1]


GRAD: dict[str, Callable[[Any, Tensor], Any]] = {
    "no_grad": half_frozen,
    "decorated": lambda m, x: decorated(m, x) + x * m.alphas[1],
    "by_hand": set_by_hand,
    "detach": lambda m, x: m.conv(x).detach() * m.alphas[0] + m.alphas.data[1] * m.conv(x),
    "asked": lambda m, x: m.conv(x) * m.alphas[0] if torch.is_grad_enabled() else m.conv(x),
    "wanted": lambda m, x: m.conv(x) * m.alphas[0] if m.conv.weight.requires_grad else m.conv(x),
    "input_wanted": lambda m, x: x * m.alphas[0] if x.requires_grad else x,
}


@pytest.mark.parametrize("way", GRAD)
def test_grad_modes_inside_and_outside(way: str) -> None:
    model, x = Body(GRAD[way]), image()
    fast = compiled(model, x)
    for training in (True, False, True):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, x)
        assert_runs_like(fast, model, image().requires_grad_())
        with torch.no_grad():
            assert_runs_like(fast, model, x)
        with torch.inference_mode():
            assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
        model.conv.weight.requires_grad_(not model.conv.weight.requires_grad)
        assert_runs_like(fast, model, x)


def test_no_rule_computes_with_gradients_what_ran_without() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas, self.convs = weights(2), nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3))
            self.double()

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                frozen = self.convs[0](x)
            return frozen * self.alphas[0] + self.convs[1](x) * self.alphas[1]

    model, x = Model(), image().requires_grad_()
    fast = toponas_fx.simplify(model, x, mode="exact")
    assert fast.report.after.convolutions == 2
    assert fast.code.count(".detach()") == 1
    assert_runs_like(fast, model, x)
    with torch.no_grad():
        assert_runs_like(fast, model, x)
    assert ".detach()" not in toponas_fx.simplify(Body(lambda m, x: m.conv(x)), x, mode="exact").code


def accumulated(m: Any, x: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for w in m.alphas:
        total += w * m.conv(x)
    total.mul_(0.5).add_(x, alpha=2)
    return total


def written(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    h[:, :2].mul_(m.alphas[0])
    h[:, 2:] = m.alphas[1] * x[:, 2:]
    h[x > 0.5] = 0.25
    view = h.view(h.size(0), -1)
    view[:, 0] += 1
    h[0, 0, 0, 0] -= m.alphas.sum()
    return h + h.tanh()


def table(m: Any, x: Tensor) -> Tensor:
    rows = torch.randn(2, 2, dtype=x.dtype)
    for i, w in enumerate(m.alphas):
        rows[i, 0], rows[i, 1:] = w, w * 2
    return rows[0, 1] * x + rows[1, 0] * m.conv(x)


def statistics(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    m.count.mul_(0.9).add_(h.detach().mean((0, 2, 3)))
    m.norm.num_batches_tracked += 2
    m.count[0] = 3
    return h * m.count.view(-1, 1, 1) + m.norm(h)


def rectified(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    other = F.relu(h, inplace=True) + nn.ReLU6(inplace=True)(m.conv(x))
    torch.tanh_(other)
    return h + torch.add(x.detach(), 1, out=torch.empty_like(x)) + other


IN_PLACE: dict[str, Callable[[Any, Tensor], Any]] = {
    "accumulated": accumulated,
    "written": written,
    "table": table,
    "statistics": statistics,
    "rectified": rectified,
    "input": lambda m, x: x.mul_(2).add_(1) * m.alphas[0],
    "projected": lambda m, x: (
        m.alphas.data.copy_(torch.tensor([1.0, 0.0])),
        m.alphas[0] * x + m.alphas[1] * m.conv(x),
    )[1],
    "shape": lambda m, x: m.conv(x).unsqueeze_(0).squeeze_(0).transpose_(2, 3) * m.alphas[0],
}


@pytest.mark.parametrize("way", IN_PLACE)
def test_in_place_writes(way: str) -> None:
    model = Body(IN_PLACE[way])
    x = image()
    fast = compiled(model, x)
    assert torch.equal(x, image()), "the example input was written to"
    for training in (True, False):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, image(4))
        assert_runs_like(fast, model, x)


CANDIDATES: dict[str, Callable[[Any, Tensor], Any]] = {
    "functional": lambda m, x: F.conv2d(F.relu(x), m.conv.weight) * m.alphas[0] + F.avg_pool2d(x, 3, 1, 0),
    "new_module": lambda m, x: nn.MaxPool2d(3, 1, 1)(x) * m.alphas[0] + nn.Softmax(-1)(x) + nn.Dropout(0.5)(x),
    "new_sequence": lambda m, x: nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2), nn.AvgPool2d(2))(x) + x,
    "forward": lambda m, x: m.alphas[0] * m.conv.forward(x) + m.alphas[1] * m.norm.forward(m.pool.forward(x)),
    "again": lambda m, x: m.norm(m.conv(m.norm(m.conv(x)))) * m.alphas[0],
    "interpolate": lambda m, x: F.interpolate(m.conv(x), size=x.shape[2:], mode="bilinear") * m.alphas[0],
    "pad": lambda m, x: F.pad(m.conv(x)[:, :, 1:, 1:], (1, 0, 1, 0)) * m.alphas[0],
    "norm": lambda m, x: F.batch_norm(x, m.norm.running_mean, m.norm.running_var, training=m.training) * m.alphas[0],
    "cast": lambda m, x: (m.conv(x).float() * m.alphas[0].float()).to(x.dtype).type_as(x) * x.to("cpu"),
    "where": lambda m, x: torch.where(x > 0, m.alphas[0] * x, m.alphas[1]) + x.max(1, keepdim=True)[0],
}  # fmt: skip


@pytest.mark.parametrize("way", CANDIDATES)
def test_candidates_however_they_are_called(way: str) -> None:
    model, x = Body(CANDIDATES[way]), image(3, 4, 8)
    fast = compiled(model, x)
    for training in (True, False):
        fast.train(training)
        model.train(training)
        assert_runs_like(fast, model, x)
