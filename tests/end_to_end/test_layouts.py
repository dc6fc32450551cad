"""Whatever leaves a program lies in memory as the original's does: outputs, and first and second derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from test_supernets_float32 import in_float32, single
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import toponas_fx
from collected import IDIOMS
from idiom import Idiom
from search_loops import gradients_of, loss_of
from supernets.darts import DARTSSupernet
from supernets.gdas import GDASSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import NASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet
from toponas_fx.module_tree.isolation import restored_buffers
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.ops import custom_autograd
from toponas_fx.ops.layouts import takes_over
from toponas_fx.passes import DEFAULT_PASSES, ConvertLayout

LAST = torch.channels_last
SMALL = custom_autograd.SMALL  # as users have it: tests take all tensors for large ones


def strides(value: Any) -> Any:
    """Return the strides along all dimensions that have two places; the others are never taken."""
    if not isinstance(value, Tensor):
        return type(value)
    return tuple(step for step, size in zip(value.stride(), value.shape, strict=True) if size > 1)


def observe(call: Callable[..., Any], owner: nn.Module, inputs: Any, keywords: Any) -> dict[str, Any]:
    """Return the strides of all that comes out of a model: outputs, `grad`, and what autograd.grad returns."""
    tensors = {str(path): tensor for path, tensor in model_tensors(owner)}
    floats = [x for x in pytree.tree_leaves((inputs, keywords)) if isinstance(x, Tensor) and x.is_floating_point()]
    tensors |= {f"input {index}": x.requires_grad_() for index, x in enumerate(floats)}
    named = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad and tensor.is_leaf}
    names, wanted = list(named), list(named.values())

    def run() -> Any:
        torch.manual_seed(0)
        with restored_buffers(owner):
            return call(*inputs, **keywords)

    output = run()
    found = {f"output {index}": strides(leaf) for index, leaf in enumerate(pytree.tree_leaves(output))}
    first = gradients_of(loss_of(output).square(), wanted, create_graph=True)
    total = sum(gradient.square().sum() for gradient in first if gradient is not None)
    second = gradients_of(total, wanted) if isinstance(total, Tensor) else first
    plain = gradients_of(loss_of(run()), wanted)
    loss = loss_of(run())
    if loss.requires_grad:
        loss.backward()
    kinds = {"gradient": plain, "with a graph": first, "second": second, "grad": [tensor.grad for tensor in wanted]}
    for kind, gradients in kinds.items():
        found |= {f"{kind} {name}": strides(gradient) for name, gradient in zip(names, gradients, strict=True)}
    for tensor in wanted:
        tensor.grad = None
    return found


def assert_laid_out_alike(fast: Any, model: Any, mode: str, given: Callable[[], Any]) -> None:
    """Compare with the original, where modules are shared with the user's own forward on the shared ones."""
    call, owner = (model, model) if mode == "exact" else (fast.reference, fast)
    for training in (True, False):
        fast.train(training)
        model.train(training)
        found, expected = observe(fast, owner, *given()), observe(call, owner, *given())
        for name, layout in expected.items():
            is_left_out = type(None) in (found[name], layout)  # a zero has no gradient on one of the two sides
            is_alike = found[name] == layout or is_left_out or (name.startswith("second") and is_in_order(found[name]))
            assert is_alike, f"{name}: strides {found[name]}, expected {layout}"


def is_in_order(layout: Any) -> bool:
    """Return whether a tensor can be viewed as a vector: second derivatives of the original's come transposed."""
    return isinstance(layout, tuple) and list(layout) == sorted(layout, reverse=True)


def as_last(value: Any) -> Any:
    """Bring the images among a call's arguments to channels-last layout."""
    return pytree.tree_map_only(Tensor, lambda x: x.contiguous(memory_format=LAST) if x.dim() == 4 else x, value)


