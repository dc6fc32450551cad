"""Combine terms: equal terms become one, their weights added."""

from operator import getitem

import torch
from torch import nn

import toponas_fx
from nets import Edge, Net, lines_of
from toponas_fx.ops import group_shares, mixed_sum
from toponas_fx.passes import CombineTerms, Deduplicate, DetectMixedOps
from toponas_fx.testing import check_keeps, check_pass

X = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
FIRST = (DetectMixedOps(), Deduplicate())


def test_adds_the_weights_of_equal_terms():
    _, record = check_pass(
        CombineTerms(),
        Edge(nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.ReLU()),
        X,
        after="""
            %0 = input x
            %1 = attr alphas
            %2 = .unbind(%1, 0)
            %3 = getitem(%2, 0)
            %4 = getitem(%2, 1)
            %5 = getitem(%2, 2)
            %6 = getitem(%2, 3)
            %7 = ReLU[ops.0](%0)
            %8 = Tanh[ops.1](%0)
            %9 = add(%3, %5)
            %10 = add(%9, %6)
            %11 = mixed_sum([%7, %8], [%10, %4], (0, 0))
            return %11
        """,
        prerequisites=FIRST,
    )
    assert [change.sentence for change in record.changes] == ["3 equal terms become one, their weights added"]


def test_combines_several_sets():
    net = Edge(nn.ReLU(), nn.Tanh(), nn.ReLU(), nn.Tanh())
    fast, record = check_pass(CombineTerms(), net, X, prerequisites=FIRST)
    assert len(record.changes) == 2
    assert len(lines_of(fast, "mixed_sum")) == 1


def test_keeps_terms_of_different_edges():
    def forward(self, x):
        y = torch.relu(x)
        return sum(w * y for w in self.alphas[0]) + sum(w * y for w in self.alphas[1])

    net = Net(forward, alphas=nn.Parameter(torch.rand(2, 1)))
    assert check_keeps(CombineTerms(), net, X, prerequisites=FIRST) == []


def test_all_shares_of_a_group_leave_the_term_bare():
    net = Edge(nn.ReLU(), nn.ReLU())
    fast = toponas_fx.simplify(net, X, passes=FIRST).train()
    (node,) = [node for node in fast.graph.nodes if node.target is mixed_sum]
    terms, weights, edges = node.args
    with fast.graph.inserting_before(node):
        shares = fast.graph.call_function(group_shares, (list(weights),))
        items = [fast.graph.call_function(getitem, (shares, i)) for i in range(2)]
    node.args = (terms, items, edges)
    (match,) = CombineTerms().plan(fast).matches
    CombineTerms().apply(match, toponas_fx.rewriting.rewriter.Rewriter(fast, "combine-terms"))
    assert not lines_of(fast, "mixed_sum")
    fast.recompile()
    torch.testing.assert_close(fast(X), torch.relu(X))
