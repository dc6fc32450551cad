"""Candidate operations in the field's words: from their structure, or as the user calls them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import toponas_fx
from collected import IDIOMS
from equality import double
from idiom import Idiom, Zero
from supernets.darts import DARTSSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import EDGES, NASBench201Supernet
from supernets.partial_nasbench201 import PartialNASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet
from supernets.primitives import FactorizedReduce, primitive
from topology_cases import C, OneEdge, image
from toponas_fx.passes import DetectMixedOps, UnstackSums
from toponas_fx.testing import RandomSupernet, random_supernets

DARTS = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"),
    *("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"),
)
NB201 = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
FEW = {"none", "skip_connect", "nor_conv_3x3", "nor_conv_1x1", "nor_conv_5x5"}


def names_of(model: nn.Module, inputs: Any = None, **options: Any) -> set[tuple[str, ...]]:
    """Return the names of the candidates of every edge, each set of names once."""
    options = {"passes": (UnstackSums(), DetectMixedOps()), **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(model, image() if inputs is None else inputs, **options)
    edges: dict[Any, list[tuple[int, str]]] = {}
    for _, target, edge in toponas_fx.inspection(fast).topology().edges(data=True):
        if edge["kind"] == "candidate":
            edges.setdefault((target, edge["mixture"]), []).append((edge["position"], edge["name"]))
    return {tuple(name for _, name in sorted(found)) for found in edges.values()}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: NASBench201Supernet(4, 1), {NB201}),
        (lambda: PartialNASBench201Supernet(8, 1), {NB201, *((edge,) for edge in EDGES)}),
        (
            lambda: DARTSSupernet(4, 3, steps=2, multiplier=2),
            {DARTS, (*DARTS[:3], "factorized_reduce", *DARTS[4:])},
        ),
    ],
)
def test_spaces_of_the_field(model: Any, expected: set[tuple[str, ...]]) -> None:
    assert names_of(model(), torch.randn(2, 3, 16, 16)) == expected


def test_partial_channels_have_one_channel_at_the_least() -> None:
    assert DARTS in names_of(PCDARTSSupernet(4, 3, steps=2, multiplier=2), torch.randn(2, 3, 16, 16))


def test_a_skip_around_a_block_is_a_part_of_its_candidate() -> None:
    blocks = [f"k{k}_e{e}" for k in (3, 5, 7) for e in (1, 3, 6)]
    twice = [name for block in blocks for name in (block, block)]
    found = names_of(MobileSupernet(4), torch.randn(2, 3, 16, 16))
    assert found == {tuple(blocks), (*twice, "skip")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", IDIOMS, ids=lambda kind: kind.__name__)
def test_every_idiom_is_named(kind: type[Idiom]) -> None:
    if kind.as_written is not None:
        return
    model: Any = double(kind())
    found = names_of(model, model.inputs(3))
    assert all(name for names in found for name in names)
    if kind.__module__.startswith(("weights_", "mixtures_")) and found:
        assert any(set(names) <= FEW for names in found), found


def dw(kernel_size: int, dilation: int = 1) -> nn.Module:
    return nn.Conv2d(C, C, kernel_size, padding=dilation * (kernel_size // 2), dilation=dilation, groups=C)


def conv(kernel_size: Any, **options: Any) -> nn.Module:
    return nn.Conv2d(C, C, kernel_size, padding="same", **options)


class Functional(nn.Module):
    """Convolutions and poolings as functions."""

    def __init__(self, pools: bool) -> None:
        super().__init__()
        self.pools = pools
        self.weight = nn.Parameter(torch.randn(C, C, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.pools:
            return nn.functional.max_pool2d(x, 3, 1, 1)
        return nn.functional.conv2d(torch.relu(x), self.weight, padding=1)


class Length(nn.Module):
    """Divides by a vector norm, which is no normalization layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x.norm(dim=1, keepdim=True).expand_as(x)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def bottleneck(wide: int, *between: nn.Module) -> list[nn.Module]:
    filters = nn.Conv2d(wide, wide, 5, padding=2, groups=wide)
    return [nn.Conv2d(C, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(), filters, *between, nn.Conv2d(wide, C, 1)]


@pytest.mark.parametrize(
    ("candidate", "name"),
    [
        (nn.Identity(), "skip_connect"),
        (nn.Dropout(0.5), "skip_connect"),
        (nn.Sequential(nn.Dropout(0.5), conv(3)), "conv_3x3"),
        (Zero(), "none"),
        (conv(1), "conv_1x1"),
        (nn.Sequential(conv(3), nn.BatchNorm2d(C), nn.ReLU()), "nor_conv_3x3"),
        (nn.Sequential(nn.ReLU(), conv((1, 7)), conv((7, 1)), nn.BatchNorm2d(C)), "conv_1x7_7x1"),
        (nn.Sequential(conv(3, dilation=2), nn.BatchNorm2d(C)), "nor_conv_3x3_d2"),
        (nn.Sequential(conv(3, groups=2), nn.BatchNorm2d(C)), "nor_conv_3x3_g2"),
        (nn.Sequential(conv(3, padding_mode="reflect"), nn.GroupNorm(1, C)), "nor_conv_3x3"),
        (dw(3), "dw_conv_3x3"),
        (nn.Sequential(nn.ReLU(), dw(3), conv(1), nn.BatchNorm2d(C)), "sep_conv_3x3_x1"),
        (nn.Sequential(nn.ReLU(), dw(5, 2), conv(1), nn.BatchNorm2d(C)), "dil_conv_5x5"),
        (nn.Sequential(nn.ReLU(), dw(5, 3), conv(1), nn.BatchNorm2d(C)), "dil_conv_5x5_d3"),
        (nn.Sequential(dw(3), conv(1), dw(3), conv(1)), "sep_conv_3x3"),
        (nn.Sequential(dw(3), nn.BatchNorm2d(C), nn.ReLU(), conv(1), nn.BatchNorm2d(C)), "mbconv_k3_e1"),
        (nn.Sequential(*bottleneck(6 * C, nn.BatchNorm2d(6 * C), nn.ReLU6())), "mbconv_k5_e6"),
        (nn.Sequential(*bottleneck(6 * C)), "mbconv_k5_e6"),
        (nn.Sequential(Residual(*bottleneck(3 * C)), nn.ReLU()), "mbconv_k5_e3"),
        (nn.Sequential(Residual(conv(3)), nn.ReLU()), "Conv2d 3x3, add, ReLU"),
        (nn.AvgPool2d(3, 1, 1), "avg_pool_3x3"),
        (nn.Sequential(nn.MaxPool2d(5, 1, 2), nn.BatchNorm2d(C)), "max_pool_5x5"),
        (Functional(pools=True), "max_pool_3x3"),
        (Functional(pools=False), "conv_3x3"),
        (nn.Sequential(nn.ReLU(), nn.AvgPool2d(3, 1, 1)), "ReLU, AvgPool2d 3x3"),
        (nn.Tanh(), "Tanh"),
        (Length(), "norm, expand_as"),
        (nn.Sequential(dw(3), conv(1), dw(5), conv(1)), "Conv2d 3x3 dw, Conv2d 1x1, Conv2d 5x5 dw, Conv2d 1x1"),
        (nn.Sequential(conv(3), nn.Tanh(), conv(3), nn.Tanh(), conv(1)), "Conv2d 3x3, Tanh, Conv2d 3x3, and 2 more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_follow_from_the_structure(candidate: nn.Module, name: str) -> None:
    assert names_of(OneEdge(nn.Sigmoid(), candidate)) == {("Sigmoid", name)}


def test_a_block_with_a_skip_around_it() -> None:
    block = Residual(*bottleneck(3 * C))
    assert names_of(OneEdge(nn.Tanh(), block)) == {("Tanh", "mbconv_k5_e3", "mbconv_k5_e3")}


def test_half_the_side_without_a_pool() -> None:
    stride2 = nn.MaxPool2d(3, 2, 1)
    assert names_of(OneEdge(stride2, FactorizedReduce(C, C))) == {("max_pool_3x3", "factorized_reduce")}


def test_names_of_linear_layers() -> None:
    model = OneEdge(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Identity())
    assert names_of(model) == {("linear", "linear", "skip_connect")}


class Keyed(nn.Module):
    """An edge whose candidates have keys."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = nn.ModuleDict({"nothing": Zero(), "pass": nn.Identity(), "small": conv(1), "large": conv(3)})
        self.alphas = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops.values(), strict=True))  # type: ignore[return-value]


class KeyedBackwards(Keyed):
    """Weighs them from the last to the first, and leaves out two."""

    def forward(self, x: Tensor) -> Tensor:
        return self.alphas[0] * self.ops["large"](x) + self.alphas[1] * self.ops["small"](x)


def test_keys_are_names() -> None:
    assert names_of(Keyed()) == {("nothing", "pass", "small", "large")}
    assert names_of(KeyedBackwards()) == {("large", "small")}


class Listed(OneEdge):
    """Holds the names of its candidates."""

    def __init__(self, names: Any, *candidates: nn.Module) -> None:
        super().__init__(*candidates)
        self.names = names


def test_a_list_of_names_as_long_as_the_candidates() -> None:
    assert names_of(Listed(["a", "b"], conv(1), conv(3))) == {("a", "b")}
    assert names_of(Listed(("a", "b"), nn.Identity(), conv(3))) == {("a", "b")}


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a", "a"], ["a", 1], ["a", ""], "ab"], ids=str)
def test_what_is_no_list_of_names(names: Any) -> None:
    assert names_of(Listed(names, conv(1), conv(3))) == {("conv_1x1", "conv_3x3")}


class Network(nn.Module):
    """Holds a list of two names far above the candidates."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.edge = OneEdge(conv(1), conv(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.edge(x)  # type: ignore[no-any-return]


def test_a_list_far_above_has_to_speak_of_the_candidates() -> None:
    assert names_of(Network(["my_conv_1x1", "my_conv_3x3"])) == {("my_conv_1x1", "my_conv_3x3")}
    assert names_of(Network(["train", "test"])) == {("conv_1x1", "conv_3x3")}


def test_what_passes_made_is_named_by_what_it_computes() -> None:
    model = Listed(["a", "b", "c"], *(primitive(f"dil_conv_{k}", C, 1) for k in ("3x3", "5x5")), nn.Identity())
    assert names_of(model) == {("a", "b", "c")}
    assert ("dil_conv_5x5", "skip_connect") in names_of(model, passes=None)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_supernets())
def test_random_supernets_are_named(model: RandomSupernet) -> None:
    for passes in ((UnstackSums(), DetectMixedOps()), None):
        found = names_of(model, torch.randn(2, 2, 8, 8), passes=passes)
        assert all(name for names in found for name in names)
