"""Small modules for the tests of passes, and what these look at beside ``toponas_fx.testing``."""

import contextlib

import torch
from torch import nn
from torch.utils import _pytree as pytree

from toponas_fx.testing.differences import prepared
from toponas_fx.testing.rewrites import EPS, text_of


class Net(nn.Module):
    """A module of named parts (modules, parameters, tensors, plain values) and a function ``forward(self, x)``."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward_function = (forward,)  # in a tuple: a plain function is no state to guard
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, *more):
        return self._forward_function[0](self, x, *more)


class Edge(nn.Module):
    """One mixed operation: ``sum(w * op(x))`` over candidates, the weights taken as they are."""

    def __init__(self, *candidates):
        super().__init__()
        self.alphas = nn.Parameter(torch.linspace(0.3, 0.7, len(candidates)))
        self.ops = nn.ModuleList(candidates)

    def forward(self, x):
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


def lines_of(gm, function):
    """Return the arguments of each call of a function, as text: ``([%3, %5], [%2, %4], (0, 0))``."""
    return [line.split(f" {function}")[1] for line in text_of(gm).splitlines() if f"= {function}(" in line]


def prepare(module):
    """Return a copy in float64, its norms with statistics of their own and an eps too small to hide an error."""
    return prepared(module, EPS)


def undecide(fast):
    """Let passes take the present graph for the deciding capture."""
    fast.meta["sharing"].is_decided = False


def run(call, inputs, wanted):
    """Return the output and the gradients of ``wanted`` and of the inputs under a loss that tells elements apart."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = [leaf for leaf in pytree.tree_leaves(call(*inputs)) if isinstance(leaf, torch.Tensor)]
    flat = torch.cat([output.flatten() for output in outputs])
    loss = (flat * torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype)).sum()
    targets = [*wanted, *(x for x in inputs if x.requires_grad)]
    return [flat.detach(), *torch.autograd.grad(loss, targets, allow_unused=True)]


def assert_close(found, expected, names, tolerance, none_is_zero=False):
    """Compare tensors pairwise; a gradient is None on both sides or on none."""
    for tensor, other, name in zip(found, expected, names, strict=True):
        if tensor is None or other is None:
            both = tensor is None and other is None
            zeros = none_is_zero and not any(t.any() for t in (tensor, other) if t is not None)
            assert both or zeros, f"{name}: {'no' if tensor is None else 'a'} gradient, unlike the oracle"
            continue
        assert tensor.shape == other.shape, name
        if not tensor.numel():
            continue
        error = (tensor - other).abs().max().item() / max(1.0, other.abs().max().item())
        assert error <= tolerance, f"{name}: off by {error:.3g}"


@contextlib.contextmanager
def untouched(module):
    """Restore buffers on exit."""
    saved = [(buffer, buffer.clone()) for buffer in module.buffers()]
    yield
    for buffer, value in saved:
        buffer.data.copy_(value)
