"""``torch.compile`` over a simplified model: the same results, one graph, and nothing of the model's state frozen."""

from __future__ import annotations

import copy
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

import toponas_fx
from equality import assert_same, double, run
from small_darts import batch, network
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet

TOLERANCE = 1e-10

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks, after a graph break


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Backend:
    """Runs the graphs that dynamo hands over as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, gm: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        self.graphs += 1
        return gm.forward


def compiled(fast: Any, **options: Any) -> tuple[Any, Backend]:
    backend = Backend()
    return torch.compile(fast, **{"backend": backend, "fullgraph": True, **options}), backend


def all_tensors(fast: Any) -> list[Tensor]:
    architecture = [tensor for tensor in fast.arch_parameters() if not isinstance(tensor, nn.Parameter)]
    return [*fast.parameters(), *architecture]


def assert_alike(one: Any, fast: Any, *inputs: Any, tolerance: float = TOLERANCE) -> None:
    """Assert that a compiled model does what the simplified one does, to outputs, gradients and buffers."""
    assert_same(run(one, fast, inputs, all_tensors(fast)), run(fast, fast, inputs, all_tensors(fast)), tolerance)
    twin = copy.deepcopy(fast)
    twin(*inputs)
    before = [buffer.clone() for buffer in fast.buffers()]
    one(*inputs)
    for buffer, expected in zip(fast.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, rtol=tolerance, atol=tolerance)
    for buffer, value in zip(fast.buffers(), before, strict=True):
        buffer.data.copy_(value)


IMAGES = torch.Size((4, 3, 8, 8))
SUPERNETS: dict[str, Callable[[], tuple[Any, torch.Size]]] = {
    "small": lambda: (network(), batch()[0].shape),
    "nasbench201": lambda: (double(NASBench201Supernet(C=2, N=1, alphas="tensor")), IMAGES),
    "parameter": lambda: (double(NASBench201Supernet(C=2, N=1)), IMAGES),
    "darts": lambda: (double(DARTSSupernet(4, num_classes=3, layers=3, steps=1, multiplier=1)), IMAGES),
}


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("small", "share"),
        ("small", "exact"),
        ("nasbench201", "share"),
        pytest.param("nasbench201", "exact", marks=pytest.mark.slow),
        pytest.param("parameter", "share", marks=pytest.mark.slow),
        pytest.param("darts", "share", marks=pytest.mark.slow),
        pytest.param("darts", "exact", marks=pytest.mark.slow),
    ],
)
def test_one_graph_with_the_same_results(name: str, mode: str) -> None:
    model, shape = SUPERNETS[name]()
    x = torch.randn(shape, dtype=torch.float64)
    fast = toponas_fx.simplify(model, x, mode=mode)
    one, backend = compiled(fast)
    assert_alike(one, fast, x)
    with torch.no_grad():
        for alphas in fast.arch_parameters():
            alphas.copy_(torch.randn(alphas.shape))
    assert_alike(one, fast, x)
    assert backend.graphs == 1
    fast.eval()
    assert_alike(one, fast, x)
    assert backend.graphs == 2
    fast.train()
    assert_alike(one, fast, x)
    assert backend.graphs == 2


def test_other_batch_sizes() -> None:
    fast = toponas_fx.simplify(network(), batch()[0])
    one, backend = compiled(fast)
    for size in (4, 7, 3, 5, 2):
        assert_alike(one, fast, batch(size)[0])
    assert backend.graphs <= 3, "the last is for any size"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_no_weight_is_frozen(training: bool) -> None:
    x = batch()[0]
    fast = toponas_fx.simplify(network(affine=True), x).train(training)
    one, backend = compiled(fast)
    found = [one(x)]
    shape = fast.alphas_normal.shape

    def rebind() -> None:
        fast.alphas_normal = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        fast._arch_parameters = [fast.alphas_normal]

    def rebind_kernel() -> None:
        kernel = fast.stem[0].weight
        fast.stem[0].weight = nn.Parameter(torch.randn_like(kernel))

    def set_data() -> None:
        fast.alphas_normal.data = torch.randn(shape, dtype=torch.float64)

    def change_everything() -> None:
        fast.load_state_dict({name: value + 0.1 for name, value in fast.state_dict().items()})

    def train_all() -> None:
        optimizer = optim.SGD(all_tensors(fast), lr=0.1)
        fast(x).square().sum().backward()
        optimizer.step()

    for change in (rebind, set_data, rebind_kernel, change_everything, train_all):
        change()
        assert_alike(one, fast, x)
        found.append(one(x))
        assert (found[-1] - found[-2]).abs().max() > 1e-6, change.__name__
    assert backend.graphs <= 3


class Heated(nn.Module):
    """A mixed operation whose temperature is Python's, and whose path may be."""

    def __init__(self) -> None:
        super().__init__()
        self.tau = 1.0
        self.skips_zeros = False
        self.alphas = torch.randn(3, dtype=torch.float64, requires_grad=True)
        self.ops = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh()]).double()

    def forward(self, x: Tensor) -> Any:
        weights = (self.alphas / self.tau).softmax(-1) if not self.skips_zeros else self.alphas
        terms = zip(weights, self.ops, strict=True)
        return sum(w * op(x) for w, op in terms if not self.skips_zeros or w != 0)

    def arch_parameters(self) -> list[Tensor]:
        return [self.alphas]


