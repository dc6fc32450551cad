"""The registry of operations: what graphs call of ours is entered, and what is entered is so."""

from __future__ import annotations

import importlib
import inspect
import operator
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from supernets import darts, gdas, nasbench201
from toponas_fx import ops, passes
from toponas_fx.analysis.effects import is_pure, is_random
from toponas_fx.analysis.families import FAMILY_OF_FUNCTION, POOLINGS
from toponas_fx.analysis.labels import label_of
from toponas_fx.analysis.node_kinds import layer_of
from toponas_fx.analysis.topology import _folded_weight
from toponas_fx.ops import average_pooling, choices, norms, recomputing
from toponas_fx.ops.registry import Operation, facts, operation, operations
from toponas_fx.rewriting.pass_base import Pass

KINDS = [kind for kind in vars(passes).values() if isinstance(kind, type) and issubclass(kind, Pass)]
CLASSES = [kind for kind in KINDS if kind is not Pass]
X = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def targets(fast: Any) -> Iterator[Any]:
    for program in fast._toponas.programs:
        yield from (node.target for node in program.graph.nodes if node.op == "call_function")


def own(found: Iterator[Any]) -> set[Any]:
    return {target for target in found if getattr(target, "__module__", "").startswith("toponas_fx.ops")}


SLOW = [
    pytest.param({"recompute": True}, marks=pytest.mark.slow),
    pytest.param({"mode": "exact"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", [{}, *SLOW], ids=str)
def test_what_graphs_call_is_entered(options: dict[str, Any]) -> None:
    models: list[tuple[nn.Module, Any]] = [
        (darts.DARTSSupernet(C=4, layers=2), X),
        (nasbench201.NASBench201Supernet(C=4, N=1), X),
        (gdas.GDASSupernet(C=4, N=1), X),
    ]
    models += [importlib.import_module(class_.__module__).example() for class_ in CLASSES]
    found = set().union(*(own(targets(toponas_fx.simplify(model, x, **options))) for model, x in models))
    known = {function for function, _ in operations()}
    assert len(found) > 8
    assert found <= known


def test_one_import_enters_all() -> None:
    files = {path.stem for path in Path(ops.__file__).parent.glob("*.py")}
    code = "import sys, toponas_fx.ops; print(*(name for name in sys.modules if name.startswith('toponas_fx.ops.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name.rpartition(".")[2] for name in found} == files - {"__init__"}


def test_positions_are_those_of_arguments() -> None:
    for function, known in operations():
        names = list(inspect.signature(function).parameters)
        for position, name in ((known.norm, "norm"), (known.scale, "scale"), (known.window, "size")):
            assert position is None or names[position] in (name, f"{name}s"), (function, name)
        if known.window is not None:
            assert names[known.window + 1] == "stride"
        assert known.family in ("", "convolution", "norm", "activation", "pooling")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]


def node_of(function: Any, *args: Any) -> tuple[fx.GraphModule, fx.Node]:
    graph = fx.Graph()
    x, norm = graph.placeholder("x"), graph.get_attr("norm")
    given = tuple({"x": x, "norm": norm}.get(arg, arg) if isinstance(arg, str) else arg for arg in args)
    node = graph.call_function(function, given)
    graph.output(node)
    return fx.GraphModule(Model(), graph), node


def test_analyses_ask_it() -> None:
    pooled = node_of(recomputing.max_pool2d, "x", 3, 2)
    assert label_of(*pooled) == "MaxPool2d 3x3 s2"
    assert layer_of(*pooled).kind == "max_pool"
    assert FAMILY_OF_FUNCTION[recomputing.max_pool2d] is POOLINGS
    assert label_of(*node_of(average_pooling.scaled_avg_pool2d, "x", 2.0, (3, 3), (1, 1), (1, 1), False)) == (
        "AvgPool2d 3x3"
    )
    normed = node_of(norms.scaled_norm, "x", "norm", 2.0)
    assert label_of(*normed) == "BatchNorm2d"
    assert not is_pure(*normed)
    assert layer_of(*normed).kind == "norm"
    drawn = node_of(choices.randbelow, 3)
    assert is_random(*drawn)
    assert not is_pure(*drawn)


def test_a_weight_is_that_of_the_result_and_not_of_a_slice_of_it() -> None:
    _, normed = node_of(norms.scaled_norm, "x", "norm", 2.0)
    assert _folded_weight(normed) == 2.0
    assert _folded_weight(normed.graph.call_function(operator.getitem, (normed, 0))) is None
    assert _folded_weight(normed.args[0]) is None


def test_a_new_operation_is_one_entry() -> None:
    @operation(family="pooling", label="MeanPool2d", window=1, has_effect=True)
    def pool(x: Tensor, size: int, stride: int) -> Tensor:
        return nn.functional.avg_pool2d(x, size, stride)

    pool.__module__ = "toponas_fx.ops.pool"
    made = node_of(pool, "x", 5, 1)
    assert facts(pool).has_effect
    assert label_of(*made) == "MeanPool2d 5x5"
    assert not is_pure(*made)
    assert facts("relu") == Operation()
