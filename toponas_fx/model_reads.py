"""What a graph reads of the model besides the modules that it calls: what moves must not pass such a read or write."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.memory import written_in_place


@dataclass(frozen=True)
class ModelReads:
    """Who uses the modules and tensors of a model, by identity, and which memory changes while the graph runs.

    Attributes:
        uses: for each module, how many nodes run it or take it as an argument, its buffers likewise; for each tensor,
            how many nodes read it.
        written: the tensors of the model that some node writes in place.
        unsteady: the numbers of memory that a node writes in place, or a norm counts in.
    """

    uses: Counter[int]
    written: frozenset[int]
    unsteady: frozenset[int]

    @classmethod
    def of(cls, gm: fx.GraphModule) -> ModelReads:
        """Look at all nodes of a graph."""
        uses: Counter[int] = Counter()
        values: dict[fx.Node, Any] = {}
        for node in gm.graph.nodes:
            if node.op == "call_module":
                uses.update(_parts(gm.get_submodule(str(node.target))))
            elif node.op == "get_attr":
                owner, _, name = str(node.target).rpartition(".")
                values[node] = getattr(gm.get_submodule(owner), name)
            elif node.target in (operator.getitem, getattr) and node.args[0] in values:
                parent, key = values[node.args[0]], node.args[1]
                if not isinstance(parent, Tensor) and not isinstance(key, fx.Node):
                    values[node] = node.target(parent, key)  # an item of a list or dict of the model's
        for value in values.values():
            uses.update(_parts(value) if isinstance(value, nn.Module) else [id(value)])
        memory = written_in_place(gm.graph)
        written = {id(value) for node, value in values.items() if node.meta.get("storage", -1) in memory}
        norms = [module for module in nn.Module.modules(gm) if isinstance(module, nn.modules.batchnorm._NormBase)]
        counted = {id(buffer) for norm in norms for buffer in norm.buffers()}
        read = {node.meta.get("storage", -1) for node, value in values.items() if id(value) in counted}
        return cls(uses, frozenset(written), frozenset(memory | read))


def _parts(module: nn.Module) -> list[int]:
    """Return the identities of a module, of those inside and of their buffers."""
    return [*map(id, module.modules()), *map(id, module.buffers())]


def inputs_from(nodes: Iterable[fx.Node], anchor: fx.Node) -> set[fx.Node]:
    """Return the nodes, and what they are computed from, as far as they do not stand before ``anchor``."""
    found: set[fx.Node] = set()
    queue = list(nodes)
    while queue:
        node = queue.pop()
        if not node < anchor and node not in found:
            found.add(node)
            queue += node.all_input_nodes
    return found
