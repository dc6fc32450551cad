"""Drop the terms of a mixed operation that are identically zero.

Before::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = mul(%0, 0.0)
    %4 = getitem(%1, 1)
    %5 = relu(%0)
    %6 = mixed_sum([%3, %5], [%2, %4], (0, 0))
    return %6

After::

    %0 = input x
    %1 = attr alphas
    %2 = getitem(%1, 0)
    %3 = getitem(%1, 1)
    %4 = relu(%0)
    %5 = mixed_sum([%4], [%3], (0,))
    return %5

``0 * x`` is zero for finite x, so the term adds nothing and its weight gets the gradient 0: what a weight that is
one element of a row gets anyway once other elements of that row are read. A weight whose tensor nothing else in the
sum reads keeps a term of its own, the number 0, so that its gradient is 0 and not None.

Refuses:

1. the last term of a sum: something must remain to give the sum its shape;
2. a zero made from what nothing else reads: trained tensors above it have the gradient 0, and would have None.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from toponas_fx.analysis.arms import home
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.zero_terms import is_zero
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.sum_terms import SumTerms


@dataclass(frozen=True)
class ZeroTerms:
    """The zero terms of one sum, by position; ``kept`` are those whose weight needs a gradient path."""

    sum_node: fx.Node
    dropped: tuple[int, ...]
    kept: tuple[int, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The sum, and the zero terms."""
        terms: Any = self.sum_node.args[0]
        return (self.sum_node, *(terms[i] for i in (*self.dropped, *self.kept)))

    def describe(self) -> str:
        """Say how many terms go."""
        count = len(self.dropped) + len(self.kept)
        return f"{count} zero candidate{'s' if count > 1 else ''} dropped"


@dataclass(frozen=True)
class DropZeroCandidates(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "drop-zero-candidates"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.REDUCE

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find sums with zero terms."""
        matches: list[ZeroTerms] = []
        refusals: list[Refusal] = []
        memory = Memory.of(gm)
        gone: set[fx.Node] = set()
        for node in gm.graph.nodes:
            if not is_mixed_sum(node):
                continue
            terms: Any = node.args[0]
            zeros = [i for i, term in enumerate(terms) if is_zero(term, memory)]
            real = [i for i, term in enumerate(terms) if isinstance(term, fx.Node) and i not in zeros]
            lone = []
            for i in zeros:
                lone += [i] if _reads_alone(gm, terms[i], gone) else []
                gone |= set() if i in lone else {terms[i]}
            if zeros and not real:
                if home(node) is None:  # an arm of a choice is one candidate, which may well be zero
                    reason = "all its candidates are zero; one gives the shape"
                    refusals.append(Refusal((node, terms[zeros[0]]), reason))
                lone = lone or zeros[:1]
            elif lone:
                refusals.append(Refusal((node, terms[lone[0]]), "nothing else reads what the zero is made from"))
            zeros = [i for i in zeros if i not in lone]
            if zeros:
                matches.append(_split_by_gradient(node, zeros))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: ZeroTerms, rewriter: Rewriter) -> None:
        """Remove the terms from the sum."""
        found, zeros = SumTerms(match.sum_node), match.nodes[1:]
        for position in match.kept:
            found.terms[position] = 0.0
        found.drop(match.dropped)
        found.write(rewriter, is_kept=True)
        rewriter.erase_unread(node for node in zeros if not node.users)


def _reads_alone(gm: fx.GraphModule, zero: fx.Node, gone: set[fx.Node]) -> bool:
    """Return whether some trained tensor, or an input, has a gradient by way of a zero only, once others are gone.

    What other arms of choices read may not run.
    """
    region, queue = {*gone, zero}, [zero]
    while queue:
        for value in queue.pop().all_input_nodes:
            if value in region or not {user for user in value.users if home(user) in (None, home(zero))} <= region:
                continue
            module = gm.get_submodule(str(value.target)) if value.op == "call_module" else None
            has_parameters = module is not None and next(module.parameters(), None) is not None
            if has_parameters or value.op in ("placeholder", "get_attr"):
                return True
            region.add(value)
            queue.append(value)
    return False


def _split_by_gradient(node: fx.Node, zeros: list[int]) -> ZeroTerms:
    terms: Any = node.args[0]
    weights: Any = node.args[1]
    alive = {root for i in range(len(terms)) if i not in zeros for root in _roots(weights[i])}
    kept = tuple(i for i in zeros if not set(_roots(weights[i])) <= alive)
    return ZeroTerms(node, tuple(i for i in zeros if i not in kept), kept)


def _roots(weight: Any) -> Iterator[Any]:
    """Yield the tensors of the model that a weight is computed from, each as the path that reads it."""
    if not isinstance(weight, fx.Node):
        return
    if weight.op == "get_attr" or not weight.all_input_nodes:
        yield str(weight.target) if weight.op == "get_attr" else weight
    elif weight.target is operator.getitem and _is_plain_read(weight):
        yield _read_path(weight)
    else:
        for parent in weight.all_input_nodes:
            yield from _roots(parent)


def _is_plain_read(node: fx.Node) -> bool:
    """Return whether an item is taken of a list or dict of the model, not of a tensor."""
    parent: Any = node.args[0]
    if parent.op == "get_attr":
        return "type" not in parent.meta
    return parent.target in (operator.getitem, getattr) and "type" not in parent.meta and _is_plain_read(parent)


def _read_path(node: Any) -> Any:
    return str(node.target) if node.op == "get_attr" else (_read_path(node.args[0]), node.args[1])


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alphas = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.alphas[0] * x.mul(0.0) + self.alphas[1] * torch.relu(x)
            return total

    return Example(), torch.ones(1, 2)
