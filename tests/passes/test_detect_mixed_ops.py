"""Detect mixed ops: every idiom of a weighted sum becomes one node."""

import operator

import pytest
import torch
from torch import nn

from nets import Edge, Net, lines_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.passes import DetectMixedOps
from toponas_fx.testing import check_keeps, check_pass

X = torch.linspace(-2, 2, 2 * 4 * 3 * 3).view(2, 4, 3, 3)
CANDIDATES = (torch.relu, torch.tanh, torch.sigmoid)


def alphas(*shape):
    return nn.Parameter(torch.linspace(0.2, 0.9, torch.Size(shape).numel()).view(shape))


def test_rewrites_a_weighted_sum_into_one_node():
    fast, record = check_pass(
        DetectMixedOps(),
        Edge(nn.Tanh(), nn.Sigmoid()),
        X,
        before="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = Tanh[ops.0](%0)
            %6 = mul(%3, %5)
            %7 = add(%6, 0)
            %8 = Sigmoid[ops.1](%0)
            %9 = mul(%4, %8)
            %10 = add(%7, %9)
            return %10
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = Tanh[ops.0](%0)
            %6 = Sigmoid[ops.1](%0)
            %7 = mixed_sum([%5, %6], [%3, %4], (0, 0))
            return %7
        """,
    )
    assert [change.sentence for change in record.changes] == [
        "a sum of 2 terms, 2 of them weighted, becomes one mixed_sum"
    ]
    node = next(node for node in fast.graph.nodes if node.name == "mixed_sum")
    assert node.meta["made_by"] == "detect-mixed-ops"
    assert node.meta["origin"] == ("add_1", "add", "mul", "mul_1")
    assert node.meta["type"] == TensorType(torch.float64, (2, 4, 3, 3))


def left(self, x):
    return self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x)


def right(self, x):
    return torch.relu(x) * self.alphas[0] + torch.tanh(x) * self.alphas[1]


def accumulated(self, x):
    out = torch.zeros_like(x)
    for index, op in enumerate(CANDIDATES[:2]):
        out = out + self.alphas[index] * op(x)
    return out


def accumulated_in_place(self, x):
    out = 0
    for index, op in enumerate(CANDIDATES[:2]):
        out += self.alphas[index] * op(x)
    return out


def added_in_place(self, x):
    out = self.alphas[0] * torch.relu(x)
    out.add_(self.alphas[1] * torch.tanh(x))
    return out


def functions(self, x):
    return torch.add(torch.mul(self.alphas[0], torch.relu(x)), torch.tanh(x).mul(self.alphas[1]))


def reshaped(self, x):
    weights = self.alphas.view(-1, 1, 1, 1, 1)
    return torch.relu(x) * weights[0] + torch.tanh(x) * weights[1]


def ending_in_a_sum(self, x):
    return sum([self.alphas[0] * torch.relu(x), self.alphas[1] * torch.tanh(x)])


IDIOMS = [left, right, accumulated, accumulated_in_place, added_in_place, functions, reshaped, ending_in_a_sum]


@pytest.mark.parametrize("forward", IDIOMS, ids=lambda forward: forward.__name__)
def test_reads_the_idiom(forward):
    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(2)), X)
    (node,) = (node for node in fast.graph.nodes if node.name.startswith("mixed_sum"))
    terms, weights, edges = node.args
    assert [term.target for term in terms] == [torch.relu, torch.tanh]
    assert [weight.meta["type"].shape for weight in weights] == [(), ()]
    assert edges == (0, 0)
    assert not [n for n in fast.graph.nodes if n.target in (operator.add, "add_", torch.zeros_like) and n.users]


def test_flattens_sums_of_sums_and_numbers_edges_by_source_and_row():
    def forward(self, x):
        y = torch.neg(x)
        one = sum(w * op(x) for w, op in zip(self.alphas[0], CANDIDATES, strict=True))
        two = sum(w * op(y) for w, op in zip(self.alphas[1], CANDIDATES, strict=True))
        return one + two

    fast, record = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(2, 3)), X)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.endswith("(0, 0, 0, 1, 1, 1))")
    assert len(record.changes) == 1


def test_edges_of_one_source_are_told_apart_by_their_rows():
    def forward(self, x):
        return sum(sum(w * op(x) for w, op in zip(row, CANDIDATES, strict=True)) for row in self.alphas)

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(2, 3)), X)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.endswith("(0, 0, 0, 1, 1, 1))")


def test_edges_of_one_row_are_told_apart_by_their_sources():
    def forward(self, x):
        y = torch.neg(x)
        return sum(sum(w * op(z) for w, op in zip(self.alphas, CANDIDATES, strict=True)) for z in (x, y))

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(3)), X)
    (found,) = lines_of(fast, "mixed_sum")
    assert found.endswith("(0, 0, 0, 1, 1, 1))")


def test_multiplies_a_whole_sums_weight_into_its_weights():
    def forward(self, x):
        inner = self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x)
        return inner * self.betas[0] + self.betas[1] * torch.sigmoid(x)

    check_pass(
        DetectMixedOps(),
        Net(forward, alphas=alphas(2), betas=alphas(2)),
        X,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = getitem(%1, 0)
            %3 = relu(%0)
            %4 = getitem(%1, 1)
            %5 = tanh(%0)
            %6 = attr betas
            %7 = getitem(%6, 0)
            %8 = getitem(%6, 1)
            %9 = sigmoid(%0)
            %10 = mul(%7, %2)
            %11 = mul(%7, %4)
            %12 = mixed_sum([%3, %5, %9], [%10, %11, %8], (0, 0, 1))
            return %12
        """,
    )


