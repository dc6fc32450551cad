"""Arms of choices under passes: what is computed for several of them, and what passes leave alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import toponas_fx
from forced_paths import Net, X
from toponas_fx.analysis import arms
from toponas_fx.passes import Deduplicate, DetectMixedOps, DropZeroCandidates, EliminateDeadCode

IMAGES = X.double()


def drawn(self: Any, row: int = 0) -> Any:
    return (self.alphas[row] + torch.rand(3)).argmax().item()


def compiled(forward: Callable[..., Any], *passes: Any, **parts: Any) -> tuple[Any, Any]:
    """Return a model that samples, and a copy compiled with some passes, whose graph is that of training."""
    model = Net(forward, **parts).double()
    fast = toponas_fx.simplify(copy.deepcopy(model), IMAGES, passes=passes)
    assert not fast._toponas.as_written
    return model, fast.train()


def assert_trains_alike(model: Any, fast: Any) -> None:
    """Compare outputs, gradients, None apart from zero, and buffers of some draws."""
    for seed in range(9):
        seen = []
        for one in (model, fast):
            one.zero_grad()
            torch.manual_seed(seed)
            x = IMAGES.clone().requires_grad_()
            one(x).square().sum().backward()
            grads = {name: parameter.grad for name, parameter in one.named_parameters()}
            seen.append({"x": x.grad, **grads, **dict(one.named_buffers())})
        for name, expected in seen[0].items():
            found = seen[1][name]
            assert (found is None) == (expected is None), name
            if expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, msg=name)


def homes_of(fast: Any, name: str) -> list[Any]:
    """Return where the calls of a function or method run."""
    return [arms.home(node) for node in fast.graph.nodes if name in (node.target, getattr(node.target, "__name__", ""))]


def in_arms(self: Any, x: Tensor) -> Tensor:
    """What arms compute of images, and of numbers."""
    for row in range(2):
        k = drawn(self, row)
        if k == 0:
            x = x.relu() * self.alphas[2].sum()
        elif k == 1:
            x = x.relu().tanh() * self.alphas[2].sum()
        else:
            x = x.sigmoid()
    return x


def test_images_that_several_arms_read_are_lazy_and_numbers_stay() -> None:
    model, fast = compiled(in_arms, Deduplicate(), EliminateDeadCode())
    assert homes_of(fast, "relu") == [arms.LAZY, arms.LAZY]
    assert homes_of(fast, "sum") == [(0, 0), (0, 1), (1, 0), (1, 1)]
    (record, _) = fast.report.records
    assert "a choice may take one without the other" in {refusal.sentence for refusal in record.refusals}
    assert_trains_alike(model, fast)


def test_what_always_runs_is_computed_for_arms_too() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        first = x.relu()
        return (x.relu().tanh() if drawn(self) == 1 else x.exp()) * first

    model, fast = compiled(forward, Deduplicate(), EliminateDeadCode())
    assert homes_of(fast, "relu") == [None]
    assert homes_of(fast, "tanh") == [(0, 1)]
    assert_trains_alike(model, fast)


def test_what_one_arm_computes_twice_stays_in_it() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x.relu() * x.relu().exp() if drawn(self) == 1 else x.exp()

    model, fast = compiled(forward, Deduplicate(), EliminateDeadCode())
    assert homes_of(fast, "relu") == [(0, 1)]
    assert_trains_alike(model, fast)


def test_norms_of_several_arms_count_where_they_are_taken() -> None:
    norms = nn.ModuleList([nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, affine=False), nn.Identity()])
    model, fast = compiled(lambda self, x: self.ops[drawn(self)](x).exp(), Deduplicate(), ops=norms)
    assert homes_of(fast, "ops.0") == [(0, 0)]
    assert homes_of(fast, "ops.1") == [(0, 1)]
    assert_trains_alike(model, fast)


def test_a_zero_that_alone_reads_a_layer_in_its_arm_stays() -> None:
    """Another arm reads the layer too, but does not run; its gradient is zero, not None."""

    def forward(self: Any, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        if drawn(self) == 0:
            return self.alphas[2, 0] * torch.tanh(x) + self.alphas[2, 1] * hidden.mul(0.0)
        return hidden.exp()

    model, fast = compiled(
        forward, DetectMixedOps(), DropZeroCandidates(), EliminateDeadCode(), layer=nn.Conv2d(4, 4, 1)
    )
    assert homes_of(fast, "mul") == [(0, 0)]
    assert_trains_alike(model, fast)
