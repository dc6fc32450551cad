"""What a graph reads of the model besides the modules that it calls: what moves must not pass such a read or write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn

from toponas_fx.analysis.memory import Memory, model_values
from toponas_fx.ir import known_facts


@dataclass(frozen=True)
class ModelReads:
    """Who uses the modules and tensors of a model, by identity, and which memory changes while the graph runs.

    Attributes:
        uses: for each module, how many nodes run it or take it as an argument, its buffers likewise; for each tensor,
            how many nodes read it.
        memory: what the nodes touch and write.
        written: the tensors of the model that some node writes in place, or counts in.
    """

    uses: Counter[int]
    memory: Memory
    written: frozenset[int]

    @classmethod
    def of(cls, gm: fx.GraphModule) -> ModelReads:
        """Look at all nodes of a graph."""
        found: ModelReads = _reads_of(gm)
        return found


@known_facts.of_graph
def _reads_of(gm: fx.GraphModule) -> ModelReads:
    uses: Counter[int] = Counter()
    for node in gm.graph.nodes:
        if node.op == "call_module":
            for part in _parts(gm.get_submodule(str(node.target))):
                uses[part] += 1
    values = model_values(gm)
    for value in values.values():
        uses.update(_parts(value) if isinstance(value, nn.Module) else [id(value)])
    memory = Memory.of(gm)
    written = {id(value) for node, value in values.items() if memory.is_written(node)}
    return ModelReads(uses, memory, frozenset(written))


@known_facts.of_module
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
