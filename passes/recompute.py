"""Compute cheap operations again in the backward pass, from inputs that are kept anyway.

Before::

    %0 = input x
    %1 = Conv2d[stem](%0)
    %2 = Conv2d[a](%1)
    %3 = ReLU[relu](%1)
    %4 = Conv2d[b](%3)
    %5 = add(%2, %4)
    return %5

After::

    %0 = input x
    %1 = Conv2d[stem](%0)
    %2 = Conv2d[a](%1)
    %3 = relu(%1)
    %4 = Conv2d[b](%3)
    %5 = add(%2, %4)
    return %5

An option, for memory (``simplify(model, recompute=True)``): ``recomputing.relu`` and its like keep neither their
result nor where a maximum was, but how to make them again. No norm runs twice, so running statistics move as before.

Refuses:

1. an operation whose input nothing else keeps: one tensor would be kept in the place of another;
2. one whose input is written in place in the graph, comes from the caller or goes back there, who may write to it;
3. poolings of other than ``f32[N,C,H,W]``, that return where the maximum was, or divide by a number of their own;
   activations in place; modules with hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from toponas_fx.analysis.effects import is_hooked
from toponas_fx.analysis.linear_ops import linear_op
from toponas_fx.analysis.memory import Memory
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.analysis.module_signature import is_norm
from toponas_fx.analysis.pooling_ops import avg_pool, max_pool
from toponas_fx.ops import average_pooling, recomputing
from toponas_fx.ops.registry import facts
from toponas_fx.rewriting.pass_base import Pass, Plan, Refusal, Semantics, Stage
from toponas_fx.rewriting.rewriter import Rewriter


@dataclass(frozen=True)
class Cheap:
    """An operation that is computed again."""

    node: fx.Node
    target: Callable[..., Tensor]
    args: tuple[Any, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """Where it is computed."""
        return (self.node,)

    def describe(self) -> str:
        """Name the operation."""
        return f"`{self.target.__name__}` is computed again in the backward pass"


@dataclass(frozen=True)
class Recompute(Pass):
    """See the module's docstring."""

    name: ClassVar[str] = "recompute"
    semantics: ClassVar[Semantics] = Semantics.EXACT
    stage: ClassVar[Stage] = Stage.FINISH

    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find cheap operations whose input something else keeps."""
        found = [cheap for cheap in (_read(gm, node) for node in gm.graph.nodes) if cheap is not None]
        cheap_nodes = {cheap.node for cheap in found}
        memory = Memory.of(gm)
        returned = {node.meta.get("storage", -1) for node in _returned(gm.graph)}
        matches: list[Cheap] = []
        refusals: list[Refusal] = []
        for cheap in found:
            value: fx.Node = cheap.args[0]
            place = value.meta.get("storage", -2)
            if value.op in ("placeholder", "get_attr") or place in returned or value in _returned(gm.graph):
                reason = "its input belongs to the caller or to the model, who may write to it"
            elif memory.is_written(value):
                reason = "its input is written in place"
            elif not any(_keeps(gm, user, value, cheap_nodes) for user in value.users if user is not cheap.node):
                reason = "nothing else keeps its input"
            else:
                matches.append(cheap)
                continue
            refusals.append(Refusal((cheap.node,), reason))
        return Plan(tuple(matches), tuple(refusals))

    def apply(self, match: Cheap, rewriter: Rewriter) -> None:
        """Put the operation that keeps a recipe in the place of the other."""
        with rewriter.before(match.node):
            fresh = rewriter.call_function(match.target, match.args, type=match.node.meta.get("type"))
        rewriter.replace(match.node, fresh)


def _read(gm: fx.GraphModule, node: fx.Node) -> Cheap | None:
    """Read a node as an operation that can be computed again."""
    if _is_relu(gm, node):
        return Cheap(node, recomputing.relu, (node.args[0],))
    if node.target is average_pooling.avg_pool2d:
        return Cheap(node, recomputing.avg_pool2d, tuple(node.args))
    mean = avg_pool(gm, node)
    if mean is not None:
        return Cheap(node, recomputing.avg_pool2d, (mean.value, *mean.window))
    largest = max_pool(gm, node)
    return None if largest is None else Cheap(node, recomputing.max_pool2d, largest)


def _is_relu(gm: fx.GraphModule, node: fx.Node) -> bool:
    if not node.args or not isinstance(node.args[0], fx.Node) or any(node.args[1:]) or any(node.kwargs.values()):
        return False
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        return type(module) is nn.ReLU and not module.inplace and not is_hooked(module)
    return node.target in (F.relu, torch.relu) or (node.op == "call_method" and node.target == "relu")


def _returned(graph: fx.Graph) -> list[fx.Node]:
    (output,) = (node for node in graph.nodes if node.op == "output")
    found: list[fx.Node] = output.all_input_nodes
    return found


def _keeps(gm: fx.GraphModule, reader: fx.Node, value: fx.Node, cheap: set[fx.Node]) -> bool:
    """Return whether a reader of a value keeps it for the backward pass, or would if it were computed again."""
    if reader in cheap or facts(reader.target).keeps_input:
        return True
    if is_mixed_sum(reader):
        terms: Any = zip(reader.args[0], reader.args[1], strict=True)  # type: ignore[arg-type]
        return any(term is value and isinstance(weight, fx.Node) for term, weight in terms)
    operation = linear_op(gm, reader)
    if operation is not None:
        return operation.value is value
    return reader.op == "call_module" and is_norm(gm.get_submodule(str(reader.target)))


def example() -> tuple[nn.Module, Tensor]:
    """Return a module that the docstring's rewrite applies to, and its input."""

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = (nn.Conv2d(2, 2, 1, bias=False) for _ in range(3))
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            total: Tensor = self.a(x) + self.b(self.relu(x))
            return total

    return Example(), torch.ones(1, 2, 4, 4)
