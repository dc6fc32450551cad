"""Graphs as plain data: what is written comes back, through pickle too."""

import collections
import operator
import pickle

import pytest
import torch
from torch import fx, nn
from torch.autograd import Function
from torch.nn import functional as F

import toponas_fx
from toponas_fx import ops
from toponas_fx.ir.printer import format_graph
from toponas_fx.ir.serialization import dump_graph, load_graph
from toponas_fx.ir.tensor_type import TensorType

Pair = collections.namedtuple("Pair", "left right")


class Double(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Supernet(nn.Module):
    """One mixed operation with everything that the default passes write."""

    def __init__(self):
        super().__init__()
        self.alphas = nn.Parameter(torch.rand(3))
        sizes = (1, 3)
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2), nn.BatchNorm2d(4)) for k in sizes
        )

    def forward(self, x):
        weights = F.softmax(self.alphas, dim=-1)
        total = sum(w * op(x) for w, op in zip(weights, self.ops, strict=False)) + weights[2] * x.mul(0.0)
        return Double.apply(total).view(x.size(0), -1)[:, 1::2]


def there_and_back(graph):
    return load_graph(pickle.loads(pickle.dumps(dump_graph(graph))))


def assert_same(graph, other, root=None):
    assert format_graph(other, root) == format_graph(graph, root)
    assert [node.name for node in other.nodes] == [node.name for node in graph.nodes]
    for node, twin in zip(graph.nodes, other.nodes, strict=True):
        assert twin is not node
        assert twin.target == node.target
        assert twin.meta == node.meta
        assert twin.graph is other
        twins = dict(zip(graph.nodes, other.nodes, strict=True))
        assert set(twin.users) == {twins[user] for user in node.users}  # in the graph's order, not that of its making


@pytest.mark.parametrize("passes", [(), None], ids=["captured", "rewritten"])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_s_graph_comes_back(passes, training):
    x = torch.randn(2, 4, 5, 5)
    fast = toponas_fx.simplify(Supernet(), x, passes=passes).train(training)
    graph = there_and_back(fast.graph)
    assert_same(fast.graph, graph, fast)
    expected = fast(x).detach()
    fast.graph = graph
    fast.recompile()
    assert training or torch.equal(fast(x), expected)


def build(target, *args, op="call_function", **kwargs):
    graph = fx.Graph()
    x = graph.placeholder("x")
    arguments = fx.node.map_aggregate(args, lambda value: x if value == "x" else value)
    graph.output(graph.create_node(op, target, arguments, kwargs))
    return graph


TARGETS = [
    operator.add,
    operator.getitem,
    getattr,
    torch.relu,
    torch.conv2d,
    torch.softmax,
    torch.Tensor.view,
    F.relu,
    F.linear,
    F.conv2d,
    F.avg_pool2d,
    F.max_pool2d,
    F.batch_norm,
    F.gumbel_softmax,
    F.interpolate,
    F.dropout,
    ops.mixed_sum,
    ops.group_weight,
    ops.guard,
    ops.ApplyFunction(Double),
    torch._C._nn.gelu,
    torch._C._set_grad_enabled,
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_functions_come_back_as_themselves(target):
    graph = there_and_back(build(target, "x"))
    (node,) = (node for node in graph.nodes if node.op == "call_function")
    assert node.target == target
    assert node.target is target or isinstance(target, ops.ApplyFunction)


ARGUMENTS = [
    (1, 1.0, True, None, "text", ...),
    ([1, 2], (3, (4,)), {"a": {"b": 5}}),
    (slice(None, 2), slice(1, None, 2)),
    (torch.float64, torch.device("cpu"), torch.strided, torch.channels_last),
    (float("inf"), -0.0, 2 + 3j),
    (torch.Size([2, 3]),),
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_plain_arguments_come_back(arguments):
    graph = there_and_back(build(torch.add, "x", *arguments, value=arguments))
    node = list(graph.nodes)[1]
    assert node.args[1:] == arguments
    assert repr(node.args[1:]) == repr(fx.node.map_aggregate(arguments, lambda value: value))
    assert node.kwargs["value"] == arguments


def test_nodes_come_back_wherever_they_stand():
    nested = ["x", {"key": ("x", [slice("x", None, "x")])}]
    graph = build(torch.add, nested, Pair("x", 1), other={"deep": ["x"]})
    back = there_and_back(graph)
    x, node, _ = back.nodes
    assert node.args[0][0] is node.args[0][1]["key"][0] is x
    assert node.args[0][1]["key"][1][0] == slice(x, None, x)
    assert node.args[1] == Pair(x, 1)
    assert type(node.args[1]) is Pair
    assert_same(graph, back)


def test_rows_hold_python_s_own_containers():
    rows = dump_graph(build(torch.add, ["x", {"key": 1}]))
    arguments = rows[1][3]
    assert type(arguments) is tuple
    assert type(arguments[0]) is list
    assert type(arguments[0][1]) is dict


def test_methods_and_modules_come_back():
    for op, target in (("call_method", "view"), ("call_module", "cells.0"), ("get_attr", "alphas")):
        graph = build(target, *(["x"] if op != "get_attr" else []), op=op)
        assert_same(graph, there_and_back(graph))


def test_a_loaded_graph_is_independent():
    graph = build(torch.relu, "x")
    node = list(graph.nodes)[1]
    node.meta["type"] = TensorType(torch.float32, (2, 3))
    rows = dump_graph(graph)
    node.meta["made_by"] = "a pass that ran later"
    other = load_graph(rows)
    twin = list(other.nodes)[1]
    assert "made_by" not in twin.meta
    twin.meta["type"] = TensorType(torch.float32, ())
    twin.target = torch.tanh
    assert node.meta["type"].shape == (2, 3)
    assert node.target is torch.relu


def test_new_names_stay_unique_after_loading():
    graph = load_graph(dump_graph(build(torch.relu, "x")))
    with graph.inserting_before(graph.output_node()):
        new = graph.call_function(torch.relu, (next(iter(graph.nodes)),))
    assert new.name not in {"relu"}
    graph.lint()
