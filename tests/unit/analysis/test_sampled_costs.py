"""What a step of models that take one candidate of each edge costs: averages over uniform draws, and measurements."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from sampled.draws import OfTwo
from sampled.parts import C
from sampled.readings import IndexOfAList
from sampled.shown import chain, gdas, images, simplified
from toponas_fx import ops
from toponas_fx.analysis.arms import LAZY, chances
from toponas_fx.analysis.costs import graph_costs, saved_bytes
from toponas_fx.capture.inputs import Inputs
from toponas_fx.ops import choices
from toponas_fx.runtime.measure import STEPS, flops_of_paths


def test_how_often_a_node_runs() -> None:
    graph = fx.Graph()
    x, first, second = (graph.placeholder(name) for name in ("x", "first", "second"))
    lazy = graph.call_function(torch.relu, (x,))
    lazier = graph.call_function(torch.tanh, (x,))
    early = graph.call_function(torch.neg, (lazier,))
    arms = [graph.call_function(torch.exp, (value,)) for value in (lazy, lazy, x)]
    one = graph.call_function(choices.select, (first, (0, 1, 2), tuple(arms)))
    other = graph.call_function(torch.sin, (early,))
    two = graph.call_function(choices.select, (second, (False, True), (lazy, other)))
    graph.output((one, two))
    for site, select in enumerate((one, two)):
        select.meta["site"] = site
    for arm, node in enumerate(arms):
        node.meta["arm"] = (0, arm)
    other.meta["arm"] = (1, 1)
    lazy.meta["arm"] = lazier.meta["arm"] = early.meta["arm"] = LAZY
    found = chances(graph)
    assert found == pytest.approx(
        {**dict.fromkeys(arms, 1 / 3), other: 1 / 2, lazy: 1 - 1 / 3 * 1 / 2, early: 1 / 2, lazier: 1 / 2}
    )
    costs = graph_costs(fx.GraphModule(nn.Module(), graph))
    assert costs.activations == 1.3  # relu 5/6, tanh 1/2
    assert costs.nodes == 5.3  # and two selects, three thirds, a half and a half


def test_costs_are_those_of_a_step_on_average() -> None:
    report = chain().report
    convolution, linear = 3 * 2 * 2 * 64 * C * C * 9, 2 * 2 * C * 3
    for costs in (report.before, report.after):
        assert (costs.convolutions, costs.norms, costs.poolings) == (1, 2, 1)
        assert costs.flops == convolution / 3 + linear
        assert costs.parameters == sum(parameter.numel() for parameter in chain().parameters())


def test_flops_are_counted_whatever_was_drawn() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(ops.guard, (True, False))
    graph.output(graph.call_function(torch.mm, (x, x)))
    assert flops_of_paths(nn.Module(), graph, Inputs((torch.ones(2, 2),), {})) == 16


def test_fractions_of_operations_are_told_with_one_digit() -> None:
    report = gdas().report
    assert report.before.convolutions == 1 + 2 + 6 * 2 / 5
    assert "convolutions                           5.4             5.4    1.00" in str(report)
    block, pixels = 2 * C * C, 2 * 8 * 8
    searched = (
        3 * (1 + 9) / 5 * block * pixels * (1 + 4 / 4)
    )  # the second cell has half the side and twice the channels
    reduction = (2 * 9 + 2) * block * pixels / 4
    assert report.before.flops == round(9 * block * pixels + searched + reduction + 2 * 2 * 2 * C * 3)
    assert report.after.activations < report.before.activations


def test_bytes_are_the_mean_of_steps_with_the_same_seeds() -> None:
    torch.manual_seed(0)
    model, x = IndexOfAList(), images()
    fast = simplified(model)
    fast._toponas.unmeasured = Inputs((x,), {})
    found = []
    for seed in range(STEPS):

        def run(inputs: Tensor, seed: int = seed) -> Any:
            torch.manual_seed(seed)
            return model(inputs)

        found.append(saved_bytes(run, x, exclude=[*model.parameters(), *model.buffers()]))
    assert fast.report.before.saved_bytes == round(sum(found) / STEPS)
    assert len(set(found)) > 1


def test_measuring_leaves_no_trace() -> None:
    fast = simplified(OfTwo())
    values = {name: value.clone() for name, value in fast.state_dict().items()}
    torch.manual_seed(3)
    random.seed(3)
    expected = torch.rand(1), random.random()
    torch.manual_seed(3)
    random.seed(3)
    assert fast.report.before.flops
    assert (torch.rand(1), random.random()) == expected
    assert all(torch.equal(values[name], value) for name, value in fast.state_dict().items())
