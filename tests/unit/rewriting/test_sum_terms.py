"""Editing the terms of a mixed sum."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import toponas_fx
from toponas_fx import ops
from toponas_fx.passes import DetectMixedOps
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        candidates = (torch.relu, torch.tanh, torch.sigmoid)
        return sum(w * op(x) for w, op in zip(self.alphas, candidates, strict=True)).exp()  # type: ignore[union-attr]


def edited() -> tuple[SumTerms, Rewriter]:
    gm = toponas_fx.simplify(Three(), torch.ones(1, 2), passes=(DetectMixedOps(),)).train()
    (node,) = (node for node in gm.graph.nodes if node.target is ops.mixed_sum)
    return SumTerms(node), Rewriter(gm, "test")


def test_a_term_takes_the_place_of_several() -> None:
    found, rewriter = edited()
    relu, tanh, sigmoid = found.terms
    weights = list(found.weights)
    found.put(0, sigmoid, weights[2])
    found.drop([2])
    found.write(rewriter)
    assert found.node.args == ([sigmoid, tanh], weights[2:] + weights[1:2], (0, 0))
    assert not relu.users


def test_a_value_alone_takes_the_place_of_the_sum() -> None:
    found, rewriter = edited()
    tanh, (reader,) = found.terms[1], list(found.node.users)
    found.put(1, tanh, 1.0)
    found.drop([0, 2])
    found.write(rewriter)
    assert reader.args[0] is tanh
    assert found.node._erased


def test_a_number_alone_stays_a_sum() -> None:
    found, rewriter = edited()
    found.put(0, 0.0, 1.0)
    found.drop([1, 2])
    found.write(rewriter)
    assert found.node.args == ([0.0], [1.0], (0,))
