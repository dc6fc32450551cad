"""Costs, against counts made by hand."""

import gc
import random
import weakref

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from toponas_fx.analysis.costs import Costs, flops, graph_costs, saved_bytes

N, C, H, W = 2, 4, 6, 6
BYTES = N * C * H * W * 4  # of one image


def image(**options):
    return torch.randn(N, C, H, W, **options)


def graph_of(op, target, root=None):
    """Return a graph module of one call."""
    graph = fx.Graph()
    graph.output(graph.create_node(op, target, (graph.placeholder("x"),)))
    return fx.GraphModule(root or nn.Module(), graph)


class Supernet(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.alphas = nn.Parameter(torch.zeros(5, 2))
        self.unread = nn.Linear(7, 7)

    def forward(self, x):
        w = torch.softmax(self.alphas, dim=-1)
        return self.op(x) * w[0, 0] + self.pool(x) * w[0, 1] + self.op(F.relu(x)) * 0.5


def test_whole_graph():
    assert graph_costs(fx.symbolic_trace(Supernet())) == Costs(
        convolutions=2,
        norms=2,
        activations=3,
        poolings=1,
        nodes=2 + 6 + 1 + 1 + 2 + 3 + 2,  # alphas, softmax, 2 x (relu, conv, bn), pool, relu, getitem, mul, add
        parameters=C * C * 9 + 2 * C + 10,
    )


KINDS = ("convolutions", "norms", "activations", "poolings")
MODULES = {
    "convolutions": [nn.Conv1d(2, 2, 1), nn.Conv3d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1)],
    "norms": [nn.BatchNorm2d(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(2)],
    "activations": [nn.ReLU6(), nn.PReLU(), nn.Hardswish(), nn.GELU(), nn.Sigmoid()],
    "poolings": [nn.AvgPool2d(2), nn.MaxPool1d(2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.LPPool2d(2, 2)],
    "nothing": [nn.Linear(2, 2), nn.Dropout(), nn.Softmax(-1), nn.Identity()],
}
FUNCTIONS = {
    "convolutions": [(F.conv2d, 2), (torch.conv1d, 2), (F.conv_transpose2d, 2)],
    "norms": [(F.instance_norm, 1), (F.group_norm, 1, 2), (F.layer_norm, 1, (4,)), (F.rms_norm, 1, (4,))],
    "activations": [
        *[(F.relu, 1), (F.relu_, 1), (torch.relu_, 1), (torch.Tensor.relu, 1), (torch.Tensor.sigmoid_, 1)],
        *[(torch.tanh, 1), (F.relu6, 1), (F.hardtanh, 1), (F.silu, 1), (F.gelu, 1), (F.logsigmoid, 1)],
    ],
    "poolings": [(F.max_pool2d, 1, 2), (F.avg_pool2d, 1, 2), (F.adaptive_avg_pool2d, 1, 1), (F.lp_pool2d, 1, 2, 2)],
    "nothing": [(torch.softmax, 1, -1), (torch.matmul, 2), (F.dropout, 1)],
}


class Recorder(TorchFunctionMode):
    """Note the functions that are called, as a recording of one run sees them."""

    def __init__(self):
        super().__init__()
        self.graph = fx.Graph()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.graph.call_function(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "module"), [(kind, module) for kind, many in MODULES.items() for module in many])
def test_modules(kind, module):
    costs = graph_costs(fx.symbolic_trace(nn.Sequential(module)))
    assert [getattr(costs, name) for name in KINDS] == [int(name == kind) for name in KINDS]


@pytest.mark.parametrize(("kind", "call"), [(kind, call) for kind, many in FUNCTIONS.items() for call in many])
def test_functions_as_recorded(kind, call):
    function, arity, *options = call
    x = torch.randn([4] * (3 if function is torch.conv1d else 4))
    with Recorder() as recorder:
        function(*[x] * arity, *options)
    costs = graph_costs(fx.GraphModule(nn.Module(), recorder.graph))
    assert [getattr(costs, name) for name in KINDS] == [int(name == kind) for name in KINDS]


@pytest.mark.parametrize("function", [torch.batch_norm, F.batch_norm, F.max_pool2d_with_indices, F.leaky_relu_])
def test_other_spellings(function):
    costs = graph_costs(graph_of("call_function", function))
    assert costs.norms + costs.poolings + costs.activations == 1


@pytest.mark.parametrize("name", ["relu", "relu_", "sigmoid"])
def test_methods(name):
    assert graph_costs(graph_of("call_method", name)).activations == 1


def test_a_function_that_only_shares_a_name_does_not_count():
    def relu(x):
        return x

    assert graph_costs(graph_of("call_function", relu)).activations == 0


def test_an_opaque_module_counts_with_what_it_is_made_of():
    root = nn.Module()
    root.opaque = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    expected = Costs(convolutions=1, norms=1, activations=1, poolings=0, nodes=1, parameters=18 + 2 + 4)
    assert graph_costs(graph_of("call_module", "opaque", root)) == expected


def test_parameters_count_once_and_only_where_they_are_parameters():
    root = nn.Module()
    root.tied = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    root.tied[1].weight = root.tied[0].weight
    root.rows = [nn.Parameter(torch.zeros(5)), torch.zeros(100)]
    root.table = {"edge": (nn.Parameter(torch.zeros(7)), None)}
    root.plain = torch.zeros(100)
    graph = fx.Graph()
    for path in ("tied.0", "tied.1"):
        graph.create_node("call_module", path)
    for path in ("tied.0.weight", "rows", "table", "plain"):
        graph.create_node("get_attr", path)
    gm = fx.GraphModule(root, graph)
    gm.unread = nn.Parameter(torch.zeros(100))
    assert graph_costs(gm).parameters == 9 + 5 + 7


def test_flops():
    conv = nn.Conv2d(C, 8, 3, stride=2, padding=1, groups=2)
    assert flops(conv, image()) == 2 * N * 8 * (H // 2) * (W // 2) * (C // 2) * 3 * 3
    assert flops(nn.Sequential(nn.Linear(C, 3), nn.ReLU()), torch.randn(5, C)) == 2 * 5 * C * 3
    assert flops(nn.ReLU(), image()) == 0


CONV = nn.Conv2d(C, 8, 1)


@pytest.mark.parametrize(
    ("call", "requires_grad", "expected"),
    [
        (CONV, False, BYTES),  # its input
        (CONV.forward, False, BYTES),  # a bound method's parameters do not count either
        (nn.Sequential(CONV, nn.ReLU()), False, BYTES + 2 * BYTES),  # and the output of ReLU
        (lambda x: CONV(x), False, BYTES + CONV.weight.nbytes),  # parameters that could not be known
        (nn.ReLU(), False, 0),  # nothing asks for a gradient
        (nn.ReLU(), True, BYTES),
        (nn.BatchNorm2d(C), False, BYTES + 2 * C * 4),  # its input and two statistics a channel
        (nn.MaxPool2d(2), True, BYTES + BYTES // 4 * 2),  # its input, and an i64 index for each output
        (lambda x: (x.sin(), x.view(N, -1).sin()), True, BYTES),  # two views of one storage
        (lambda x: x.sin() + x.clone().sin(), True, 2 * BYTES),
        (lambda x: x[:, :1].sin(), True, BYTES),  # a slice holds all of its storage
    ],
)
def test_saved_bytes(call, requires_grad, expected):
    x = image(requires_grad=requires_grad)
    assert saved_bytes(call, x) == expected
    with torch.no_grad():
        assert saved_bytes(call, x) == expected
    with torch.inference_mode():
        assert saved_bytes(call, x) == expected


def test_addresses_used_again_are_not_mistaken_for_shared_storages():
    def call():
        for _ in range(5):
            torch.zeros(1000).mul(weight)  # saves the zeros, which could be freed at once

    weight = torch.ones((), requires_grad=True)
    assert saved_bytes(call, exclude=[weight]) == 5 * 1000 * 4


def test_excluded_tensors_do_not_count():
    x = image()
    assert saved_bytes(CONV, x, exclude=[x]) == 0
    assert saved_bytes(CONV, x, exclude=(part for part in x.unbind())) == 0


def test_what_was_saved_is_freed_at_once():
    def call(x):
        y = x.relu()
        z = y.sigmoid()
        dropped.extend(map(weakref.ref, (y, z)))
        return z * z

    dropped = []
    gc.disable()
    try:
        saved_bytes(call, image(requires_grad=True))
        assert [reference() for reference in dropped] == [None, None]
    finally:
        gc.enable()


def test_a_gradient_taken_inside_forward_stays_right():
    def call(x):
        (slope,) = torch.autograd.grad(x.sigmoid().pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.sum(), x)[0])

    results = []
    x = image(requires_grad=True, dtype=torch.float64)
    saved_bytes(call, x)
    call(x)
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_tensors_without_memory():
    model = nn.Sequential(nn.Conv2d(C, 8, 1), nn.ReLU()).to("meta")
    assert saved_bytes(model, image(device="meta")) == 3 * BYTES
    assert saved_bytes(model, torch.empty(0, C, H, W, device="meta")) == 0
    assert saved_bytes(CONV, torch.randn(0, C, H, W)) == 0
    with FakeTensorMode():
        x = image(requires_grad=True)
        assert saved_bytes(lambda x: x.sin() + x.view_as(x).sin(), x) == BYTES


class Save(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kept):
        ctx.save_for_backward(kept)
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return dy, None


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_other_layouts():
    one = torch.ones(1, requires_grad=True)
    indices, values = torch.arange(8), torch.ones(8)
    kept = torch.sparse_csr_tensor(torch.arange(9), indices, values, (8, 8), check_invariants=True)
    assert saved_bytes(lambda x: Save.apply(x, kept), one) == 9 * 8 + 8 * 8 + 8 * 4
    kept = torch.sparse_coo_tensor(indices[None], values, (8,), check_invariants=True)
    assert saved_bytes(lambda x: Save.apply(x, kept), one) == 8 * 8 + 8 * 4
    if torch.backends.mkldnn.is_available():
        kept = torch.eye(8).to_mkldnn()  # has no storage at all
        assert saved_bytes(lambda x: Save.apply(x, kept), one) == 64 * 4


class Restless(nn.Module):
    """Moves every state there is, and fails where it is asked to."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(C)
        self.norm.weight.grad = torch.ones(C)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x, fails=False):
        self.steps = self.steps + 1
        x = F.dropout(self.norm(x)) * random.random() * numpy.random.rand()
        if fails:
            raise ValueError("as asked")
        return x

    def state(self):
        return {
            "buffers": {name: (id(buffer), buffer.tolist()) for name, buffer in self.named_buffers()},
            "torch": torch.get_rng_state().tolist(),
            "python": random.getstate(),
            "numpy": (numpy.random.get_state()[1].tolist(), numpy.random.get_state()[2:]),
            "training": [module.training for module in self.modules()],
            "gradients": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in self.parameters()],
        }


def test_the_restless_model_does_move_its_state():
    model = Restless()
    before, _, after = model.state(), model(image()), model.state()
    assert {key for key in before if before[key] != after[key]} == {"buffers", "torch", "python", "numpy"}


@pytest.mark.parametrize("measure", [flops, saved_bytes])
def test_the_model_is_left_as_it_was(measure):
    model, x = Restless(), image(requires_grad=True)
    before = model.state()
    assert measure(model, x) == measure(model.forward, x)
    with pytest.raises(ValueError, match="as asked"):
        measure(model, x, True)
    assert model.state() == before
    assert x.grad is None
