"""What a report notes as unused: modules that never run, weights that no candidate takes."""

from typing import Any

import pytest
import torch
from test_report import Chain, conv_bn, detected, image
from torch import Tensor, nn

import toponas_fx
from toponas_fx.report.building import unused_notes


def entered_by(model):
    seen = []
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: seen.append(path))
    model(image())
    return seen


def notes_on(model, make=None):
    return unused_notes(model, entered_by((make or type(model))()), detected(model))


def test_nothing_to_note():
    assert notes_on(Chain()) == []


def test_weights_shorter_than_the_candidates():
    assert notes_on(Chain(2, 3), lambda: Chain(2, 3)) == [
        "`edges.0.ops.3` never runs: no mixed operation uses it",
        "`edges.1.ops.3` never runs: no mixed operation uses it",
    ]


def test_weights_longer_than_the_candidates():
    assert notes_on(Chain(2, 6), lambda: Chain(2, 6)) == [
        "the weights of `edges.0` have 6 elements, 4 are used",
        "the weights of `edges.1` have 6 elements, 4 are used",
    ]


class Indexed(Chain):
    """Reads single elements of a table, one row an edge, in the root's own forward."""

    def __init__(self):
        super().__init__(1, 7)

    def forward(self, x):
        weights = self.alphas.softmax(-1)
        return sum(weights[0, i] * op(x) for i, op in enumerate(self.edges[0].ops))


def test_weights_read_by_two_indices():
    assert notes_on(Indexed()) == ["the weights of the model have 7 elements, 4 are used"]


class EdgeWeights(Chain):
    """Every mixed operation has one element of a common row besides, the last one counted from the end or the start."""

    def __init__(self, spare=0):
        super().__init__()
        self.betas = nn.Parameter(torch.randn(2 + spare))

    def forward(self, x):
        a = self.betas[0] * self.edges[0](x, self.alphas[0])
        b = self.betas[-1] * self.edges[1](torch.tanh(x), self.alphas[1])
        return a + b + self.betas[len(self.betas) - 1] * torch.sigmoid(x)


def test_row_that_several_mixtures_use_up():
    assert notes_on(EdgeWeights()) == []
    assert notes_on(EdgeWeights(1), lambda: EdgeWeights(1)) == ["the weights of the model have 3 elements, 2 are used"]


class Nested(nn.Module):
    """A ModuleDict in which one candidate, a whole module with children, is left out, and a list that never runs."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleDict({"used": nn.ModuleList([conv_bn(1), conv_bn(3)]), "idle": conv_bn(3)})
        self.spare = nn.ModuleList([conv_bn(1), conv_bn(1)])
        self.twice = nn.ModuleList([self.stages["used"][0], self.stages["used"][1]])
        self.alphas = nn.Parameter(torch.randn(2))

    def forward(self, x):
        first, second = (op(x) for op in self.stages["used"])
        return self.alphas[0] * first + self.alphas[1] * second


def test_only_the_topmost_idle_module_is_named():
    assert notes_on(Nested()) == ["`stages.idle` never runs: no mixed operation uses it"]


class Switched(nn.Module):
    """Runs the layer that an attribute names."""

    def __init__(self) -> None:
        super().__init__()
        self.ops, self.k = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)]), 0

    def forward(self, x: Tensor) -> Any:
        return self.ops[self.k](x)


@pytest.mark.filterwarnings("ignore:.*no mixed operation was found:UserWarning")
def test_measuring_captures_nothing() -> None:
    fast = toponas_fx.simplify(Switched(), torch.randn(2, 3, 6, 6))
    fast.k = 1  # the report counts with hooks of torch's own, which no graph can hold
    assert str(fast.report)
    fast(torch.randn(2, 3, 6, 6))
    assert not fast._toponas.as_written
    assert len(fast._toponas.programs) > 1
