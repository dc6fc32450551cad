"""Fuse siblings: what is left alone, each with its reason, and computes as before."""

import copy

import pytest
import torch
from torch import nn

import toponas_fx
from nets import lines_of, prepare
from sibling_nets import X, assert_same, check_refuses, edge, net
from toponas_fx.passes import DetectMixedOps, DropZeroCandidates, FoldWeights, FuseSiblings

UNLIKE = "no sibling is like it, with a like norm"
NOT_READ = "its result is not read by one BatchNorm alone"
LAYOUT = "reads its result and may depend on how that lies in memory"


# -- convolutions and norms ------------------------------------------------------------------------------------------


def test_keeps_groups():
    check_refuses(net(edge(groups=2), edge(groups=2)), "it convolves in groups")
    check_refuses(net(edge(groups=4), edge(groups=4)), "it convolves in groups")


class OwnNorm(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(2, 4), lambda: nn.Tanh(), lambda: OwnNorm(4)])
def test_keeps_other_readers(norm):
    check_refuses(net(edge(norm=norm()), edge(norm=norm())), NOT_READ)


def test_keeps_convolutions_that_something_else_reads():
    def forward(self, x):
        first, second = (edge[0](x) for edge in self.edges)
        return self.edges[0][1](first).sin() + self.edges[1][1](second).sin() + first + second

    check_refuses(net(forward=forward), NOT_READ)


def test_keeps_hooks():
    hooked = net()
    for part in hooked.edges:
        part[1].register_forward_hook(lambda module, inputs, output: output * 2)
    check_refuses(hooked, NOT_READ)
    hooked = net()
    hooked.edges[0][0].register_forward_hook(lambda module, inputs, output: output * 2)
    check_refuses(hooked, None)


def test_keeps_an_input_without_a_batch_axis():
    def lines():
        return nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(7))

    check_refuses(net(lines(), lines()), "its input has no batch axis", torch.randn(4, 7))


def frozen_norm():
    def forward(self, x):
        first, second = (edge[0](x) for edge in self.edges)
        with torch.no_grad():
            first, second = self.edges[0][1](first).sin(), self.edges[1][1](second).sin()
        return first + second + x

    return net(forward=forward)


def test_keeps_norms_in_another_grad_mode():
    check_refuses(frozen_norm(), "its norm runs in another grad mode")


DIFFERENT = {
    "kernel size": edge(1),
    "stride and padding": edge(3, stride=1, padding=2, dilation=2),
    "bias": edge(bias=True),
    "momentum": edge(norm=nn.BatchNorm2d(4, momentum=0.3)),
    "affine": edge(norm=nn.BatchNorm2d(4, affine=False)),
    "tracking": edge(norm=nn.BatchNorm2d(4, track_running_stats=False)),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_keeps_siblings_that_differ(kind):
    check_refuses(net(edge(), DIFFERENT[kind]), UNLIKE)


def test_keeps_siblings_of_unlike_eps():
    module = prepare(net())  # which makes it equal
    module.edges[1][1].eps = 0.1
    fast = toponas_fx.simplify(copy.deepcopy(module), X.double(), passes=(FuseSiblings(),)).train()
    assert not lines_of(fast, "stacked_norm")
    assert_same(fast, module.train())


def test_keeps_siblings_of_unlike_stride_or_padding():
    def forward(self, x):
        return self.edges[0](x).mean() + self.edges[1](x).mean()

    check_refuses(net(edge(), edge(stride=2), forward=forward), UNLIKE)
    check_refuses(net(edge(), edge(padding=0), forward=forward), UNLIKE)


def test_keeps_siblings_in_unlike_grad_modes():
    def forward(self, x):
        first = self.edges[0](x).sin()
        with torch.no_grad():
            second = self.edges[1](x).sin()
        return first + second

    check_refuses(net(forward=forward), UNLIKE)


def test_keeps_a_norm_in_another_mode():
    original = prepare(net())
    fast = toponas_fx.simplify(copy.deepcopy(original), X.double(), passes=(FuseSiblings(),)).train()
    assert lines_of(fast, "stacked_norm")
    for model in (fast, original.train()):
        model.edges[1][1].eval()
    assert_same(fast, original)
    assert not lines_of(fast, "stacked_norm")


def test_keeps_cumulative_norms():
    cumulative = (edge(norm=nn.BatchNorm2d(4, momentum=None)) for _ in range(2))
    check_refuses(net(*cumulative), "its norm averages over all batches, with a momentum of its own count")


# -- parts of one tensor ---------------------------------------------------------------------------------------------


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def by_each(function):
    return lambda self, x: sum(function(self, edge(x)) for edge in self.edges)


def zeroed(self, x):
    x[:, :1] = 0
    return x.sin()


def turned(self, x):
    x.detach().transpose(0, 1).add_(1)
    return x.sin()


WRITTEN = "its result is written in place"
RESULTS = {
    "relu": (by_each(lambda self, x: self.relu(x)), WRITTEN),
    "method": (by_each(lambda self, x: x.mul_(2).sin()), WRITTEN),
    "item": (by_each(zeroed), WRITTEN),
    "view": (by_each(turned), WRITTEN),
    "returned": (
        lambda self, x: [edge(x) for edge in self.edges],
        "its result is returned, and the caller may write to it",
    ),
    "returned view": (
        lambda self, x: [edge(x).flatten(1) for edge in self.edges],
        "its result is returned, and the caller may write to it",
    ),
    "flat": (by_each(lambda self, x: x.view(-1)), f"`view` {LAYOUT}"),
    "function": (by_each(lambda self, x: Double.apply(x)), LAYOUT),
    "hooked": (by_each(lambda self, x: self.hooked(x)), LAYOUT),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_keeps_results_that_may_not_be_parts(kind):
    forward, reason = RESULTS[kind]
    module = net(forward=forward, relu=nn.ReLU(inplace=True), hooked=nn.Tanh())
    module.hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    check_refuses(module, reason)


def test_keeps_the_only_term_of_a_sum_that_is_written_in_place():
    def forward(self, x):
        x, rows = x.tanh(), zip(self.alphas, self.edges, strict=True)
        return sum(self.relu(row[0] * x.mul(0.0) + row[1] * edge(x)) for row, edge in rows)

    module = net(forward=forward, alphas=nn.Parameter(torch.rand(2, 2)), relu=nn.ReLU(inplace=True))
    check_refuses(module, WRITTEN, prerequisites=(DetectMixedOps(), DropZeroCandidates(), FoldWeights()))
