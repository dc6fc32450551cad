"""Fold scales: normalized kernels that are merged without being written out."""

import pytest
import torch
from torch import nn

import toponas_fx
from nets import Net, lines_of
from toponas_fx.passes import (
    DEFAULT_PASSES,
    BatchKernels,
    DetectMixedOps,
    FoldScales,
    MergeKernels,
    NormalizeKernels,
    ShareModules,
)
from toponas_fx.testing import check_keeps, check_pass
from toponas_fx.testing.rewrites import text_of

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(), ShareModules(), NormalizeKernels(), MergeKernels())


def conv_norm(size, bias=False, dilation=1):
    conv = nn.Conv2d(4, 4, size, padding=dilation * (size // 2), bias=bias, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(4))


def mixed(self, x):
    return sum(w * op(x) for w, op in zip(self.alphas, self.edge, strict=True))


def edge(*candidates):
    return Net(mixed, alphas=nn.Parameter(torch.linspace(0.3, 0.7, len(candidates))), edge=nn.ModuleList(candidates))


@pytest.mark.parametrize("bias", [False, True])
def test_multiplies_weights_instead_of_kernels(bias):
    net = edge(conv_norm(1, bias), conv_norm(3, bias), conv_norm(3, bias, dilation=2))
    fast, record = check_pass(FoldScales(), net, X, prerequisites=(*FIRST[:-1], MergeKernels(slack=float("inf"))))
    assert len(record.changes) == 3
    assert record.changes[0].sentence == "the scale of `edge.0.0.weight` is folded into its weight"
    assert len(lines_of(fast, "kernel_scale")) == 3
    (merged,) = lines_of(fast, "merge_kernels")
    products = {line.split(" = ")[0].strip() for line in text_of(fast).splitlines() if " = mul(" in line}
    assert products >= set(merged.split("], [")[1].split("]")[0].split(", "))


def test_the_kernel_that_counts_as_it_is():
    """Inside a shared norm's sum a term may have no weight."""

    def forward(self, x):
        return self.norm(self.a(x) + self.alphas[0] * self.b(x))

    net = Net(forward, alphas=nn.Parameter(torch.rand(1)), norm=nn.BatchNorm2d(4), a=conv_norm(1)[0], b=conv_norm(3)[0])
    check_keeps(FoldScales(), net, X, prerequisites=FIRST)


def test_refuses_kernels_normalized_per_filter():
    first = (*FIRST[:2], NormalizeKernels(per="filter"), MergeKernels())
    check_keeps(FoldScales(), edge(conv_norm(1), conv_norm(3)), X, "one number for each filter", first)


def test_refuses_what_is_written_out_anyway():
    fast = toponas_fx.simplify(edge(conv_norm(1), conv_norm(3)), X, passes=FIRST).train()
    (merging,) = (node for node in fast.graph.nodes if getattr(node.target, "__name__", "") == "merge_kernels")
    kernel = merging.args[0][0]
    with fast.graph.inserting_after(kernel):
        fast.graph.call_method("sum", (kernel,))
    plan = FoldScales().plan(fast)
    assert [refusal.reason for refusal in plan.refusals] == ["something besides merging reads the normalized kernel"]
    assert len(plan.matches) == 1


def test_small_kernels_are_batched_before():
    assert [type(entry) for entry in DEFAULT_PASSES].index(BatchKernels) < [type(e) for e in DEFAULT_PASSES].index(
        FoldScales
    )
