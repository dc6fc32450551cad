"""Fuse siblings: where a convolution or a norm cannot run earlier than it did, each with its reason."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from exactness import assert_runs_like, compile_modes_apart
from nets import lines_of, prepare
from sibling_nets import X, assert_same, check_refuses, edge, net, summed
from toponas_fx.passes import Deduplicate, DetectMixedOps, FoldWeights, FuseSiblings

ELSEWHERE = "its norm runs elsewhere too, or something else reads what it counts"
FIXED = "its kernel, bias or weight depends on a draw, a write, a guard or the like after its first sibling"
UNSTEADY = "its kernel, bias or weight lies in memory that changes while the graph runs"


# -- who else uses the norm ------------------------------------------------------------------------------------------


def one_norm(self, x):
    return self.norm(self.edges[0][0](x)).sin() + self.norm(self.edges[1][0](x)).sin()


def again(self, x):
    return summed(self, x) + self.edges[0][1](x) + self.edges[1][1](x)


def looks_at_statistics(self, x):
    return self.edges[0](x).sin() + self.edges[1][1].running_mean.sum() + self.edges[1](x).sin()


def writes_statistics(self, x):
    first = self.edges[0](x).sin()
    self.edges[1][1].running_var.mul_(0.5)
    return first + self.edges[1](x).sin()


def looks_into_a_list(self, x):
    return self.edges[0](x).sin() + self.listed[0].sum() + self.edges[1](x).sin()


@pytest.mark.parametrize("forward", [one_norm, again, looks_at_statistics, looks_into_a_list, writes_statistics])
def test_keeps_norms_that_something_else_uses(forward):
    module = net(forward=forward, norm=nn.BatchNorm2d(4)).double()
    module.listed = [module.edges[1][1].running_mean]
    check_refuses(module, ELSEWHERE)


def test_keeps_norms_whose_statistics_are_copied_to_a_twin():
    def forward(self, x):
        first = self.edges[0][0](x)
        return self.edges[0][1](first).sin() + self.twin(first).cos() + self.edges[1](x).sin()

    plain = (edge(norm=nn.BatchNorm2d(4, affine=False)) for _ in range(2))
    module = net(*plain, forward=forward, twin=nn.BatchNorm2d(4, affine=False))
    fast = toponas_fx.simplify(module, X, passes=(Deduplicate(), FuseSiblings())).train()
    assert lines_of(fast, "copy_statistics")
    assert not lines_of(fast, "stacked_norm")
    assert any(ELSEWHERE == change.sentence for change in fast.report.records[-1].refusals)


def test_keeps_norms_whose_weights_something_else_reads():
    def forward(self, x):
        return summed(self, x) + self.edges[0][1].weight.square().sum() + self.edges[1][1].bias.sum()

    check_refuses(net(forward=forward), "something else reads the weights of its norm")


# -- places ----------------------------------------------------------------------------------------------------------


def written_between(self, x):
    x = x.tanh()
    first = self.edges[0](x).sin()
    x.data[:, :1] = 0
    return first + self.edges[1](x).sin()


def convolved(self, x, kernel, index=1):
    return self.edges[index][1](F.conv2d(x, kernel, None, 1, 1)).sin()


def drawn(self, x):
    first = self.edges[0](x).sin()
    kernel = self.edges[1][0].weight
    return first + convolved(self, x, kernel + torch.rand_like(kernel))


def written_kernel(self, x):
    kernel = self.edges[1][0].weight * 2
    first = self.edges[0](x).sin()
    kernel.detach().mul_(0.5)
    return first + convolved(self, x, kernel)


def written_parameter(self, x):
    first = self.edges[0](x).sin()
    self.edges[1][0].weight.data.mul_(0.5)
    return first + self.edges[1](x).sin()


def counted(self, x):
    first = self.edges[0](x).sin() + self.other(x)
    return first + convolved(self, x, self.edges[1][0].weight * self.other.running_var.mean())


def frozen_kernel(self, x):
    first = self.edges[0](x).sin()
    with torch.no_grad():
        kernel = self.edges[1][0].weight * 2
    return first + convolved(self, x, kernel)


def of_a_sibling(self, x):
    first = self.edges[0](x).sin()
    return first + convolved(self, x, self.edges[1][0].weight * first.mean())


MOVES = "its kernel, bias or weight depends on a convolution that may be fused itself"
PLACES = {
    written_between: "its input is written in place between its first sibling and itself",
    drawn: FIXED,
    written_kernel: UNSTEADY,
    written_parameter: UNSTEADY,
    frozen_kernel: "its kernel, bias or weight is computed in another grad mode",
    of_a_sibling: MOVES,
}


@pytest.mark.parametrize("forward", PLACES)
def test_keeps_siblings_that_cannot_move(forward):
    check_refuses(net(forward=forward, other=nn.BatchNorm2d(4)), PLACES[forward])


def test_keeps_a_sibling_whose_kernel_depends_on_what_a_norm_counts(monkeypatch):
    compile_modes_apart(monkeypatch)
    module = prepare(net(forward=counted, other=nn.BatchNorm2d(4)))
    fast = toponas_fx.simplify(module, X.double(), passes=(FuseSiblings(),))
    assert UNSTEADY in [refusal.reason for refusal in FuseSiblings().plan(fast.train()).refusals]
    assert not lines_of(fast, "stacked_norm")
    assert lines_of(fast.eval(), "stacked_norm"), "nothing counts in eval mode"
    for training in (True, False):
        assert_runs_like(fast.train(training), module.train(training), X.double())


def test_keeps_a_folded_weight_that_is_drawn_after_the_first():
    def forward(self, x):
        x = x.tanh()
        total = 0
        for each in self.edges:
            weight = self.alphas[0] + torch.rand_like(self.alphas[1])
            total = total + (weight * each(x) + self.alphas[1] * x).sin()
        return total

    module = net(forward=forward, alphas=nn.Parameter(torch.rand(2)))
    check_refuses(module, FIXED, prerequisites=(DetectMixedOps(), FoldWeights()))


def test_of_siblings_whose_kernels_come_from_each_others_results_some_move():
    def forward(self, x):
        y, x = x.cos(), x.sin()
        first, other = self.edges[0](x).sin(), self.edges[2](y).sin()
        kernels = self.edges[3][0].weight * first.mean(), self.edges[1][0].weight * other.mean()
        return first + other + convolved(self, y, kernels[0], 3) + convolved(self, x, kernels[1], 1)

    module = prepare(net(*(edge() for _ in range(4)), forward=forward))
    fast = toponas_fx.simplify(copy.deepcopy(module), X.double(), passes=(FuseSiblings(),))
    for training in (True, False):
        assert len(lines_of(fast.train(training), "stacked_norm")) == 1
        assert_same(fast, module.train(training))
    assert [change.sentence for change in fast.report.records[-1].refusals][-1] == MOVES


def test_keeps_a_weight_that_its_guard_precedes():
    def forward(self, x):
        first = self.edges[0](x).sin()
        kernel = self.edges[1][0].weight
        if bool(first.mean() < 100):
            kernel = kernel * 2
        return first + convolved(self, x, kernel)

    module = prepare(net(forward=forward))
    fast = toponas_fx.simplify(copy.deepcopy(module), X.double(), passes=(FuseSiblings(),)).train()
    assert len(lines_of(fast, "stacked_norm")) == 1, "nothing is computed from a guard's answer in the graph"
    assert_same(fast, module.train())


def test_siblings_between_writes_fuse_among_themselves():
    def forward(self, x):
        x = x.tanh()
        first = self.edges[0](x).sin() + self.edges[1](x).cos()
        x.data[:, :1] = 0
        return first + self.edges[2](x).sin() + self.edges[3](x).cos()

    module = prepare(net(*(edge() for _ in range(4)), forward=forward))
    fast = toponas_fx.simplify(copy.deepcopy(module), X.double(), passes=(FuseSiblings(),)).train()
    assert len(lines_of(fast, "stacked_norm")) == 2
    assert_same(fast, module.train())


def test_what_a_sibling_needs_moves_before_the_first():
    def forward(self, x):
        first = self.edges[0](x).sin()
        kernel = self.edges[1][0].weight * torch.softmax(self.alphas, 0)[1]
        return first + self.edges[1][1](F.conv2d(x, kernel, self.alphas * 2, 1, 1)).sin()

    module = prepare(net(edge(bias=True), edge(), forward=forward, alphas=nn.Parameter(torch.rand(4))))
    fast = toponas_fx.simplify(copy.deepcopy(module), X.double(), passes=(FuseSiblings(),)).train()
    assert len(lines_of(fast, "stacked_norm")) == 1
    assert_same(fast, module.train())
    assert_same(fast.eval(), module.eval())
