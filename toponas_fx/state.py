"""What a simplified model remembers: its options, its decisions and its programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.program import Program
from toponas_fx.sharing import Sharing
from toponas_fx.tree import TreeIndex


@dataclass
class State:
    """The state behind a simplified model; copies of a model share programs, not this.

    Attributes:
        user_class: the user's class.
        user_forward: the user's forward, unbound.
        mode: ``"share"`` or ``"exact"``.
        passes: the passes of that mode.
        sharing: what was decided.
        programs: compiled graphs, for the training and the evaluation capture and any later one.
        as_written: for the fixed part of a call's key, why the user's forward runs as written.
        captures: for the same, how many captures were made.
        removed: parameters that no run reads, by path; they left ``parameters()``.
        working: the graph that passes are at work on, while they are.
        shares_graphs: True while the programs' graphs are shared with a copy.
        report: the report.
        topology: the topology found in the training capture.
        example: the example inputs, without their memory.
        simplify_like: simplifies a model of another structure with this one's options.
        index: the tree as last seen.
    """

    user_class: type[nn.Module]
    user_forward: Callable[..., Any]
    mode: str
    passes: tuple[Any, ...]
    sharing: Sharing = field(default_factory=Sharing)
    programs: list[Program] = field(default_factory=list)
    as_written: dict[tuple[Any, ...], str] = field(default_factory=dict)
    captures: dict[tuple[Any, ...], int] = field(default_factory=dict)
    removed: dict[str, Tensor] = field(default_factory=dict)
    working: fx.Graph | None = None
    shares_graphs: bool = False
    report: Any = None
    topology: Any = None
    example: Any = None
    simplify_like: Callable[[Any, nn.Module], Any] = field(init=False)
    index: TreeIndex | None = None

    def copy(self) -> State:
        """Return the state of a copy of the model: the same programs, its own decisions."""
        twin = State(self.user_class, self.user_forward, self.mode, self.passes, self.sharing.copy())
        twin.programs = list(self.programs)
        twin.as_written, twin.captures = dict(self.as_written), dict(self.captures)
        twin.report, twin.topology, twin.example = self.report, self.topology, self.example
        twin.simplify_like = self.simplify_like
        twin.shares_graphs = True
        return twin

    def modules(self, root: nn.Module) -> dict[str, nn.Module]:
        """Return the tree's modules by path; programs of a tree that changed are forgotten."""
        if self.index is None:
            self.index = TreeIndex.of(root)
        elif not self.index.is_current():
            self.index = TreeIndex.of(root)
            self.programs = []
            self.as_written = {}
            self.sharing.ties = {
                removed: kept
                for removed, kept in self.sharing.ties.items()
                if self.index.modules.get(removed) is self.index.modules.get(kept) is not None
            }
        return self.index.modules

    def __getstate__(self) -> dict[str, Any]:
        """Leave the index out: it is rebuilt."""
        return {**vars(self), "index": None, "working": None, "removed": dict(self.removed)}
