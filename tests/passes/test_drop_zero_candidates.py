"""Drop zero candidates: the term goes, its weight keeps its gradient."""

import pytest
import torch
from torch import nn

from nets import Edge, Net, lines_of
from toponas_fx.passes import DetectMixedOps, DropZeroCandidates
from toponas_fx.testing import check_keeps, check_pass

X = torch.linspace(-2, 2, 2 * 4 * 4 * 4).view(2, 4, 4, 4)
FIRST = (DetectMixedOps(),)


class Zero(nn.Module):
    """The zero candidate of supernets; with a stride it also takes every other pixel."""

    def __init__(self, stride=1):
        super().__init__()
        self.stride = stride

    def forward(self, x):
        return x.mul(0.0) if self.stride == 1 else x[:, :, :: self.stride, :: self.stride].mul(0.0)


class ZeroLike(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = (make,)

    def forward(self, x):
        return self.make[0](x)


def test_rewrites_the_sum_without_the_zero():
    _, record = check_pass(
        DropZeroCandidates(),
        Edge(nn.Tanh(), Zero(), nn.Sigmoid()),
        X,
        before="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = Tanh[ops.0](%0)
            %7 = mul(%0, 0.0)
            %8 = Sigmoid[ops.2](%0)
            %9 = mixed_sum([%6, %7, %8], [%3, %4, %5], (0, 0, 0))
            return %9
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = Tanh[ops.0](%0)
            %7 = Sigmoid[ops.2](%0)
            %8 = mixed_sum([%6, %7], [%3, %5], (0, 0))
            return %8
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["1 zero candidate dropped"]


ZEROS = {
    "int": lambda x: x * 0,
    "reflected": lambda x: 0.0 * x,
    "zeros_like": torch.zeros_like,
    "new_zeros": lambda x: x.new_zeros(2, 4, 4, 4),
    "factorized": lambda x: torch.cat([x[:, :2].mul(0.0), x[:, 2:].mul(0.0)], 1),
}


@pytest.mark.parametrize("make", ZEROS.values(), ids=ZEROS)
def test_drops_the_zero(make):
    net = Edge(nn.Tanh(), ZeroLike(make))
    is_detected = make in (ZEROS["zeros_like"], ZEROS["new_zeros"])  # has no gradient: it is no term to begin with
    fast, _ = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST, changes=not is_detected)
    assert lines_of(fast, "mixed_sum") == ["([%5], [%3], (0,))"]


def test_drops_a_strided_zero():
    net = Edge(nn.AvgPool2d(2), Zero(2), nn.MaxPool2d(2))
    fast, _ = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.endswith("(0, 0))")


def test_edges_keep_their_numbers():
    def forward(self, x):
        y = torch.relu(x)
        one = self.alphas[0, 0] * torch.tanh(x) + self.alphas[0, 1] * x.mul(0.0)
        two = self.alphas[1, 0] * y.mul(0.0) + self.alphas[1, 1] * torch.sigmoid(y)
        return one + two

    net = Net(forward, alphas=nn.Parameter(torch.rand(2, 2)))
    fast, record = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.endswith("(0, 1))")
    assert [change.sentence for change in record.changes] == ["2 zero candidates dropped"]


def test_a_weight_of_its_own_gets_a_zero_gradient_not_none():
    def forward(self, x):
        return self.weights[0] * torch.tanh(x) + self.weights[1] * x.mul(0.0)

    weights = [torch.tensor(0.5).requires_grad_(), torch.tensor(0.25).requires_grad_()]
    fast, _ = check_pass(DropZeroCandidates(), Net(forward, weights=weights), X, prerequisites=FIRST)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.startswith("([%1, 0.0], [")
    gradient = torch.autograd.grad(fast(X.double()).sum(), fast.weights[1])
    assert gradient[0] == 0


def test_a_row_that_only_zeros_read_gets_a_zero_gradient():
    def forward(self, x):
        return self.alphas[0] * torch.tanh(x) + self.betas[0] * x.mul(0.0) + self.betas[1] * torch.zeros_like(x)

    net = Net(forward, alphas=nn.Parameter(torch.rand(2)), betas=nn.Parameter(torch.rand(2)))
    check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)


