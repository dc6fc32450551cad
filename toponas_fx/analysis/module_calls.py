"""Which calls of modules are alike, and whether one module may take the place of several."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked, is_pure_module
from toponas_fx.analysis.model_reads import ModelReads
from toponas_fx.analysis.module_signature import is_norm, signature
from toponas_fx.analysis.norm_inputs import Reads, feeding_kernels, why_not_normalizable
from toponas_fx.ir.decisions import sharing_of


@dataclass(frozen=True)
class ModuleCalls:
    """The calls of modules in one graph.

    Attributes:
        gm: the model.
        reads: who reads which parameter.
        model: who uses the modules and their buffers, and which memory changes.
        tied: ids of modules that took the place of others, once that is decided; None before.
    """

    gm: fx.GraphModule
    reads: Reads
    model: ModelReads
    tied: frozenset[int] | None

    @classmethod
    def of(cls, gm: fx.GraphModule) -> ModuleCalls:
        """Look over a model's graph."""
        sharing = sharing_of(gm)
        tied = frozenset(id(gm.get_submodule(kept)) for kept in sharing.ties.values()) if sharing.is_decided else None
        return cls(gm, Reads.of(gm), ModelReads.of(gm), tied)

    def module(self, call: fx.Node) -> nn.Module:
        """Return the module that a node calls."""
        return self.gm.get_submodule(str(call.target))

    def owns_tensors(self, call: fx.Node) -> bool:
        """Return whether a call's module has parameters or buffers: others are no module to share."""
        module = self.module(call)
        return bool([*module.parameters(), *module.buffers()])

    def is_norm(self, node: Any) -> bool:
        """Return whether a node calls a norm with one argument."""
        return _is_plain_call(node) and is_norm(self.module(node))

    def likeness(self, node: Any) -> Any:
        """Return what alike calls have in common, or None where a node calls no module with one argument.

        Before sharing is decided, alike are modules of one signature on inputs of one type; afterwards only modules
        that were decided to be one.
        """
        if not _is_plain_call(node):
            return None
        module, has_gradients = self.module(node), node.meta.get("grad", True)
        if self.tied is not None:
            return (id(module), has_gradients) if id(module) in self.tied else None
        return signature(module), has_gradients, node.args[0].meta.get("type")

    def why_not(self, call: fx.Node) -> str | None:
        """Return why a call's module cannot be shared with calls on other values, or None where it can."""
        reason = self.why_not_tied(call)
        if reason is not None or self.tied is not None or not is_norm(self.module(call)):
            return reason
        return self._why_not_calibrated(call)

    def why_not_tied(self, call: fx.Node) -> str | None:
        """Return why a call's module cannot be tied to another that runs on the same value, or None where it can."""
        if self.tied is not None:
            return None
        module = self.module(call)
        if not is_pure_module(module) and (not is_norm(module) or is_hooked(module)):
            return "a module draws at random, writes in place, has hooks or is none whose effects are known"
        if self.model.uses[id(module)] > 1:
            return "a module runs in several places"
        if any(self.model.uses[id(buffer)] > 1 for buffer in module.buffers()):
            return "something else reads what a norm counts"
        return None

    def why_not_moved(self, call: fx.Node, place: fx.Node) -> str | None:
        """Return why a call cannot run right before ``place``; what its module counts is counted once for all calls."""
        memory = self.model.memory
        late = memory.passed(call, place) - memory.writes.get(call, frozenset())
        return "what a module reads is written in place before the modules that it would run with" if late else None

    def _why_not_calibrated(self, call: fx.Node) -> str | None:
        kernels = feeding_kernels(self.gm, call.args[0])  # type: ignore[arg-type]
        if not kernels:
            return f"what feeds `{call.target}` is no convolution or linear layer whose kernel could be normalized"
        reasons = (why_not_normalizable(self.gm, operation, self.reads) for operation in kernels)
        return next((reason for reason in reasons if reason is not None), None)


def why_not_together(weights: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, str]:
    """Return why some of several calls, each with its candidate's weight, cannot be shared with those before them."""
    reasons: dict[fx.Node, str] = {}
    taken: set[fx.Node] = set()
    for call, weight in weights.items():
        own = set(_behind(weight))
        if taken.isdisjoint(own):
            taken |= own
        else:
            reasons[call] = "another candidate carries the same weight: where one runs, both do"
    return reasons


def _behind(weight: Any) -> Iterator[fx.Node]:
    """Yield the user's weights that a group's weight, or a share in one, is made of; others are themselves."""
    parent, index = weight.args if weight.target is operator.getitem else (weight, None)
    if parent.target is operator.getitem and parent.args[0].target is ops.group_weight and parent.args[1] == 1:
        yield from _behind(parent.args[0].args[0][index])  # the shares are the group's second value
    elif parent.target is ops.group_shares:
        yield from _behind(parent.args[0][index])
    elif parent.target is ops.group_weight:
        for member in parent.args[0]:
            yield from _behind(member)
    else:
        yield weight


def _is_plain_call(node: Any) -> bool:
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    return isinstance(node.args[0], fx.Node)
