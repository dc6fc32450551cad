"""The verifier: every way in which a pass may leave a broken graph."""

import pytest
import torch
from torch import nn

import toponas_fx
from toponas_fx.errors import VerificationError
from toponas_fx.ir.decisions import sharing_of
from toponas_fx.ir.tensor_type import TensorType
from toponas_fx.rewriting.verifier import Interface, verify
from toponas_fx.runtime.inspection import at_work


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.plain = [torch.ones(3)]

    def forward(self, x):
        return {"sum": self.a(x) * self.scale + self.b(x), "rest": (torch.relu(x) * self.plain[0],)}


@pytest.fixture
def gm():
    return toponas_fx.simplify(Net(), torch.ones(2, 3), passes=()).train()


@pytest.fixture
def interface(gm):
    return Interface.of(gm.graph)


def node_of(gm, text):
    return next(node for node in gm.graph.nodes if text in (node.target, node.name))


def test_accepts_a_graph_as_captured(gm, interface):
    assert interface.inputs == ("x",)
    kind = TensorType(torch.float32, (2, 3))
    assert interface.output == {"sum": kind, "rest": (kind,)}
    verify(gm, interface)


def test_rejects_a_read_before_the_value_exists(gm, interface):
    late = node_of(gm, torch.relu)
    node_of(gm, "a").append(late)
    node_of(gm, "a").args = (late,)
    with pytest.raises(VerificationError, match=r"the graph is not well formed: .*was used before it has been defined"):
        verify(gm, interface)


def test_rejects_a_node_of_another_graph(gm, interface):
    other = toponas_fx.simplify(Net(), torch.ones(2, 3), passes=()).train()
    node_of(gm, "a").args = (node_of(other, torch.relu),)
    with pytest.raises(VerificationError, match="not well formed"):
        verify(gm, interface)


@pytest.mark.parametrize("target", ["c", "a.weight.x", "ops.0"])
def test_rejects_a_module_that_does_not_exist(gm, interface, target):
    node_of(gm, "a").target = target
    with pytest.raises(VerificationError, match=rf"`{target}` does not exist in the model:\n(.*\n)*> %1 = missing\["):
        verify(gm, interface)


def test_rejects_a_parameter_that_does_not_exist(gm, interface):
    node_of(gm, "scale").target = "a.scale"
    with pytest.raises(VerificationError, match=r"`a.scale` does not exist in the model:\n(.*\n)*> %2 = attr a.scale"):
        verify(gm, interface)


def test_rejects_a_call_of_what_is_no_module(gm, interface):
    node_of(gm, "a").target = "scale"
    with pytest.raises(VerificationError, match="`scale` is called but is a Parameter"):
        verify(gm, interface)


def test_rejects_a_read_of_another_shape(gm, interface):
    node_of(gm, "scale").target = "a.weight"
    with pytest.raises(VerificationError, match=r"`a.weight` has the shape \(3, 3\), its node says f32\[3\]"):
        verify(gm, interface)


def test_rejects_another_input(gm, interface):
    next(iter(gm.graph.nodes)).target = "y"
    with pytest.raises(VerificationError, match=r"inputs and output were .*'x'.*, now they are .*'y'"):
        verify(gm, interface)


def test_rejects_one_input_more(gm, interface):
    with gm.graph.inserting_before(next(iter(gm.graph.nodes))):
        gm.graph.placeholder("y")
    with pytest.raises(VerificationError, match="inputs and output were"):
        verify(gm, interface)


@pytest.mark.parametrize("value", [lambda out: out["sum"], lambda out: {"sum": out["sum"]}, lambda out: {}])
def test_rejects_another_structure_of_the_output(gm, interface, value):
    output = node_of(gm, "output")
    output.args = (value(output.args[0]),)
    with pytest.raises(VerificationError, match="inputs and output were"):
        verify(gm, interface)


def test_rejects_another_type_of_the_output(gm, interface):
    gm.graph.output_node().args[0]["sum"].meta["type"] = TensorType(torch.float32, (3, 2))
    with pytest.raises(VerificationError, match=r"now they are .*3, 2"):
        verify(gm, interface)


def test_rejects_a_tree_that_is_not_tied_as_recorded(gm, interface):
    gm = at_work(gm, gm.graph)  # as in a pipeline, which changes the tree as it goes
    sharing_of(gm).ties["b"] = "a"
    with pytest.raises(VerificationError, match="`b` is recorded as tied to `a` but is another module"):
        verify(gm, interface)
    gm.b = gm.a
    verify(gm, interface)
