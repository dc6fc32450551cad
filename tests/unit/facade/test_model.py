"""The facade: a simplified model is the user's model, to the user's code."""

from __future__ import annotations

import abc
import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import toponas_fx
from exactness import image, no_capture
from small_darts import Network, batch, network
from toponas_fx.module_tree.tensor_paths import model_tensors


def test_it_is_of_both_classes_and_has_the_users_methods() -> None:
    model = network()
    fast = toponas_fx.simplify(model, batch()[0])
    assert isinstance(fast, Network)
    assert isinstance(fast, fx.GraphModule)
    assert isinstance(fast, toponas_fx.SimplifiedModule)
    assert fast.width == 4
    assert fast.names() == Network.names()
    assert type(fast.tiny()) is Network
    assert fast.genotype() == model.genotype()
    assert fast.arch_parameters()[0] is model.alphas_normal
    assert "Network" in repr(fast)
    assert type(fast).__name__ == "SimplifiedNetwork"
    assert inspect.signature(fast.forward) == inspect.signature(model.forward)
    assert torch.equal(fast._loss(*batch()), fast._criterion(fast(batch()[0]), batch()[1]))
    assert fast.cells[0]._ops[3].op[1].weight is model.cells[0]._ops[3].op[1].weight
    assert fast.cells[0] is not model.cells[0]


def test_tensors_are_shared_and_the_model_is_left_as_it_was() -> None:
    model, (x, _) = network(), batch()
    model.eval()
    model.cells[0].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    attributes = [dict(vars(module)) for module in model.modules()]
    expected = model(x)
    fast = toponas_fx.simplify(model, x)
    assert [module.training for module in model.modules()] == flags
    assert [fast.get_submodule(path).training for path, _ in model.named_modules()] == flags
    for module, attribute in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == attribute.keys()
        assert all(vars(module)[name] is value for name, value in attribute.items() if name != "training")
    assert torch.equal(model(x), expected)
    mine, theirs = ({id(t) for _, t in model_tensors(m)} for m in (fast, model))
    assert mine <= theirs
    fast.train()
    fast(x).sum().backward()
    assert model.classifier.weight.grad is not None
    model.zero_grad()
    with torch.no_grad():
        model.classifier.bias.add_(1)
    assert torch.equal(fast.classifier.bias, before["classifier.bias"] + 1)
    fast.drop_path_prob = 0.5
    fast.cells.append(nn.Identity())
    assert model.drop_path_prob == 0.0
    assert len(model.cells) == 2


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_parameters_that_nothing_reads_stay_until_they_are_retired(mode: str) -> None:
    model, (x, y) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode=mode)
    names, state = [name for name, _ in fast.named_parameters()], dict(fast.state_dict())
    all_names = [name for name, _ in model.named_parameters()]
    assert names == all_names
    live = [name for name in all_names if not name.startswith("auxiliary")]
    assert [name for name, _ in toponas_fx.used_parameters(fast)] == live
    assert any("does not read `auxiliary.weight` and 1 more" in note for note in fast.report.notes)
    for wrong, why in (("stem.0.weight", "forward reads `stem"), ("nothing", "no parameter `nothing`")):
        with pytest.raises(toponas_fx.ArgumentError, match=why):
            toponas_fx.retire(fast, ["auxiliary.bias", wrong])
    assert fast.state_dict().keys() == state.keys()
    toponas_fx.retire(fast, [name for name in all_names if name not in live])
    assert [name for name, _ in fast.named_parameters()] == live
    assert fast.auxiliary.weight is model.auxiliary.weight
    gradients = torch.autograd.grad(fast._loss(x, y), list(fast.parameters()))
    assert all(gradient is not None for gradient in gradients)
    norms = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == {"share": 3, "exact": 5}[mode]
    restored = toponas_fx.restore(fast)
    assert [name for name, _ in restored.named_parameters()] == all_names


def test_parameters_stay_where_state_could_bring_them_back() -> None:
    class Switched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()
            self.uses_b = False

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x) if self.uses_b else self.a(x)

    fast = toponas_fx.simplify(Switched(), image())
    assert len(list(fast.parameters())) == 4
    fast.uses_b = True
    assert torch.equal(fast(image()), fast.b(image()))


def test_two_models_of_one_class() -> None:
    first, second, (x, _) = network(seed=0), network(seed=1), batch()
    fasts = [toponas_fx.simplify(model, x, mode="exact") for model in (first, second)]
    shared = toponas_fx.simplify(first, x)
    for fast, model in zip(fasts, (first, second), strict=True):
        assert torch.allclose(fast(x), model(x), rtol=0, atol=1e-12)
    outputs = [fast(x) for fast in fasts]
    with torch.no_grad():
        first.classifier.weight.mul_(2)
        first.alphas_normal.mul_(3)
    assert not torch.allclose(fasts[0](x), outputs[0])
    assert torch.equal(fasts[1](x), outputs[1])
    assert shared.alphas_normal is first.alphas_normal


def test_changed_weights_change_the_output() -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x)
    fast.eval()
    for _, parameter in toponas_fx.used_parameters(fast):
        before = fast(x)
        with torch.no_grad():
            parameter.view(-1)[0] += 0.5
        assert not torch.equal(fast(x), before)