def test_a_zero_in_another_sum_does_not_count_as_a_reader():
    def forward(self, x):
        one = self.alphas[0] * torch.tanh(x) + self.betas[0] * x.mul(0.0)
        return torch.relu(one) * torch.exp(self.alphas[1] * torch.tanh(x) + self.betas[1] * torch.sigmoid(x))

    net = Net(forward, alphas=nn.Parameter(torch.rand(2)), betas=nn.Parameter(torch.rand(2)))
    check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)


def test_keeps_the_last_term():
    def forward(self, x):
        return torch.cat([x, self.alphas[0] * x.mul(0.0) + self.alphas[1] * (0 * x)])

    net = Net(forward, alphas=nn.Parameter(torch.rand(2)))
    fast, record = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)
    assert [change.sentence for change in record.changes] == ["1 zero candidate dropped"]
    assert [refusal.sentence for refusal in record.refusals] == ["all its candidates are zero; one gives the shape"]
    assert lines_of(fast, "mixed_sum") == ["([%3], [%2], (0,))"]


def test_keeps_a_single_zero():
    def forward(self, x):
        return torch.cat([x, 0 + self.alphas[0] * x.mul(0.0)])

    net = Net(forward, alphas=nn.Parameter(torch.rand(1)))
    check_keeps(DropZeroCandidates(), net, X, "all its candidates are zero", prerequisites=FIRST)


def test_keeps_zeros_that_are_written_in_place():
    def forward(self, x):
        filled = x.mul(0.0)
        filled[0].add_(1)
        return self.alphas[0] * filled + self.alphas[1] * torch.tanh(x)

    def later(self, x):
        filled = torch.zeros_like(x)
        filled[:, 0] = x[:, 0]
        return self.alphas[0] * filled + self.alphas[1] * torch.tanh(x)

    for net in (Net(forward, alphas=nn.Parameter(torch.rand(2))), Net(later, alphas=nn.Parameter(torch.rand(2)))):
        assert check_keeps(DropZeroCandidates(), net, X, prerequisites=FIRST) == []


def test_keeps_what_is_zero_in_parts():
    net = Edge(nn.Tanh(), ZeroLike(lambda x: torch.cat([x[:, :2].mul(0.0), x[:, 2:]], 1)))
    assert check_keeps(DropZeroCandidates(), net, X, prerequisites=FIRST) == []


@pytest.mark.parametrize("factor", [1e-30, -1.0, 1])
def test_keeps_small_factors(factor):
    net = Edge(nn.Tanh(), ZeroLike(lambda x: x * factor))
    assert check_keeps(DropZeroCandidates(), net, X, prerequisites=FIRST) == []


def test_keeps_a_zero_that_alone_reads_a_layer():
    def forward(self, x):
        hidden = torch.relu(self.layer(x))
        return self.alphas[0] * torch.tanh(x) + self.alphas[1] * hidden.mul(0.0) + self.alphas[2] * x.mul(0.0)

    net = Net(forward, layer=nn.Conv2d(4, 4, 1), alphas=nn.Parameter(torch.rand(3)))
    fast, record = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)
    assert [refusal.sentence for refusal in record.refusals] == ["nothing else reads what the zero is made from"]
    assert lines_of(fast, "mixed_sum")[0].endswith("(0, 0))")


def test_keeps_one_of_the_zeros_that_read_a_layer_together():
    def forward(self, x):
        hidden = self.layer(x)
        one = self.alphas[0] * torch.tanh(x) + self.alphas[1] * hidden.mul(0.0)
        return torch.sigmoid(one) + self.alphas[2] * torch.relu(x) + self.alphas[3] * hidden.mul(0.0)

    net = Net(forward, layer=nn.Conv2d(4, 4, 1), alphas=nn.Parameter(torch.rand(4)))
    _, record = check_pass(DropZeroCandidates(), net, X, prerequisites=FIRST)
    assert len(record.changes) == len(record.refusals) == 1
