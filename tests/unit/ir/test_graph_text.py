"""The graph text, asserted to the letter."""

import functools
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from toponas_fx.ir.printer import format_graph, format_node, number_nodes
from toponas_fx.ir.tensor_type import TensorType


class MixedOp(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.AvgPool2d(3, 1, 1)])
        self.alphas = nn.Parameter(torch.zeros(6, 2))

    def forward(self, x):
        weights = torch.softmax(self.alphas, dim=-1)
        return self.cells[0](x) * weights[0, 0] + self.cells[1](x).mul(0.0)


def typed(gm, *inputs):
    """Run ``gm`` and note the type of each tensor on its node."""

    class Recorder(fx.Interpreter):
        def run_node(self, n):
            result = super().run_node(n)
            if isinstance(result, torch.Tensor):
                n.meta["type"] = TensorType.of(result)
            return result

    Recorder(gm).run(*inputs)
    return gm


def mixed():
    return typed(fx.symbolic_trace(MixedOp()), torch.zeros(2, 4, 8, 8))


MIXTURE_TEXT = """\
%0 = input x : f32[2,4,8,8]
%1 = attr alphas : f32[6,2]
%2 = softmax(%1, dim=-1) : f32[6,2]
%3 = ReLU[cells.0.0](%0) : f32[2,4,8,8]
%4 = Conv2d[cells.0.1](%3) : f32[2,4,8,8]
%5 = getitem(%2, (0, 0)) : f32[]
%6 = mul(%4, %5) : f32[2,4,8,8]
%7 = AvgPool2d[cells.1](%0) : f32[2,4,8,8]
%8 = .mul(%7, 0.0) : f32[2,4,8,8]
%9 = add(%6, %8) : f32[2,4,8,8]
return %9"""


def line(target, *args, op="call_function", **kwargs):
    """Return the right side of the line of one call; ``x`` and ``y`` in its arguments are %0 and %1."""
    graph = fx.Graph()
    nodes = {"x": graph.placeholder("x"), "y": graph.placeholder("y")}
    swap = functools.partial(fx.node.map_aggregate, fn=lambda a: nodes.get(a, a) if isinstance(a, str) else a)
    node = graph.create_node(op, target, swap(args), swap(kwargs), name="call")
    return format_node(node, number_nodes(graph)).removeprefix("%2 = ")


def test_whole_graph():
    assert format_graph(mixed()) == MIXTURE_TEXT


def test_names_do_not_matter():
    gm = mixed()
    for node in gm.graph.nodes:
        node.name = f"renamed_{node.name}"
    assert format_graph(gm) == MIXTURE_TEXT


def test_a_graph_with_an_owner_finds_its_modules():
    gm = mixed()
    assert format_graph(gm.graph) == MIXTURE_TEXT


def test_a_graph_without_a_root_does_not_guess():
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_module("cells.0.0", (x,)))
    assert format_graph(graph) == "%0 = input x\n%1 = module[cells.0.0](%0)\nreturn %1"
    assert format_graph(graph, root=MixedOp()) == "%0 = input x\n%1 = ReLU[cells.0.0](%0)\nreturn %1"


def test_a_root_given_goes_before_the_graph_module():
    root = MixedOp()
    root.cells[1] = nn.MaxPool2d(3, 1, 1)
    assert "%7 = MaxPool2d[cells.1](%0)" in format_graph(mixed(), root=root)


def test_a_module_that_is_not_there_is_missing():
    graph = fx.Graph()
    graph.call_module("cells.7", (graph.placeholder("x"),))
    assert format_graph(graph, root=MixedOp()) == "%0 = input x\n%1 = missing[cells.7](%0)"


def test_around_marks_one_node():
    gm = mixed()
    node = next(node for node in gm.graph.nodes if node.target is operator.mul)
    assert format_graph(gm, around=node, context=1) == (
        "  %5 = getitem(%2, (0, 0)) : f32[]\n"
        "> %6 = mul(%4, %5) : f32[2,4,8,8]\n"
        "  %7 = AvgPool2d[cells.1](%0) : f32[2,4,8,8]"
    )


def test_around_an_end_of_the_graph():
    gm = mixed()
    first, *_, last = gm.graph.nodes
    assert format_graph(gm, around=first, context=1) == ("> %0 = input x : f32[2,4,8,8]\n  %1 = attr alphas : f32[6,2]")
    assert format_graph(gm, around=last, context=0) == "> return %9"
    assert len(format_graph(gm, around=last).splitlines()) == 6


def test_around_an_erased_node_is_the_whole_graph():
    gm = mixed()
    stray = gm.graph.call_function(torch.relu, ())
    gm.graph.erase_node(stray)
    assert format_graph(gm, around=stray) == MIXTURE_TEXT


