"""Whether a value may become a part of a larger tensor: a view, which lies in memory otherwise than it did."""

from __future__ import annotations

from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.effects import is_hooked
from toponas_fx.analysis.mixed_ops import is_mixed_sum
from toponas_fx.ops.registry import facts

_READS_LAYOUT = ("view", "view_as", "as_strided")


def why_not_a_part(gm: fx.GraphModule, node: fx.Node) -> str | None:
    """Return why a node's value may not be a part of a larger tensor, or None where it may.

    Autograd lets nobody write to one of several parts, neither in the graph nor where it is returned; and what lay in
    order in memory does so no longer.
    """
    aliases = [node]
    for alias in aliases:
        memory = alias.meta.get("storage")
        for reader in alias.users:
            written = reader.meta.get("mutates")
            if written and (memory is None or memory in written):
                return "its result is written in place"
            if reader.op == "output":
                return "its result is returned, and the caller may write to it"
            if _depends_on_layout(gm, reader):
                return f"`{reader.target}` reads its result and may depend on how that lies in memory"
            if _is_alias(reader, memory) and reader not in aliases:
                aliases.append(reader)
    return None


def _is_alias(reader: fx.Node, memory: int | None) -> bool:
    """Return whether a reader of some memory may return the same memory."""
    if is_mixed_sum(reader) and len(reader.args[0]) == 1:  # type: ignore[arg-type]
        return True
    return facts(reader.target).may_pass_on or (memory is not None and reader.meta.get("storage") == memory)


def _depends_on_layout(gm: fx.GraphModule, reader: fx.Node) -> bool:
    if reader.op == "call_module":
        module = gm.get_submodule(str(reader.target))
        return is_hooked(module) or not type(module).__module__.startswith("torch.nn.modules")
    return isinstance(reader.target, ops.ApplyFunction) or reader.target in _READS_LAYOUT