@pytest.fixture(params=["lean", pytest.param("stock", marks=pytest.mark.slow)])
def _sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take tensors for large ones or for small ones: other implementations run."""
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", 0 if request.param == "lean" else 10**9)


@pytest.mark.usefixtures("_sizes")
@pytest.mark.parametrize("kind", [kind for kind in IDIOMS if kind.as_written is None], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("mode", ["exact", pytest.param("share", marks=pytest.mark.slow)])
def test_every_idiom(kind: type[Idiom], mode: str) -> None:
    model = single(kind)
    fast = toponas_fx.simplify(model, in_float32(model)[0], mode=mode)
    assert_laid_out_alike(fast, model, mode, lambda: in_float32(model))


SPACES: dict[str, Callable[[], Any]] = {
    "nasbench201": lambda: NASBench201Supernet(C=16, N=1, num_classes=3),
    "darts": lambda: DARTSSupernet(C=8, layers=2, num_classes=3, steps=2, multiplier=2, reductions=(1,)),
    "pcdarts": lambda: PCDARTSSupernet(C=16, layers=2, num_classes=3, steps=2, multiplier=2, reductions=(1,)),
    "gdas": lambda: GDASSupernet(C=16, N=1, num_classes=3),
    "mobile": lambda: MobileSupernet(C=16, layers=1, num_classes=3),
}
PASSES = tuple(ConvertLayout(layout=True) if isinstance(entry, ConvertLayout) else entry for entry in DEFAULT_PASSES)
"""As tuning may choose them, whatever the sizes."""


def images() -> Any:
    return (torch.randn(16, 3, 16, 16),), {}


HEAVY = [pytest.param(space, marks=pytest.mark.slow) for space in ("pcdarts", "gdas", "mobile")]


@pytest.mark.parametrize("mode", ["exact", "share"])
@pytest.mark.parametrize("space", ["nasbench201", "darts", *HEAVY])
@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it")
def test_every_space(space: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toponas_fx.ops.custom_autograd.SMALL", SMALL)
    model = SPACES[space]()
    fast = toponas_fx.simplify(model, images()[0], mode=mode, passes=PASSES)
    assert space == "gdas" or "= toponas_fx_ops_layouts_channels_last(" in fast.train().code
    assert_laid_out_alike(fast, model, mode, images)


@pytest.mark.parametrize("way", ["input", "before", pytest.param("after", marks=pytest.mark.slow)])
@pytest.mark.parametrize("space", ["nasbench201", pytest.param("darts", marks=pytest.mark.slow)])
def test_channels_last_of_the_users_own(space: str, way: str) -> None:
    """Images or kernels are brought to channels-last layout by the user: torch hands that on, as in the original."""
    model = SPACES[space]()
    if way == "before":
        model.to(memory_format=LAST)
    fast = toponas_fx.simplify(model, images()[0], mode="exact", passes=PASSES)
    if way == "after":
        fast.to(memory_format=LAST)
    given = (lambda: as_last(images())) if way == "input" else images
    assert_laid_out_alike(fast, model, "exact", given)
    gradient = torch.autograd.grad(fast.train()(as_last(images()[0])[0])[1].sum(), fast.stem[0].weight)[0]
    assert not gradient.is_contiguous()


class Features(NamedTuple):
    image: Tensor
    rows: Tensor
    pixels_last: Tensor
    means: Tensor
    logits: Tensor


class Head(nn.Module):
    """Returns what searches look at besides logits, in a container, and reads weights that lie like images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.down = nn.Conv2d(8, 4, 1, stride=2)
        self.place = nn.Parameter(torch.randn(1, 8, 16, 16))
        self.last = nn.Conv2d(4, 4, 3)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Features:
        x = self.stem(x) + self.place
        image = self.down(self.up(x))
        means = image.mean((2, 3), keepdim=True).expand_as(image) + image.permute(0, 2, 3, 1).mean()
        logits = self.classifier(self.last(image).mean((2, 3)))
        return Features(image, x.mean(0), image.permute(0, 2, 3, 1), means[:, :1].expand_as(image), logits)


def test_features_lie_as_in_the_original_and_gradients_to_them_are_given() -> None:
    model = Head()
    fast = toponas_fx.simplify(model, images()[0], mode="exact", passes=PASSES)
    assert_laid_out_alike(fast, model, "exact", images)
    gradients = []
    for one in (fast, model):
        torch.manual_seed(0)
        found = one(*images()[0])
        assert isinstance(found, Features)
        gradients.append(torch.autograd.grad(found.logits.square().sum(), [found.image, model.place]))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert one.stride() == other.stride()


class Written(nn.Module):
    """Writes to a feature after it was made, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        feature = self.stem(x)
        pooled = feature.mean((2, 3))
        feature[:, 0].mul_(2.0)
        return feature, pooled


@pytest.mark.parametrize("of_example", [lambda x: x, as_last], ids=["usual", "last"])
def test_features_that_are_written_in_place_and_examples_in_another_layout(of_example: Any) -> None:
    model = Written()
    fast = toponas_fx.simplify(model, of_example(images()[0]), mode="exact", passes=PASSES)
    x = images()[0][0]
    for one, other in zip(fast(x), model(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert strides(one) == strides(other)


def test_torch_compile_keeps_the_layout() -> None:
    model = Head()
    fast = toponas_fx.simplify(model, images()[0], mode="exact", passes=PASSES)
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    for given in (images, lambda: as_last(images())):
        x = given()[0][0].requires_grad_()
        wanted = [x, *model.parameters()]
        for one, other in zip(compiled(x), model(x), strict=True):
            assert strides(one) == strides(other)
        found, expected = (torch.autograd.grad(call(x)[-1].square().sum(), wanted) for call in (compiled, model))
        assert [strides(one) for one in found] == [strides(other) for other in expected]


@pytest.mark.parametrize(("side", "converts"), [(8, False), (64, True)])
def test_small_images_are_not_converted(side: int, converts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom_autograd, "SMALL", SMALL)
    kernel = torch.ones(16, 3, 3, 3)
    assert takes_over([torch.ones(1, 3, side, side)], kernel) == converts
    assert takes_over([torch.ones(1, 16, side, side)], None) == converts