def test_a_node_of_another_graph_keeps_its_name():
    stray = fx.Graph().placeholder("elsewhere")
    graph = fx.Graph()
    graph.call_function(torch.relu, (stray,))
    assert format_graph(graph) == "%0 = relu(%?elsewhere)"


def test_inputs_and_outputs():
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.placeholder("scale", default_value=1.0)
    z = graph.placeholder("mask", default_value=None)
    graph.output((x, [y], {"mask": z, "n": 3}))
    assert format_graph(graph) == (
        "%0 = input x\n%1 = input scale=1.0\n%2 = input mask=None\nreturn (%0, [%1], {'mask': %2, 'n': 3})"
    )


def test_several_results_have_a_type_each():
    graph = fx.Graph()
    node = graph.call_function(torch.chunk, (graph.placeholder("x"), 2))
    node.meta["type"] = (TensorType(torch.float32, (2,)), TensorType(torch.float32, (1,)))
    assert format_graph(graph) == "%0 = input x\n%1 = chunk(%0, 2) : (f32[2], f32[1])"


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy


def _hidden(x):
    return x


def mixed_sum(terms, weights, edges):
    return terms, weights, edges


class Callee:
    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (torch.add, "add(%0)"),
        (operator.add, "add(%0)"),
        (operator.iadd, "iadd(%0)"),
        (operator.and_, "and(%0)"),
        (operator.getitem, "getitem(%0)"),
        (F.conv2d, "conv2d(%0)"),
        (F.max_pool2d, "max_pool2d(%0)"),
        (F.gelu, "gelu(%0)"),
        (torch.relu_, "relu_(%0)"),
        (torch.Tensor.add_, "add_(%0)"),
        (torch.Tensor.__getitem__, "getitem(%0)"),
        (torch.ops.aten.relu_.default, "relu_.default(%0)"),
        (getattr, "getattr(%0)"),
        (Clip.apply, "Clip.apply(%0)"),
        (_hidden, "hidden(%0)"),
        (Callee(), "Callee(%0)"),
    ],
)
def test_function_names(function, text):
    assert line(function, "x") == text


@pytest.mark.parametrize("name", ["relu_", "__getitem__"])
def test_methods_are_written_as_they_are_called(name):
    assert line(name, "x", op="call_method") == f".{name}(%0)"


def test_the_normal_form():
    assert line(mixed_sum, ["x", "y"], ["y", 1], (0, 0)) == "mixed_sum([%0, %1], [%1, 1], (0, 0))"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-12, "1e-12"),
        (float("-inf"), "-inf"),
        (2, "2"),
        (True, "True"),
        (None, "None"),
        (..., "..."),
        ("mean\n", r"'mean\n'"),
        (2j, "2j"),
        ((), "()"),
        ((1,), "(1,)"),
        ([], "[]"),
        ({}, "{}"),
        (torch.Size([2, 3]), "(2, 3)"),
        (torch.float32, "float32"),
        (torch.device("cpu"), "cpu"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.channels_last, "channels_last"),
        (torch.strided, "strided"),
        (torch.zeros(2, 3), "tensor f32[2,3]"),
        (slice(1, 2), "1:2"),
        (slice(None), ":"),
        (slice(1, None), "1:"),
        (slice(None, None, 2), "::2"),
        (range(3), "range(0, 3)"),
        (int, "int"),
        (torch.relu, "relu"),
        ({"b", "a"}, "{'a', 'b'}"),
        (frozenset(), "set()"),
        (Callee(), f"<{__name__}.Callee object>"),
    ],
)
def test_constants(value, text):
    graph = fx.Graph()
    node = graph.call_function(torch.relu, (value,))
    assert format_node(node, number_nodes(graph)) == f"%0 = relu({text})"


def test_nodes_inside_structures():
    graph = fx.Graph()
    x, n = graph.placeholder("x"), graph.placeholder("n")
    graph.call_function(operator.getitem, (x, (slice(None), slice(None, n, 2), ..., {"key": [n]})))
    assert format_graph(graph).splitlines()[2] == "%2 = getitem(%0, (:, :%1:2, ..., {'key': [%1]}))"


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (torch.float64, "f64[]"),
        (torch.float16, "f16[]"),
        (torch.bfloat16, "bf16[]"),
        (torch.int64, "i64[]"),
        (torch.int32, "i32[]"),
        (torch.uint8, "u8[]"),
        (torch.bool, "bool[]"),
        (torch.complex64, "c64[]"),
        (torch.float8_e5m2, "float8_e5m2[]"),
    ],
)
def test_element_types(dtype, text):
    assert str(TensorType(dtype, ())) == text


def test_type_of_a_tensor():
    kind = TensorType.of(torch.zeros(2, 0, 3, dtype=torch.float64))
    assert kind == TensorType(torch.float64, (2, 0, 3))
    assert str(kind) == "f64[2,0,3]"
    assert type(kind.shape) is tuple
    assert len({kind, TensorType(torch.float64, (2, 0, 3))}) == 1
