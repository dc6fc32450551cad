"""Eliminate dead code: what nobody reads goes, unless running it does something."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import toponas_fx
from nets import Net, prepare, untouched
from toponas_fx.passes import DetectMixedOps, DropZeroCandidates, EliminateDeadCode
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.linspace(-2, 2, 2 * 4 * 3 * 3).view(2, 4, 3, 3)


def unread(self, x):
    self.part(x)
    return torch.tanh(x)


def test_rewrites_the_graph_without_unread_nodes():
    def forward(self, x):
        hidden = torch.relu(x * self.scale)
        self.conv(hidden)
        return torch.tanh(x)

    _, record = check_pass(
        EliminateDeadCode(),
        Net(forward, conv=nn.Conv2d(4, 4, 1), scale=nn.Parameter(torch.ones(()))),
        X,
        before="""
            %0 = input x
            %1 = attr scale
            %2 = mul(%0, %1)
            %3 = relu(%2)
            %4 = Conv2d[conv](%3)
            %5 = tanh(%0)
            return %5
        """,
        after="""
            %0 = input x
            %1 = tanh(%0)
            return %1
        """,
    )
    assert [change.sentence for change in record.changes] == ["4 unread nodes removed"]


def test_removes_what_other_passes_left_unread():
    def forward(self, x):
        return self.alphas[0] * torch.tanh(x) + self.alphas[1] * torch.relu(x).mul(0.0)

    net = Net(forward, alphas=nn.Parameter(torch.rand(2)))
    fast, _ = check_pass(EliminateDeadCode(), net, X, prerequisites=(DetectMixedOps(), DropZeroCandidates()))
    assert "relu" not in text_of(fast)


@pytest.mark.parametrize("part", [nn.Conv2d(4, 4, 1), nn.LayerNorm(3), nn.BatchNorm2d(4, track_running_stats=False)])
def test_removes_pure_modules(part):
    fast, _ = check_pass(EliminateDeadCode(), Net(unread, part=part), X)
    assert len(fast.graph.nodes) == 3


def test_keeps_inputs_that_nothing_reads():
    def forward(self, x, y):
        torch.relu(y)
        return torch.tanh(x)

    fast, _ = check_pass(EliminateDeadCode(), Net(forward), (X, X))
    assert text_of(fast).count("input") == 2


def test_keeps_a_training_norm():
    """Its statistics move, read or not."""
    net = Net(unread, part=nn.BatchNorm2d(4))
    reasons = check_keeps(EliminateDeadCode(), net, X)
    assert reasons == ["`part` is unread but has effects"]
    fast, _ = check_pass(EliminateDeadCode(), net, X, changes=False)
    assert "BatchNorm2d" in text_of(fast.train())
    assert "BatchNorm2d" not in text_of(fast.eval())
    with untouched(fast):
        before = fast.part.running_mean.clone()
        fast.train()(X.double())
        assert not torch.equal(fast.part.running_mean, before)


def test_keeps_random_draws():
    """A later draw must find the generator where it was."""

    def forward(self, x):
        F.dropout(x, 0.5, True)
        torch.rand_like(x)
        return F.dropout(x, 0.5, True)

    net = Net(forward)
    assert len(check_keeps(EliminateDeadCode(), net, X)) == 2
    check_pass(EliminateDeadCode(), net, X, changes=False)


def test_keeps_in_place_writes():
    def forward(self, x):
        hidden = torch.neg(x)
        hidden[0].add_(1)
        return torch.tanh(hidden)

    def into_a_buffer(self, x):
        self.total.add_(x.mean())
        return torch.tanh(x)

    assert check_keeps(EliminateDeadCode(), Net(forward), X) == []
    check_pass(EliminateDeadCode(), Net(forward), X, changes=False)
    net = Net(into_a_buffer)
    net.register_buffer("total", torch.zeros(()))
    assert check_keeps(EliminateDeadCode(), net, X) == []
    fast = toponas_fx.simplify(prepare(net), X.double(), passes=(EliminateDeadCode(),))
    fast.total.zero_()
    with torch.no_grad():
        fast(X.double() + 1)
    assert fast.total == pytest.approx(1)


def test_keeps_guards_and_what_they_read():
    def forward(self, x):
        return torch.tanh(x) if self.alphas.sum() > 0 else torch.relu(x)

    net = Net(forward, alphas=nn.Parameter(torch.ones(2)))
    assert check_keeps(EliminateDeadCode(), net, X) == []
    fast = toponas_fx.simplify(net, X, passes=(EliminateDeadCode(),))
    assert "guard" in text_of(fast)
    with torch.no_grad():
        fast.alphas.mul_(-1)
    assert torch.equal(fast(X), torch.relu(X))


def test_keeps_a_switch_of_grad_mode():
    def forward(self, x):
        with torch.no_grad():
            hidden = torch.tanh(x)
        return hidden * x

    check_keeps(EliminateDeadCode(), Net(forward), X)


def test_keeps_modules_with_hooks():
    seen = []
    part = nn.ReLU()
    part.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    check_keeps(EliminateDeadCode(), Net(unread, part=part), X, "`part` is unread but has effects")
