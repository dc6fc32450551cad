"""Detect mixed ops: what it leaves alone, and why."""

import pytest
import torch
from torch import nn

import toponas_fx
from nets import Net, lines_of
from toponas_fx.passes import DetectMixedOps
from toponas_fx.testing import check_keeps, check_pass

X = torch.linspace(-2, 2, 2 * 4 * 3 * 3).view(2, 4, 3, 3)


def alphas(count):
    return nn.Parameter(torch.linspace(0.2, 0.9, count))


def test_keeps_terms_of_unlike_types():
    def forward(self, x):
        return self.alphas[0] * torch.relu(x) + self.alphas[1] * x.mean((2, 3), keepdim=True)

    check_keeps(DetectMixedOps(), Net(forward, alphas=alphas(2)), X, "its terms have unlike types")


def test_keeps_weights_of_another_dtype():
    def forward(self, x):
        return self.alphas[0].float() * torch.relu(x) + self.alphas[1].float() * torch.tanh(x)

    check_keeps(DetectMixedOps(), Net(forward, alphas=alphas(2)), X, "its weights are not torch.float64")


def test_reads_the_sum_within_a_sum_that_broadcasts():
    def forward(self, x):
        return self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x) + self.bias

    net = Net(forward, alphas=alphas(2), bias=nn.Parameter(torch.ones(4, 1, 1)))
    fast, record = check_pass(DetectMixedOps(), net, X)
    assert lines_of(fast, "mixed_sum") == ["([%3, %5], [%2, %4], (0, 0))"]
    assert "unlike types" in record.refusals[0].sentence


def test_keeps_a_sum_of_weights_alone():
    def forward(self, x):
        total = self.alphas[0] * self.alphas[2:4] + self.alphas[1] * self.alphas[3:5]
        return x * total.sum()

    def bare(self, x):
        return torch.relu(x) * (self.alphas[0] + self.alphas[1])

    assert check_keeps(DetectMixedOps(), Net(bare, alphas=alphas(2)), X) == []
    check_pass(DetectMixedOps(), Net(forward, alphas=alphas(5)), X)


def test_keeps_weights_that_are_spread_over_zeros():
    def forward(self, x):
        return x * (torch.zeros_like(x) + self.alphas[0] + self.alphas[1])

    check_keeps(DetectMixedOps(), Net(forward, alphas=alphas(2)), X, "it adds weights, not candidates")


def test_rewrites_a_sum_that_is_written_in_place_afterwards():
    def forward(self, x):
        total = self.alphas[0] * torch.tanh(x) + self.alphas[1] * torch.sigmoid(x)
        return torch.relu_(total)

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(2)), X)
    assert len(lines_of(fast, "mixed_sum")) == 1


def test_keeps_memory_that_something_else_reads():
    def forward(self, x):
        out = torch.relu(x)
        view = out[0]
        out.add_(self.alphas[0] * torch.tanh(x))
        out.add_(self.alphas[1] * torch.sigmoid(x))
        return out + view.sum()

    check_keeps(DetectMixedOps(), Net(forward, alphas=alphas(2)), X, "in memory that something else reads")


def test_keeps_memory_that_something_else_writes():
    def forward(self, x):
        out = torch.relu(x).neg()
        out.add_(self.alphas[0] * torch.tanh(x))
        out.add_(self.alphas[1] * torch.sigmoid(x))
        out.mul_(2)
        return out

    check_keeps(DetectMixedOps(), Net(forward, alphas=alphas(2)), X, "something else writes the memory of the sum")


@pytest.mark.parametrize("hold", [lambda tensor: tensor, lambda tensor: [tensor]], ids=["attribute", "list"])
def test_keeps_a_sum_into_memory_of_the_model(hold):
    def forward(self, x):
        total = self.total[0] if isinstance(self.total, list) else self.total
        total.add_(self.alphas[0].detach() * x).add_(self.alphas[1].detach() * torch.tanh(x))
        return total * 2

    net = Net(forward, alphas=alphas(2), total=hold(torch.zeros_like(X)))
    check_keeps(DetectMixedOps(), net, X, "the sum is built in place, in memory")


def test_keeps_a_sum_into_the_callers_memory():
    def forward(self, x):
        return x.add_(self.alphas[0] * torch.tanh(self.buffer)).add_(self.alphas[1] * torch.sigmoid(self.buffer))

    check_keeps(
        DetectMixedOps(), Net(forward, alphas=alphas(2), buffer=torch.ones_like(X)), X, "the sum is built in place"
    )


def test_keeps_a_term_that_is_written_before_the_last_is_added():
    def forward(self, x):
        hidden = torch.exp(x).neg()
        out = hidden + self.alphas[0] * torch.tanh(x)
        hidden.relu_()
        return out + self.alphas[1] * torch.sigmoid(x)

    net = Net(forward, alphas=alphas(2))
    assert "a term is written in place before the last one is added" in check_keeps(DetectMixedOps(), net, X)
    check_pass(DetectMixedOps(), net, X, changes=False)


def test_rewrites_terms_that_end_in_a_write_of_their_own():
    def forward(self, x):
        first, second = torch.mul(x, 2).relu_(), torch.neg(x).relu_()
        return self.alphas[0] * first + self.alphas[1] * second

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(2)), X)
    assert len(lines_of(fast, "mixed_sum")) == 1


def test_keeps_a_sum_across_a_switch_of_grad_mode():
    def forward(self, x):
        first, second = self.alphas[0] * torch.relu(x), self.alphas[1] * torch.tanh(x)
        with torch.no_grad():
            frozen = first + second
        return frozen + self.alphas[2] * torch.sigmoid(x)

    fast, record = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(3)), X, changes=False)
    assert "across a switch of grad mode" in record.refusals[0].sentence
    assert not lines_of(fast, "mixed_sum")


def test_a_weight_computed_from_the_input_is_none():
    """With a batch of one it looks like a scalar; with another batch it is not."""

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        return gate * torch.tanh(x) + (1 - gate) * torch.relu(x)

    net = Net(forward, gate=nn.Linear(3, 1))
    assert check_keeps(DetectMixedOps(), net, torch.ones(1, 3)) == []
    fast = toponas_fx.simplify(net, torch.ones(1, 3), passes=(DetectMixedOps(),))
    assert torch.allclose(fast(torch.ones(2, 3)), net(torch.ones(2, 3)))


def test_a_skip_and_an_operation_on_what_only_they_read_are_one_edge():
    def forward(self, x):
        h = self.stem(x)
        return self.alphas[0] * h + self.alphas[1] * torch.relu(h)

    net = Net(forward, alphas=nn.Parameter(torch.rand(2)), stem=nn.Conv2d(3, 4, 1))
    fast = toponas_fx.simplify(net, torch.randn(2, 3, 4, 4), passes=(DetectMixedOps(),)).train()
    (line,) = lines_of(fast, "mixed_sum")
    assert line.endswith("(0, 0))")


def test_scalar_weights_of_their_own_make_one_edge():
    def forward(self, x):
        return sum(w * op(x) for w, op in zip(self.alphas, (torch.relu, torch.tanh), strict=True))

    net = Net(forward, alphas=nn.ParameterList(torch.rand(()) for _ in range(2)))
    fast = toponas_fx.simplify(net, torch.randn(2, 3, 4, 4), passes=(DetectMixedOps(),)).train()
    (line,) = lines_of(fast, "mixed_sum")
    assert line.endswith("(0, 0))")
