"""The one way to change a graph: unique names, known types, and a note on every node of who made it from what."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import fx, nn

from toponas_fx.analysis import arms
from toponas_fx.errors import PassError
from toponas_fx.ir import known_facts
from toponas_fx.ir.decisions import NormalizedKernel, sharing_of
from toponas_fx.ir.printer import format_graph
from toponas_fx.ir.tensor_type import TensorType


class Rewriter:
    """Changes the graph of ``gm`` on behalf of one pass.

    Attributes:
        gm: the model.
        pass_name: who is at work.
    """

    def __init__(self, gm: fx.GraphModule, pass_name: str) -> None:
        """Bind the rewriter to a model and a pass."""
        self.gm = gm
        self.pass_name = pass_name
        self._origins: list[fx.Node] = []
        self._replaced: dict[fx.Node, fx.Node] = {}
        self._paths: dict[nn.Module, list[str]] = {}
        self._calls: dict[str, list[fx.Node]] = {}

    @contextmanager
    def before(self, anchor: fx.Node, *origins: fx.Node) -> Iterator[None]:
        """Insert new nodes before ``anchor``; they stem from ``origins`` (from ``anchor`` where none are given)."""
        outer, self._origins = self._origins, list(origins) or [anchor]
        try:
            with self.gm.graph.inserting_before(self._known(anchor)):
                yield
        finally:
            self._origins = outer

    def after(self, anchor: fx.Node, *origins: fx.Node) -> AbstractContextManager[None]:
        """Insert new nodes right after ``anchor``; they stem from ``origins``."""
        return self.before(anchor.next, *origins)

    def call_function(
        self, target: Callable[..., Any], args: tuple[Any, ...], *, type: TensorType | None = None, **kwargs: Any
    ) -> fx.Node:
        """Add a call of a function."""
        return self._note(self.gm.graph.call_function(target, args, kwargs), type)

    def call_module(self, path: str, args: tuple[Any, ...], *, type: TensorType | None = None) -> fx.Node:
        """Add a call of the module at ``path``."""
        node = self._note(self.gm.graph.create_node("call_module", path, args), type)
        if self._paths:
            self._calls.setdefault(path, []).append(node)
        return node

    def read(self, path: str, *, type: TensorType | None = None) -> fx.Node:
        """Add a node that reads the parameter, buffer or tensor attribute at ``path``."""
        return self._note(self.gm.graph.create_node("get_attr", path), type)

    def parameter(self, path: str) -> fx.Node:
        """Add a node that reads the parameter at a path, and has its type."""
        return self.read(path, type=TensorType.of(self.gm.get_parameter(path)))

    def tensor(self, value: Any) -> Any:
        """Return the node of a value: itself where it is one, a read of the parameter where it is a path, or None."""
        return self.parameter(value) if isinstance(value, str) else value

    def item(self, node: fx.Node, key: Any, *, type: TensorType | None = None) -> fx.Node:
        """Add ``node[key]``."""
        return self.call_function(operator.getitem, (node, key), type=type)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every reader of ``old`` read ``new``, and remove ``old``.

        Raises:
            PassError: both types are known and differ.
        """
        known_facts.graph_changed()
        self._known(old), self._known(new)
        before, after = old.meta.get("type"), new.meta.get("type")
        if before is not None and after is not None and before != after:
            around = format_graph(self.gm, around=old)
            raise PassError(f"pass '{self.pass_name}' replaces {before} by {after}:\n{around}")
        if before is not None:
            new.meta["type"] = before
        for key in ("storage", "order"):  # views of the old value are views of the new one now
            if key in old.meta:
                new.meta.setdefault(key, old.meta[key])
        new.meta["stands_for"] = (*new.meta.get("stands_for", ()), old.name, *old.meta.get("stands_for", ()))
        old.replace_all_uses_with(new)
        self.erase(old)
        self._replaced[old] = new

    def current(self, match: Any) -> Any:
        """Return a match, or a part of one, with the nodes that took the place of those replaced since the plan."""
        return fx.node.map_aggregate(match, self._current) if self._replaced else match

    def _current(self, part: Any) -> Any:
        while isinstance(part, fx.Node) and part in self._replaced:
            part = self._replaced[part]
        if not dataclasses.is_dataclass(part) or isinstance(part, type):
            return part
        values = {field.name: self.current(getattr(part, field.name)) for field in dataclasses.fields(part)}
        return dataclasses.replace(part, **values)

    def update(self, node: fx.Node, args: Sequence[Any]) -> None:
        """Give a node other arguments."""
        known_facts.graph_changed()
        self._known(node).args = tuple(args)
        self._check_inputs(node)

    def redirect(self, reader: fx.Node, old: fx.Node, new: fx.Node) -> None:
        """Let one reader read ``new`` where it reads ``old``."""
        known_facts.graph_changed()
        self._known(reader).replace_input_with(old, self._known(new))

    def erase(self, node: fx.Node) -> None:
        """Remove a node that nobody reads."""
        known_facts.graph_changed()
        self.gm.graph.erase_node(self._known(node))

    def erase_unread(self, nodes: Iterable[fx.Node]) -> None:
        """Remove those of the nodes that nobody reads, readers before what they read."""
        for node in sorted(set(nodes), reverse=True):
            if not node.users:
                self.erase(node)

    def hoist(self, nodes: Iterable[fx.Node], anchor: fx.Node) -> None:
        """Move nodes, and what they are computed from, before ``anchor`` where they stand after it."""
        late: set[fx.Node] = set()
        queue = list(nodes)
        while queue:
            node = queue.pop()
            if anchor < node and node not in late:
                late.add(node)
                queue += node.all_input_nodes
        known_facts.graph_changed()
        for node in sorted(late):
            anchor.prepend(node)

    def tie(self, kept: str, removed: str) -> None:
        """Put the module at ``kept`` in the place of the one at ``removed``, under all of its paths."""
        module, old = self.gm.get_submodule(kept), self.gm.get_submodule(removed)
        if module is old:
            return
        known_facts.tree_changed()
        if not self._paths:
            for path, candidate in nn.Module.named_modules(self.gm, remove_duplicate=False):
                self._paths.setdefault(candidate, []).append(path)
            for node in self.gm.graph.nodes:
                if node.op == "call_module":
                    self._calls.setdefault(str(node.target), []).append(node)
        for path in self._paths.pop(old):
            owner, _, name = path.rpartition(".")
            self.gm.get_submodule(owner)._modules[name] = module
            sharing_of(self.gm).ties[path] = kept
            self._paths[module].append(path)
        calls = self._calls.pop(removed, [])
        for node in calls:
            node.target = kept
        self._calls.setdefault(kept, []).extend(calls)

    def normalize(self, kernel: str, bias: str | None, per: str) -> None:
        """Record that the kernel parameter at a path is normalized wherever it is read."""
        sharing_of(self.gm).kernels[kernel] = NormalizedKernel(bias, per)

    def _known(self, node: fx.Node) -> fx.Node:
        """Return a node of this graph; one that an earlier match erased, or of another graph, is an error by name."""
        if node._erased or node.graph is not self.gm.graph:
            what = "was erased before" if node._erased else "is of another graph"
            raise PassError(f"pass '{self.pass_name}' uses the node `{node.name}`, which {what}")
        return node

    def _check_inputs(self, node: fx.Node) -> None:
        for other in node.all_input_nodes:
            self._known(other)

    def _note(self, node: fx.Node, type: TensorType | None) -> fx.Node:
        known_facts.graph_changed()
        self._check_inputs(node)
        first = self._origins[0].meta if self._origins else {}
        if type is not None:
            node.meta["type"] = type
        node.meta["mutates"] = ()
        node.meta["grad"] = first.get("grad", True)
        node.meta["scope"] = first.get("scope", "")
        node.meta["where"] = first.get("where", "")
        node.meta["made_by"] = self.pass_name
        arms.settle(node, arms.home_of_new(node.all_input_nodes, self._origins))
        origins = dict.fromkeys(name for origin in self._origins for name in origin.meta.get("origin", ()))
        node.meta["origin"] = tuple(origins)
        return node
