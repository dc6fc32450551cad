"""What a simplified model remembers: its options, its decisions and its programs."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from toponas_fx.capture.expressions import Source
from toponas_fx.capture.inputs import Inputs
from toponas_fx.ir.decisions import Sharing
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.runtime.auditing import Audits
from toponas_fx.runtime.kept_values import KeptValues
from toponas_fx.runtime.normalized_layers import leave_layer, watched_kernels
from toponas_fx.runtime.program import Program
from toponas_fx.runtime.refusals import Refusals


@dataclass
class State:
    """The state behind a simplified model; copies of a model share programs, not this.

    Attributes:
        user_class: the user's class.
        user_forward: the user's forward, unbound.
        mode: ``"share"`` or ``"exact"``.
        passes: the passes of that mode, less those that failed once.
        is_strict: whether a pass that fails is an error; or else it is left out.
        sharing: what was decided.
        programs: compiled graphs, for the training and the evaluation capture and any later one.
        as_written: for the fixed part of a call's key, why the user's forward runs as written.
        refusals: until when that is so.
        captures: for the same, how many captures were made; those of a known path count less.
        runs: how often a program ran.
        batch_decides: for the same, whether another batch was seen to take another path.
        numbers: those that were seen to change, with two of their values; captures keep them symbolic.
        chosen: for the fixed part of a call's key, its integers left open, the integers that were met; True once these
            are choices that programs take, False once it was tried in vain.
        kept: what its modules keep that was seen to change and may be a choice.
        held_numbers: those with which that was tried in vain.
        removed: parameters that were retired, by path; they left ``parameters()``.
        shares_graphs: True while the programs' graphs are shared with a copy.
        report: the report.
        unmeasured: the example inputs, until the report has been measured with them.
        is_measuring: True while it is: counters look on, and nothing is captured.
        paths: of a model that draws its path, the first graph of all paths as it was captured, and its program; until
            the report has been measured.
        topology: the topology found in the training capture.
        edges: its edges, with their algebra before and after.
        notes: what that capture found unused.
        left_out: what failed and was left out before there was a report.
        example: the example inputs, without their memory.
        simplify_like: simplifies a model of another structure with this one's options.
        index: the tree as last seen.
        structure: what another model must agree in to run the same programs, once it was asked for.
        audits: when programs are audited, and what was found.
    """

    user_class: type[nn.Module]
    user_forward: Callable[..., Any]
    mode: str
    passes: tuple[Any, ...]
    is_strict: bool = False
    sharing: Sharing = field(default_factory=Sharing)
    programs: list[Program] = field(default_factory=list)
    as_written: dict[tuple[Any, ...], str] = field(default_factory=dict)
    refusals: Refusals = field(default_factory=Refusals)
    captures: dict[tuple[Any, ...], float] = field(default_factory=dict)
    runs: int = 0
    batch_decides: set[tuple[Any, ...]] = field(default_factory=set)
    numbers: dict[Source, tuple[float, float]] = field(default_factory=dict)
    held_numbers: set[Source] = field(default_factory=set)
    chosen: dict[tuple[Any, ...], tuple[int, ...] | bool] = field(default_factory=dict)
    kept: KeptValues = field(default_factory=KeptValues)
    removed: dict[str, Tensor] = field(default_factory=dict)
    shares_graphs: bool = False
    report: Any = None
    unmeasured: Inputs | None = None
    is_measuring: bool = False
    paths: tuple[Any, Program] | None = None
    topology: Any = None
    edges: tuple[Any, ...] = ()
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    example: Any = None
    simplify_like: Callable[[Any, nn.Module], Any] = field(init=False)
    index: TreeIndex | None = None
    structure: Any = None
    audits: Audits = field(default_factory=Audits)

    def copy(self) -> State:
        """Return the state of a copy of the model: the same programs, its own decisions."""
        twin = State(self.user_class, self.user_forward, self.mode, self.passes, self.is_strict)
        twin.sharing, twin.programs = self.sharing.copy(), list(self.programs)
        twin.as_written, twin.captures = dict(self.as_written), dict(self.captures)
        twin.refusals, twin.batch_decides = self.refusals.copy(), set(self.batch_decides)
        twin.report, twin.topology, twin.example = self.report, self.topology, self.example
        twin.edges, twin.unmeasured, twin.paths = self.edges, self.unmeasured, self.paths
        twin.numbers, twin.held_numbers = dict(self.numbers), set(self.held_numbers)
        twin.chosen, twin.kept, twin.audits = dict(self.chosen), self.kept.copy(), self.audits.copy()
        twin.simplify_like, twin.structure = self.simplify_like, self.structure
        self.shares_graphs = twin.shares_graphs = True
        return twin

    def example_inputs(self) -> Any:
        """Return inputs like those of ``simplify``, of zeros, in the usual order."""
        return pytree.tree_map_only(Tensor, Tensor.contiguous, self.example)

    def used(self, program: Program) -> None:
        """Note that a program is about to run; those that ran last come first."""
        self.runs += 1
        program.was_reused = True
        if program is not self.programs[0]:
            self.programs = [program, *(other for other in self.programs if other is not program)]

    def tree(self, root: nn.Module) -> TreeIndex:
        """Return the index of the tree; forget programs, and what was decided about modules, where it changed.

        A copied layer that came into the tree computes as the one did that it was made from.
        """
        if self.index is None:
            self.index = TreeIndex.of(root)
        elif not self.index.is_current() or self._lost_kernels():
            before, self.index = self.index, TreeIndex.of(root)
            self.programs, self.as_written, self.captures, self.structure = [], {}, {}, None
            self.refusals, self.batch_decides, self.chosen, self.kept = Refusals(), set(), {}, KeptValues()
            self._forget_replaced(before.modules, self.index.modules)
        return self.index

    def _lost_kernels(self) -> bool:
        """Return whether a normalized kernel is no parameter any more: pruned, or computed from others."""
        assert self.index is not None
        known = self.index.watched.get(id(self))
        if known is None or known[0] != len(self.sharing.kernels):  # asked at each call: the tables are kept
            parts = [path.rpartition(".") for path in self.sharing.kernels]
            tables = [vars(self.index.modules[owner])["_parameters"] for owner, *_ in parts]
            known = self.index.watched[id(self)] = len(parts), tables, [name for *_, name in parts]
        return not all(map(operator.is_not, map(dict.get, *known[1:]), repeat(None)))

    def _forget_replaced(self, before: dict[str, nn.Module], now: dict[str, nn.Module]) -> None:
        def stays(parameter: str) -> bool:
            owner = parameter.rpartition(".")[0]
            return now.get(owner) is before.get(owner) is not None

        ties, kernels = self.sharing.ties, self.sharing.kernels
        for removed in [path for path, kept in ties.items() if not now.get(path) is now.get(kept) is not None]:
            del ties[removed]
        assert self.index is not None
        watched = dict(watched_kernels({path: now[path] for path in self.index.paths.values()}))
        layers = {id(now[kernel.rpartition(".")[0]]) for kernel in watched}
        for kernel in [path for path in kernels if not stays(path) or not _is_parameter(now, path)]:
            del kernels[kernel]
            layer = before.get(kernel.rpartition(".")[0])
            if id(layer) not in layers:
                leave_layer(layer)
        kernels.update(watched)
        for parameter in [path for path in self.removed if not stays(path)]:
            del self.removed[parameter]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the index, which is rebuilt, and the example inputs."""
        left_out = dict.fromkeys(("index", "structure", "unmeasured", "paths"))
        return {**vars(self), **left_out, "removed": dict(self.removed)}


def _is_parameter(modules: dict[str, nn.Module], path: str) -> bool:
    owner, _, name = path.rpartition(".")
    return owner in modules and modules[owner]._parameters.get(name) is not None