def test_keeps_a_sum_with_two_readers_whole():
    def forward(self, x):
        inner = self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x)
        return inner + self.alphas[2] * torch.sigmoid(x) + self.alphas[3] * torch.relu(inner)

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(4)), X)
    first, second = lines_of(fast, "mixed_sum")
    assert first == "([%3, %5], [%2, %4], (0, 0))"
    assert second.startswith("([%6, %8, %10], [1.0, %7, %9], ")


def test_carries_signs_and_numbers():
    def forward(self, x):
        first, second = self.alphas[0] * torch.relu(x), 3 * (self.alphas[1] * torch.tanh(x))
        return -(first - second / 2) - 0.5 * torch.sigmoid(x) * self.alphas[2]

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(3)), X)
    (node,) = (node for node in fast.graph.nodes if node.name == "mixed_sum")
    assert [weight.args[1] for weight in node.args[1]] == [-1.0, 1.5, -1.0]


def test_adds_bare_weights():
    def forward(self, x):
        return self.alphas[0] * torch.relu(x) + self.alphas[1] * torch.tanh(x) + self.alphas[2] + 2

    fast, _ = check_pass(DetectMixedOps(), Net(forward, alphas=alphas(3)), X)
    (node,) = (node for node in fast.graph.nodes if node.name == "mixed_sum")
    assert node.args[0][2:] == [1.0, 1.0]
    assert node.args[1][3] == 2.0


def test_weights_that_are_plain_tensors_keep_their_gradients():
    def forward(self, x):
        return sum(w * op(x) for w, op in zip(self.weights, CANDIDATES, strict=True))

    check_pass(DetectMixedOps(), Net(forward, weights=[torch.tensor(0.5).requires_grad_() for _ in CANDIDATES]), X)


def test_a_single_weighted_term_is_a_mixture_only_where_all_terms_are_weighted():
    def residual(self, x):
        return torch.relu(x) + self.alphas[0] * torch.tanh(x)

    def started_from_zero(self, x):
        return 0 + self.alphas[0] * torch.tanh(x)

    assert check_keeps(DetectMixedOps(), Net(residual, alphas=alphas(1)), X) == []
    fast, _ = check_pass(DetectMixedOps(), Net(started_from_zero, alphas=alphas(1)), X)
    assert lines_of(fast, "mixed_sum") == ["([%3], [%2], (0,))"]
