"""Drop neutral: additions of 0 go, and zeros that must stay are not multiplied."""

import pytest
import torch
from torch import nn

from nets import Net, lines_of
from toponas_fx.passes import DetectMixedOps, DropNeutral, DropZeroCandidates, EliminateDeadCode
from toponas_fx.testing import check_keeps, check_pass

X = torch.linspace(-2, 2, 2 * 4 * 4 * 4).view(2, 4, 4, 4)
FIRST = (DetectMixedOps(),)


def net(forward, count=2, **parts):
    return Net(forward, alphas=nn.Parameter(torch.linspace(0.3, 0.7, count)), **parts)


def cell(self, x):
    return torch.tanh(sum([torch.relu(x), torch.sigmoid(x)]))


def test_rewrites_a_sum_that_begins_with_0():
    _, record = check_pass(
        DropNeutral(),
        net(cell),
        X,
        before="""
            %0 = input x
            %1 = relu(%0)
            %2 = sigmoid(%0)
            %3 = add(%1, 0)
            %4 = add(%3, %2)
            %5 = tanh(%4)
            return %5
        """,
        after="""
            %0 = input x
            %1 = relu(%0)
            %2 = sigmoid(%0)
            %3 = add(%1, %2)
            %4 = tanh(%3)
            return %4
        """,
    )
    assert [change.sentence for change in record.changes] == ["an addition of 0 goes"]


ADDITIONS = {
    "after": lambda x: x + 0,
    "before": lambda x: 0 + x,
    "float": lambda x: x + 0.0,
    "negative zero": lambda x: -0.0 + x,
    "twice": lambda x: 0 + (x + 0),
}


@pytest.mark.parametrize("way", ADDITIONS)
def test_drops_the_addition(way):
    fast, record = check_pass(
        DropNeutral(), net(lambda self, x: torch.tanh(ADDITIONS[way](x.exp())) * self.alphas[0]), X
    )
    assert not lines_of(fast, "add")
    assert {change.sentence for change in record.changes} == {"an addition of 0 goes"}


def test_drops_additions_to_integers_of_their_type():
    fast, _ = check_pass(DropNeutral(), net(lambda self, x: x * (x.long() + 0)), X)
    assert not lines_of(fast, "add")


NO_ADDITION_OF_0 = {
    "another number": lambda x: x.exp() + 1e-30,
    "an integer that becomes a float": lambda x: x * (x.long() + 0.0),
    "a truth value that becomes an integer": lambda x: x * ((x > 0) + 0),
    "a truth value is no number": lambda x: x.exp() + False,
    "a subtraction": lambda x: 0 - x.exp(),
    "a product": lambda x: x.exp() * 0,
    "a tensor": lambda x: x.exp() + torch.zeros_like(x),
}


@pytest.mark.parametrize("way", NO_ADDITION_OF_0)
def test_keeps(way):
    assert check_keeps(DropNeutral(), net(lambda self, x: torch.tanh(NO_ADDITION_OF_0[way](x))), X) == []


def written_after(self, x):
    total = torch.relu(x) + 0
    total.mul_(2)
    return total.exp()


def its_value_written(self, x):
    first = torch.tanh(x)
    total = first + 0
    first.mul_(2)
    return total * first


def written_before(self, x):
    first = torch.tanh(x)
    first.mul_(2)
    return (first + 0).exp()


def a_view_written(self, x):
    total = torch.relu(x) + 0
    total[:, 0] = 1
    return total.exp()


def inplace_layer(self, x):
    first = x.tanh()
    return nn.functional.relu(first + 0, inplace=True) * first


@pytest.mark.parametrize("forward", [written_after, its_value_written, written_before, a_view_written, inplace_layer])
def test_keeps_additions_in_memory_that_is_written_in_place(forward):
    check_keeps(DropNeutral(), net(forward), X, "its memory, or what it reads, is written in place")


RETURNED = {
    "the sum": lambda x: torch.relu(x) + 0,
    "both": lambda x: (first := torch.relu(x), first + 0),
    "its value": lambda x: (first := torch.relu(x), torch.tanh(first + 0)),
    "a view of it": lambda x: (torch.relu(x) + 0).flatten(1),
    "in a container": lambda x: {"features": [torch.relu(x) + 0]},
}


@pytest.mark.parametrize("what", RETURNED)
def test_keeps_additions_that_are_returned(what):
    check_keeps(
        DropNeutral(), net(lambda self, x: RETURNED[what](x)), X, "may both be returned, or belong to the caller"
    )


BELONGING = {"an input": lambda self, x: (x + 0).exp(), "a parameter": lambda self, x: x * (self.alphas + 0)[0]}


@pytest.mark.parametrize("what", BELONGING)
def test_keeps_additions_to_what_belongs_to_the_caller(what):
    check_keeps(DropNeutral(), net(BELONGING[what]), X, "may both be returned, or belong to the caller")


def test_keeps_additions_across_a_switch_of_grad_mode():
    def forward(self, x):
        first = torch.relu(x)
        with torch.no_grad():
            total = first + 0
        return torch.tanh(total) * first

    check_keeps(DropNeutral(), net(forward), X, "it reaches across a switch of grad mode")


def alone(self, x):
    return torch.cat([x, self.alphas[0] * x.mul(0.0) + self.alphas[1]])


