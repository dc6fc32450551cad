"""The algebra of edges: what it says of well-known spaces, and that the graph computes what it says."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from idiom import Zero, conv, dilated, separable
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet
from topology_cases import C, OneEdge, image
from toponas_fx.analysis.algebra import ARITHMETIC
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps
from toponas_fx.rewriting.pipeline import flatten

ALGEBRA = tuple(entry for entry in DEFAULT_PASSES if all(each.name not in ARITHMETIC for each in flatten([entry])))


def simplified(model: nn.Module, inputs: Any = None, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return toponas_fx.simplify(model, image() if inputs is None else inputs, **options)


def lines_of(model: nn.Module, inputs: Any = None, **options: Any) -> set[tuple[str, str]]:
    return {(edge.before, edge.after) for edge in simplified(model, inputs, **options)._toponas.edges}


SHARED = "conv(dw(relu(BN(W₅,₆·conv(dw(relu x; Σ₅,₆ pᵢ·K̂ᵢ)))); Σ₅,₆ pᵢ·K̂ᵢ) + dw(relu x; Σ₇,₈ pᵢ·K̂ᵢ))"
SEPARATE = "Σ₅,₆ wᵢ·BNᵢ(convᵢ(dwᵢ(relu(BNᵢ(convᵢ(dwᵢ(relu x))))))) + Σ₇,₈ wᵢ·BNᵢ(convᵢ(dwᵢ(relu x)))"
SKIP = ("x", "BN(cat(conv(relu x), conv(part(relu x))))")


def test_nasbench201() -> None:
    assert lines_of(NASBench201Supernet(4, 1), torch.randn(2, 3, 16, 16)) == {
        (
            "w₁·0 + w₂·x + Σ₃,₄ wᵢ·BNᵢ(convᵢ(relu x)) + w₅·avgpool(x)",
            "w₂·x + W·BN(conv(relu x; Σ₃,₄ pᵢ·K̂ᵢ)) + w₅·avgpool(x)",
        )
    }


def test_darts() -> None:
    pools = "w₂·BN(maxpool(x)) + w₃·BN(avgpool(x))"
    assert lines_of(DARTSSupernet(4, 3, steps=2, multiplier=2), torch.randn(2, 3, 16, 16)) == {
        (f"w₁·0 + {pools} + w₄·{skip} + {SEPARATE}", f"{pools} + w₄·{skip} + W₅₋₈·BN({SHARED})") for skip in SKIP
    }


def test_without_sharing_norms_stay() -> None:
    assert lines_of(OneEdge(Zero(), conv(1), conv(3)), mode="exact") == {
        ("w₁·0 + Σ₂,₃ wᵢ·BNᵢ(convᵢ(relu x))", "Σ₂,₃ wᵢ·BNᵢ(convᵢ(relu x))")
    }


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


@pytest.mark.parametrize(
    ("candidates", "before", "after"),
    [
        ((conv(1), conv(3)), "Σ wᵢ·BNᵢ(convᵢ(relu x))", "W·BN(conv(relu x; Σ pᵢ·K̂ᵢ))"),
        ((nn.Identity(), conv(3)), "w₁·x + w₂·BN(conv(relu x))", "w₁·x + w₂·BN(conv(relu x))"),
        ((nn.Conv2d(C, C, 1), nn.Conv2d(C, C, 3, 1, 1)), "Σ wᵢ·convᵢ(x)", "conv(x; Σ wᵢ·Kᵢ)"),
        ((nn.Tanh(), nn.Identity(), nn.Identity()), "w₁·tanh x + Σ₂,₃ wᵢ·x", "w₁·tanh x + (Σ₂,₃ wᵢ)·x"),
        (
            (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
            "w₁·leakyrelu x + w₂·leakyrelu x",
            "w₁·leakyrelu x + w₂·leakyrelu x",
        ),
        (
            (nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(5, 1, 2)),
            "Σ wᵢ·maxpoolᵢ(x)",
            "Σ wᵢ·maxpoolᵢ(x)",
        ),
        (
            (Residual(nn.Conv2d(C, C, 3, padding=1)), nn.Tanh()),
            "w₁·conv(x) + w₁·x + w₂·tanh x",
            "w₁·conv(x) + w₁·x + w₂·tanh x",
        ),
        (
            (nn.MaxPool2d(3, 1, 1), nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(C))),
            "w₁·maxpool(x) + w₂·BN(maxpool(x))",
            "w₁·u + w₂·BN(u), u = maxpool(x)",
        ),
        (
            tuple(nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU(), nn.MaxPool2d(k, 1, k // 2)) for k in (3, 5)),
            "Σ wᵢ·maxpoolᵢ(relu(convᵢ(x)))",
            "Σ wᵢ·maxpoolᵢ(relu(conv(x)))",
        ),
        ((Gate(), nn.Tanh()), "w₁·x·(sigmoid x) + w₂·tanh x", "w₁·x·(sigmoid x) + w₂·tanh x"),
        (
            (nn.Sequential(nn.GroupNorm(1, C), nn.Dropout(0.5)), nn.Tanh()),
            "w₁·dropout(GN(x)) + w₂·tanh x",
            "w₁·dropout(GN(x)) + w₂·tanh x",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_edge(candidates: tuple[nn.Module, ...], before: str, after: str) -> None:
    assert lines_of(OneEdge(*candidates)) == {(before, after)}


def test_what_several_terms_read_stands_once() -> None:
    assert lines_of(OneEdge(nn.Identity(), nn.Identity())) == {("Σ wᵢ·u, u = conv(x)", "(Σ wᵢ)·conv(x)")}


class Masked(nn.Module):
    """A convolution whose kernel is computed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C, C, size, size))
        self.register_buffer("mask", torch.ones(size, size))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.mask, padding="same")


