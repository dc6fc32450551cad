"""Gather bare weights: those of candidates that were not taken, elements of one row, are read at once."""

import copy

import pytest
import torch
from torch import nn

import toponas_fx
from forced_paths import Net, X
from nets import lines_of
from toponas_fx import ops
from toponas_fx.passes import DetectMixedOps, DropNeutral, GatherBareWeights

IMAGES = X.double()
PASSES = (DetectMixedOps(), DropNeutral(), GatherBareWeights())


class Rows(nn.Module):
    """GDAS's edge: the candidate that was drawn, weighted, and the weights of the others."""

    def __init__(self, term):
        super().__init__()
        self.alphas = nn.Parameter(torch.linspace(-0.3, 0.7, 5))
        self.ops = nn.ModuleList([nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.Softplus()])
        self.term = (term,)

    def forward(self, x):
        weights = self.alphas.softmax(0)
        taken = (weights + torch.rand(5)).argmax().item()
        return sum(self.term[0](weights, i, op, x, i == taken) for i, op in enumerate(self.ops))


def of_gdas(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else weights[i]


def simplified(model):
    """Return a copy with detected sums, and one with this pass too; the record is of the second."""
    passes = (PASSES[:2], PASSES)
    return [toponas_fx.simplify(copy.deepcopy(model), IMAGES, passes=which).train() for which in passes]


def assert_trains_alike(fast, model):
    """Compare outputs and first and second derivatives of some draws."""
    for seed in range(6):
        seen = []
        for one in (fast, model):
            torch.manual_seed(seed)
            x = IMAGES.clone().requires_grad_()
            output = one(x)
            first = torch.autograd.grad(output.square().sum(), [one.alphas, x], create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), [one.alphas, x])
            seen.append([output, *first, *second])
        for found, expected in zip(*seen, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


OTHERS = [(1, 2, 3, 4), (0, 2, 3, 4), (0, 1, 3, 4), (0, 1, 2, 4), (0, 1, 2, 3)]
"""All but the candidate that was drawn: those before it, which were added up as numbers, and those after it."""


def test_bare_weights_of_one_row_are_read_at_once():
    model = Rows(of_gdas).double()
    before, fast = simplified(model)
    assert not lines_of(before, "sum_of")
    found = lines_of(fast, "sum_of")
    assert [line.split(", ", 1)[1] for line in found] == [f"{places})" for places in OTHERS]
    assert {change.sentence for change in fast.report.records[-1].changes} >= {
        "4 bare weights of one row are read at once"
    }
    assert len(lines_of(fast, "add")) == 1, "that of the draw"
    assert_trains_alike(fast, model)


def with_zeros(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else weights[i] * (0.0 if i % 2 else 1.0)


def scaled(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else weights[i] * 0.5


def twice(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else weights[1]


def from_the_end(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else weights[i - 5]


def of_two_rows(weights, i, op, x, is_taken):
    return weights[i] * op(x) if is_taken else (weights if i < 3 else weights.exp())[i]


def read_by_others(weights, i, op, x, is_taken):
    return weights[i] * op(x) + weights[4] * op(x).exp() if is_taken else weights[i]


@pytest.mark.slow
@pytest.mark.parametrize("term", [with_zeros, scaled, twice, from_the_end, of_two_rows, read_by_others])
def test_other_bare_weights_are_right(term):
    model = Rows(term).double()
    assert_trains_alike(simplified(model)[1], model)


@pytest.mark.parametrize("term", [twice, from_the_end])
def test_places_that_are_met_twice_or_from_the_end_are_read_singly(term):
    assert not lines_of(simplified(Rows(term).double())[1], "sum_of")


def test_a_sum_of_weights_that_something_else_reads_stays():
    def forward(self, x):
        weights = self.alphas[0].softmax(0)
        if (weights + torch.rand(3)).argmax().item() == 0:
            return x.sin()
        first = weights[0] + weights[1]
        return (first + weights[2] * x.tanh()) * first

    model = Net(forward).double()
    assert not lines_of(simplified(model)[1], "sum_of")


def test_a_row_is_summed_in_training_after_it_was_in_inference_mode():
    row = torch.tensor([0.5, -0.25, 4.0, 1.5, 8.0, 16.0, 1.0], requires_grad=True)
    with torch.inference_mode():
        ops.sum_of(row, (5, 1, 3))
    gradient = torch.autograd.grad(ops.sum_of(row, (5, 1, 3)) * 2, row)[0]
    assert gradient.tolist() == [0, 2, 0, 2, 0, 2, 0]


def test_what_always_runs_is_left_to_other_passes():
    def forward(self, x):
        weights = self.alphas[0].softmax(0)
        return weights[0] * x.tanh() + weights[1] + weights[2]

    fast = toponas_fx.simplify(Net(forward).double(), IMAGES, passes=PASSES)
    assert not lines_of(fast, "sum_of")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("places", [(0,), (2, 0), (1, 2, 3), (0, 1, 2, 3)])
def test_sum_of(places, dtype):
    row = torch.tensor([0.5, -0.25, 4.0, 1.5], dtype=dtype, requires_grad=True)
    found = ops.sum_of(row, places)
    assert (found.dtype, found.shape) == (dtype, ())
    assert torch.equal(found, sum(row[place] for place in places))
    gradient = torch.autograd.grad(found, row)[0]
    assert gradient.tolist() == [float(place in places) for place in range(4)]
    if dtype == torch.float64:
        assert torch.autograd.gradgradcheck(lambda row: ops.sum_of(row, places).exp(), (row,))