def test_python_state_is_asked_at_each_call() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    fast = toponas_fx.simplify(Heated(), x)
    one, backend = compiled(fast)
    for tau in (1.0, 0.5, 2.0, 1.0, 0.5, 2.0):
        fast.tau = tau
        assert_alike(one, fast, x)
    assert backend.graphs == 3, "a graph a temperature"
    fast.ops[1] = nn.Linear(4, 4).double()  # where a shared one was
    assert_alike(one, fast, x)
    fast.ops[0].register_forward_hook(lambda module, inputs, output: output * 2)
    assert_alike(one, fast, x)


def test_grad_mode_and_autocast() -> None:
    x = torch.randn(5, 4)
    model = Heated().float()
    model.alphas.data = model.alphas.data.float()
    fast = toponas_fx.simplify(model, x)
    one, _ = compiled(fast)
    for _ in range(2):
        assert one(x).requires_grad
        with torch.no_grad():
            assert not one(x).requires_grad
            torch.testing.assert_close(one(x), fast(x))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(one(x), fast(x))


def test_answers_read_from_data_break_the_graph_or_say_so() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    model = Heated()
    model.skips_zeros = True
    fast = toponas_fx.simplify(model, x)
    assert fast._toponas.programs[0].has_guards
    one, _ = compiled(fast, fullgraph=False)
    for values in ([0.5, 0.1, 0.2], [0.0, 0.1, 0.2], [0.5, 0.1, 0.2], [0.3, 0.0, 0.0]):
        fast.alphas.data = torch.tensor(values, dtype=torch.float64)
        assert_alike(one, fast, x)
    torch.compiler.reset()
    whole, _ = compiled(fast)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="data-dependent"):
        whole(x)


def test_a_forward_left_as_written_is_compiled_as_such() -> None:
    class Counting(Heated):
        calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return super().forward(x) * self.calls

    x = torch.randn(5, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="runs as its user wrote it"):
        fast = toponas_fx.simplify(Counting(), x)
    one, backend = compiled(fast)
    first = one(x)
    torch.testing.assert_close(one(x) / 2 + fast(x) / 3, 2 * first)
    assert fast.calls == 3
    assert backend.graphs >= 1


def test_a_compiled_function_around_the_model() -> None:
    x, target = batch()
    fast = toponas_fx.simplify(network(), x)
    backend = Backend()

    def loss(x: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(fast(x) * 2, target)

    step = torch.compile(loss, backend=backend)
    expected = torch.autograd.grad(loss(x, target), fast.alphas_normal)
    torch.testing.assert_close(torch.autograd.grad(step(x, target), fast.alphas_normal), expected)
    fast.alphas_normal.data.mul_(-3)
    torch.testing.assert_close(step(x, target), loss(x, target))
    assert backend.graphs >= 2
    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="compile the simplified model itself"):
        torch.compile(loss, backend=backend, fullgraph=True)(x, target)


def test_compile_in_place_and_copies() -> None:
    x, target = batch()
    fast = toponas_fx.simplify(network(), x)
    expected = fast._loss(x, target)
    backend = Backend()
    fast.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(fast._loss(x, target), expected)
    assert backend.graphs == 1
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), copy.copy(fast)):
        torch.testing.assert_close(twin._loss(x, target), expected)
        if twin.alphas_normal is not fast.alphas_normal:
            twin.alphas_normal.data.add_(torch.randn(twin.alphas_normal.shape))
            assert not torch.allclose(twin._loss(x, target), expected)
    assert type(fast.new()) is type(fast)
    torch.testing.assert_close(fast._loss(x, target), expected)
    assert backend.graphs == 1, "as with any module, copies are not compiled"


def test_what_was_compiled_in_place_is_told_to_come_later() -> None:
    for model in (network(), nn.Sequential(network())):
        model.get_submodule("0" if isinstance(model, nn.Sequential) else "").compile(backend="eager")
        with pytest.raises(toponas_fx.ArgumentError, match="simplify before compiling"):
            toponas_fx.simplify(model, batch()[0])


def test_export_of_an_evaluation() -> None:
    x = batch()[0]
    fast = toponas_fx.simplify(network(), x).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(fast, (x,))
        torch.testing.assert_close(exported.module()(x), fast(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inductor() -> None:
    if not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        pytest.skip("inductor compiles C++ on the CPU, and there is no compiler")
    x = batch()[0]
    fast = toponas_fx.simplify(network(), x)
    one = torch.compile(fast, fullgraph=True)
    assert_alike(one, fast, x)
    with torch.no_grad():
        for alphas in fast.arch_parameters():
            alphas.copy_(torch.randn(alphas.shape))
    assert_alike(one, fast, x)
    fast.eval()
    assert_alike(one, fast, x)