def test_kernels_that_are_nobodys_parameter_are_merged_and_no_more_is_said() -> None:
    assert lines_of(OneEdge(Masked(1), Masked(3))) == {("Σ wᵢ·convᵢ(x)", "conv(x; merged)")}


class TwoEdges(nn.Module):
    """Two edges from one value to one sum."""

    def __init__(self, *others: nn.Module) -> None:
        super().__init__()
        kernels = (nn.Conv2d(C, C, size, padding="same") for size in (1, 3))
        self.edges = nn.ModuleList(nn.ModuleList([kernel, *others]) for kernel in kernels)
        self.alphas = nn.Parameter(torch.rand(2, 1 + len(others)))
        self.stem = nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        sums = (
            sum(w * op(x) for w, op in zip(row, ops, strict=True))
            for row, ops in zip(self.alphas, self.edges, strict=True)
        )
        return sum(sums)  # type: ignore[return-value]


def test_what_went_to_another_edge_is_an_ellipsis() -> None:
    assert lines_of(TwoEdges(nn.Tanh())) == {
        ("w₁·conv(x) + w₂·tanh x", "conv(x; merged) + w₂·tanh x"),
        ("w₁·conv(x) + w₂·tanh x", "w₂·tanh x + …"),
    }


def test_edges_that_became_one_operation_are_an_ellipsis() -> None:
    assert {after for _, after in lines_of(TwoEdges())} == {"…"}


def test_algebra_is_that_before_other_arithmetic() -> None:
    model = OneEdge(conv(1), conv(3), nn.Identity())
    assert lines_of(model) == lines_of(model, passes=ALGEBRA)
    assert lines_of(model, passes=(DetectMixedOps(),)) == {(line := "Σ₁,₂ wᵢ·BNᵢ(convᵢ(relu x)) + w₃·x", line)}


def norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def hat(kernel: Tensor) -> Tensor:
    return kernel * kernel.shape[0] ** 0.5 / kernel.norm()


def padded(kernels: list[Tensor], shares: Tensor) -> Tensor:
    size = max(kernel.shape[-1] for kernel in kernels)
    grown = [F.pad(kernel, [(size - kernel.shape[-1]) // 2] * 4) for kernel in kernels]
    return sum(p * kernel for p, kernel in zip(shares, grown, strict=True))  # type: ignore[return-value]


@pytest.mark.usefixtures("float64")
def test_the_line_of_an_edge_is_what_it_computes() -> None:
    model = OneEdge(nn.Identity(), conv(1), conv(3))
    assert lines_of(model) == {("w₁·x + Σ₂,₃ wᵢ·BNᵢ(convᵢ(relu x))", "w₁·x + W·BN(conv(relu x; Σ₂,₃ pᵢ·K̂ᵢ))")}
    with torch.no_grad():
        model.alphas.abs_()
    fast, y = simplified(model), image()
    x, w = model.stem(y), model.alphas
    W = w[1:].sum()
    kernel = padded([hat(model.ops[i][1].weight) for i in (1, 2)], w[1:] / W)
    torch.testing.assert_close(fast(y), w[0] * x + W * norm(F.conv2d(x.relu(), kernel, padding=1)))


@pytest.mark.usefixtures("float64")
def test_the_line_of_stages_that_meet_is_what_they_compute() -> None:
    model = OneEdge(separable(3), separable(5), dilated(3), dilated(5))
    line = SHARED.translate(str.maketrans("₅₆₇₈", "₁₂₃₄"))
    assert {after for _, after in lines_of(model)} == {f"W₁₋₄·BN({line})"}
    with torch.no_grad():
        model.alphas.abs_()
    fast, y = simplified(model), image()
    x, w = model.stem(y), model.alphas
    kernels = [[hat(layer.weight) for layer in op if isinstance(layer, nn.Conv2d)] for op in model.ops]
    p = w / w.sum()
    q = p[:2] / p[:2].sum()
    first = F.conv2d(x.relu(), padded([kernels[0][0], kernels[1][0]], q), padding=2, groups=C)
    u = norm(F.conv2d(first, kernels[0][1])).relu()
    second = F.conv2d(u, padded([kernels[0][2], kernels[1][2]], p[:2]), padding=2, groups=C)
    alone = F.conv2d(x.relu(), padded([kernels[2][0], kernels[3][0]], p[2:]), padding=4, dilation=2, groups=C)
    torch.testing.assert_close(fast(y), w.sum() * norm(F.conv2d(second + alone, model.ops[0][6].weight)))