def saved_and_loaded(fast: Any) -> Any:
    stream = io.BytesIO()
    torch.save(fast, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


KINDS_OF_COPY: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda fast: pickle.loads(pickle.dumps(fast)),
    "save": saved_and_loaded,
    "twice": lambda fast: copy.deepcopy(pickle.loads(pickle.dumps(copy.deepcopy(fast)))),
}


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_copies_are_independent_and_need_no_capture(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode=mode)
    with no_capture(monkeypatch):
        for kind in KINDS_OF_COPY:
            twin = KINDS_OF_COPY[kind](fast)
            assert type(twin) is type(fast)
            assert [name for name, _ in twin.named_parameters()] == [name for name, _ in fast.named_parameters()]
            assert twin.state_dict().keys() == fast.state_dict().keys()
            assert twin.arch_parameters()[0] is twin.alphas_normal, "references within a model stay within its copy"
            assert not {id(t) for _, t in model_tensors(twin)} & {id(t) for _, t in model_tensors(fast)}
            assert str(twin.report) == str(fast.report)
            for training in (True, False):
                fast.train(training), twin.train(training)
                before = fast(x)
                assert torch.equal(twin(x), before), kind
                for m, other in ((twin, fast), (fast, twin)):
                    kept = other.eval()(x)
                    with torch.no_grad():
                        m.alphas_normal.add_(torch.randn_like(m.alphas_normal))
                        m.cells[0]._ops[3].op[1].weight.add_(torch.randn(3, 3, dtype=torch.float64))
                    assert torch.equal(other(x), kept), kind
                    assert not torch.allclose(m.eval()(x), kept), kind
                twin.load_state_dict(fast.state_dict())
                twin.alphas_normal.data.copy_(fast.alphas_normal.data)
            twin.drop_path_prob = 1.0
            assert fast.drop_path_prob == 0.0


def test_replacing_an_op_of_a_copy_at_once() -> None:
    model, (x, _) = network(), batch()
    for kind in KINDS_OF_COPY:
        fast = toponas_fx.simplify(model, x)
        twin = KINDS_OF_COPY[kind](fast)
        for m in (fast, twin):
            m.cells[0]._ops[3] = nn.Tanh()
            m.cells[1]._ops[2] = nn.Tanh()
            m.eval()
            assert torch.allclose(m(x), m.reference(x), rtol=0, atol=1e-10)
            copy.deepcopy(m)(x)


def test_a_shallow_copy_shares_its_tensors() -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x)
    twin = copy.copy(fast)
    assert type(twin) is type(fast)
    assert twin.alphas_normal is fast.alphas_normal
    twin.drop_path_prob = 1.0
    assert fast.drop_path_prob == 0.0
    assert torch.equal(twin.eval()(x), fast.eval()(x))
    twin._toponas.programs.clear()
    assert fast._toponas.programs
    assert twin.meta is not fast.meta


def test_state_that_modules_share_stays_shared() -> None:
    class Edge(nn.Module):
        def __init__(self, selected: list[int], seen: list[Any]) -> None:
            super().__init__()
            self.selected, self.seen = selected, seen

        def forward(self, x: Tensor) -> Tensor:
            return x * sum(self.selected) + len(self.seen)

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.selected, self.seen, self.settings = [1, 2], [], {"owner": self}
            self.edge = Edge(self.selected, self.seen)

        def forward(self, x: Tensor) -> Tensor:
            return self.edge(x)

    model = Cell()
    for fast in (toponas_fx.simplify(model, image()), copy.deepcopy(toponas_fx.simplify(model, image()))):
        assert fast.edge.selected is fast.selected is not model.selected
        assert fast.settings["owner"] is fast
        fast.selected.append(4)
        fast.seen.append(1)
        assert torch.equal(fast(image()), image() * 7 + 1)
    assert model.selected == [1, 2]


def test_parts_of_it_are_ordinary_modules() -> None:
    model, (x, _) = network(), batch()
    fast = toponas_fx.simplify(model, x, mode="exact")
    cell = copy.deepcopy(fast.cells[0])
    weights = torch.ones(5, dtype=torch.float64)
    assert torch.equal(cell.eval()(image(), weights), model.cells[0].eval()(image(), weights))
    assert type(pickle.loads(pickle.dumps(fast.cells))) is nn.ModuleList


def test_classes_of_many_kinds() -> None:
    class Abstract(nn.Module, abc.ABC):
        scale = 2.0

        @abc.abstractmethod
        def forward(self, x: Tensor) -> Tensor: ...

        def loss(self, x: Tensor) -> Tensor:
            return self(x).sum() * self.scale

    class Middle(Abstract):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

        def _run(self) -> str:
            return "the user's"

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.layer[1].eval()
            return self

        def __len__(self) -> int:
            return 0

    class Concrete(Middle):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm2d(4)).double()
            self.__secret = 3

        def loss(self, x: Tensor) -> Tensor:
            return super().loss(x) * self.__secret

    model = Concrete()
    fast = toponas_fx.simplify(model, image(), mode="exact")
    fast.train()
    assert not fast.layer[1].training, "the user's own train() runs"
    model.train()
    assert torch.allclose(fast.loss(image()), model.loss(image()), rtol=0, atol=1e-10)
    assert fast._run() == "the user's"
    assert len(fast) == 0


def test_a_forward_set_on_the_instance_and_a_graph_module() -> None:
    model = nn.Linear(6, 6).double()
    model.forward = lambda x: torch.nn.functional.linear(x, model.weight) * 2  # type: ignore[method-assign]
    fast = toponas_fx.simplify(model, image())
    assert torch.equal(fast(image()), model(image()))
    traced = fx.symbolic_trace(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double())
    fast = toponas_fx.simplify(traced, image())
    assert torch.equal(fast(image()), traced(image()))