def test_rewrites_a_zero_that_gives_the_shape():
    fast, record = check_pass(
        DropNeutral(),
        net(alone),
        X,
        before="""
            %0 = input x
            %1 = attr alphas
            %2 = getitem(%1, 0)
            %3 = mul(%0, 0.0)
            %4 = getitem(%1, 1)
            %5 = mixed_sum([%3, 1.0], [%2, %4], (0, 0))
            %6 = cat([%0, %5])
            return %6
        """,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = getitem(%1, 0)
            %3 = getitem(%1, 1)
            %4 = zeros_of(%0)
            %5 = mixed_sum([%4, 0.0, 1.0], [1.0, %2, %3], (0, 0, 0))
            %6 = cat([%0, %5])
            return %6
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["a zero that must stay is not multiplied by its weight"]
    assert torch.autograd.grad(fast(X.double()).sum(), fast.alphas)[0].tolist() == [0.0, X.numel()]


def test_a_layer_that_only_a_zero_reads_has_a_gradient_of_zeros_not_none():
    def forward(self, x):
        return self.alphas[0] * torch.tanh(x) + self.alphas[1] * self.layer(x).mul(0.0)

    fast, _ = check_pass(
        DropNeutral(),
        net(forward, layer=nn.Conv2d(4, 4, 1)),
        X,
        prerequisites=(*FIRST, DropZeroCandidates(), EliminateDeadCode()),
    )
    assert len(lines_of(fast, "zeros_of")) == 1
    gradient = torch.autograd.grad(fast(X.double()).sum(), fast.layer.weight)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("factor", [0, 0.0, -0.0])
@pytest.mark.parametrize("is_reflected", [False, True])
def test_zeros_are_products_with_0_on_either_side(factor, is_reflected):
    def forward(self, x):
        zero = factor * x.exp() if is_reflected else x.exp() * factor
        return torch.cat([x, self.alphas[0] * zero + self.alphas[1]])

    fast, _ = check_pass(DropNeutral(), net(forward), X, prerequisites=FIRST)
    assert len(lines_of(fast, "zeros_of")) == 1
    assert not lines_of(fast, "mul")


def test_each_zero_of_a_sum_is_found_in_turn_and_edges_keep_their_numbers():
    def forward(self, x):
        y = torch.relu(x)
        one = self.alphas[0] * torch.tanh(x) + self.alphas[1] * x.mul(0.0)
        two = self.alphas[2] * y.mul(0.0) + self.alphas[3] * torch.sigmoid(y)
        return one + two

    fast, record = check_pass(DropNeutral(), net(forward, 4), X, prerequisites=FIRST)
    assert len(record.changes) == 2
    (found,) = lines_of(fast, "mixed_sum")
    terms, weights = found.split("], [")
    assert terms.count("0.0") == weights.count("1.0") == 2
    assert found.endswith("(0, 0, 0, 1, 1, 1))")


def test_a_zero_that_others_read_stays_for_them():
    def forward(self, x):
        zero = x.mul(0.0)
        return torch.exp(zero) + torch.relu(self.alphas[0] * torch.tanh(x) + self.alphas[1] * zero)

    fast, _ = check_pass(DropNeutral(), net(forward), X, prerequisites=FIRST)
    assert lines_of(fast, "mul") == ["(%0, 0.0)"]
    assert len(lines_of(fast, "zeros_of")) == 1


def broadcast(self, x):
    return torch.cat([x, self.alphas[0] * (x[:1].mul(0.0)) + self.alphas[1] * x])


def made(self, x):
    return torch.cat([x, self.alphas[0] * torch.zeros_like(x) + self.alphas[1]])


def unweighted(self, x):
    return torch.cat([x, x.mul(0.0) + self.alphas[1]])


def weighted_by_a_number(self, x):
    return self.alphas[0] * torch.tanh(x) + self.alphas[1] * torch.sigmoid(x) + x.mul(0.0)


def filled(self, x):
    zero = x.mul(0.0)
    zero[0].add_(1)
    return torch.cat([x, self.alphas[0] * zero + self.alphas[1]])


def of_two(self, x):
    return torch.cat([x, self.alphas[0] * (x * x) + self.alphas[1]])


def promoted(self, x):
    return torch.cat([x, self.alphas[0] * (x.long() * 0.0) + self.alphas[1]])


@pytest.mark.parametrize("forward", [broadcast, made, unweighted, weighted_by_a_number, filled, of_two, promoted])
def test_keeps_zeros_that_are_no_weighted_product_with_0_of_their_shape(forward):
    assert check_keeps(DropNeutral(), net(forward), X, prerequisites=FIRST) == []


def test_a_zero_made_without_gradients_gives_none():
    def forward(self, x):
        hidden = self.layer(x)
        with torch.no_grad():
            zero = hidden.mul(0.0)
        return self.alphas[0] * torch.tanh(x) + self.alphas[1] * zero

    parts = {"layer": nn.Conv2d(4, 4, 1)}
    assert check_keeps(DropNeutral(), net(forward, **parts), X, prerequisites=FIRST) == []


def test_keeps_a_zero_of_what_is_written_in_place_later():
    """A gradient by way of what was written would be zeros, where the original has None."""

    def forward(self, x):
        hidden = torch.tanh(x)
        zero = hidden.mul(0.0)
        hidden.add_(self.shift)
        return torch.cat([x, self.alphas[0] * zero + self.alphas[1]])

    parts = {"shift": nn.Parameter(torch.ones(()))}
    assert check_keeps(DropNeutral(), net(forward, **parts), X, prerequisites=FIRST) == []
