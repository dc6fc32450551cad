"""What a simplified model remembers: its options, its decisions and its programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from toponas_fx.capture.tree_index import TreeIndex
from toponas_fx.kernels import leave_layer
from toponas_fx.program import Program
from toponas_fx.sharing import Sharing


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
        captures: for the same, how many captures were made; those of a known path count less.
        runs: how often a program ran.
        removed: parameters that no run reads, by path; they left ``parameters()``.
        working: the graph that passes are at work on, while they are.
        shares_graphs: True while the programs' graphs are shared with a copy.
        report: the report.
        unmeasured: the example inputs, until the report has been measured with them.
        topology: the topology found in the training capture.
        notes: what that capture found unused.
        example: the example inputs, without their memory.
        simplify_like: simplifies a model of another structure with this one's options.
        index: the tree as last seen.
        structure: what another model must agree in to run the same programs, once it was asked for.
    """

    user_class: type[nn.Module]
    user_forward: Callable[..., Any]
    mode: str
    passes: tuple[Any, ...]
    sharing: Sharing = field(default_factory=Sharing)
    programs: list[Program] = field(default_factory=list)
    as_written: dict[tuple[Any, ...], str] = field(default_factory=dict)
    captures: dict[tuple[Any, ...], float] = field(default_factory=dict)
    runs: int = 0
    removed: dict[str, Tensor] = field(default_factory=dict)
    working: fx.Graph | None = None
    shares_graphs: bool = False
    report: Any = None
    unmeasured: tuple[Any, ...] | None = None
    topology: Any = None
    notes: list[str] = field(default_factory=list)
    example: Any = None
    simplify_like: Callable[[Any, nn.Module], Any] = field(init=False)
    index: TreeIndex | None = None
    structure: Any = None

    def copy(self) -> State:
        """Return the state of a copy of the model: the same programs, its own decisions."""
        twin = State(self.user_class, self.user_forward, self.mode, self.passes, self.sharing.copy())
        twin.programs = list(self.programs)
        twin.as_written, twin.captures = dict(self.as_written), dict(self.captures)
        twin.report, twin.topology, twin.example = self.report, self.topology, self.example
        twin.unmeasured = self.unmeasured
        twin.simplify_like, twin.structure = self.simplify_like, self.structure
        self.shares_graphs = twin.shares_graphs = True
        return twin

    def used(self, program: Program) -> None:
        """Note that a program is about to run; those that ran last come first."""
        self.runs += 1
        if program is not self.programs[0]:
            self.programs = [program, *(other for other in self.programs if other is not program)]

    def tree(self, root: nn.Module) -> TreeIndex:
        """Return the index of the tree; forget programs, and what was decided about modules, where it changed."""
        if self.index is None:
            self.index = TreeIndex.of(root)
        elif not self.index.is_current():
            before, self.index = self.index, TreeIndex.of(root)
            self.programs, self.as_written, self.captures, self.structure = [], {}, {}, None
            self._forget_replaced(before.modules, self.index.modules)
        return self.index

    def _forget_replaced(self, before: dict[str, nn.Module], now: dict[str, nn.Module]) -> None:
        def stays(parameter: str) -> bool:
            owner = parameter.rpartition(".")[0]
            return now.get(owner) is before.get(owner) is not None

        ties, kernels = self.sharing.ties, self.sharing.kernels
        for removed in [path for path, kept in ties.items() if not now.get(path) is now.get(kept) is not None]:
            del ties[removed]
        for kernel in [path for path in kernels if not stays(path)]:
            del kernels[kernel]
            leave_layer(before.get(kernel.rpartition(".")[0]))
        for parameter in [path for path in self.removed if not stays(path)]:
            del self.removed[parameter]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the index, which is rebuilt, and the example inputs."""
        left_out = dict.fromkeys(("index", "structure", "working", "unmeasured"))
        return {**vars(self), **left_out, "removed": dict(self.removed)}
