"""A compiled graph and the conditions under which it may run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import fx

from toponas_fx import ops
from toponas_fx.analysis.arms import values_of_inputs
from toponas_fx.analysis.effects import guards_lead, is_guard
from toponas_fx.capture import Capture
from toponas_fx.capture.expressions import Given, Source
from toponas_fx.capture.fingerprint import Fingerprint
from toponas_fx.capture.guards import Change, StateGuards
from toponas_fx.capture.kept_choices import Kept
from toponas_fx.ir.serialization import dump_graph, load_graph
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.ops import choices, recomputing
from toponas_fx.runtime import outlining
from toponas_fx.runtime.call import Call, opened
from toponas_fx.runtime.compiled import code_of, function_of
from toponas_fx.runtime.equal_statistics import norms_agree

_REASON = "toponas_fx runs the arm of a graph that a draw takes; what each arm computes is simplified already"


@dataclass
class Program:
    """A graph compiled to a function ``run(model, *tensors)``, and when it holds.

    Attributes:
        graph: what it computes; its targets are paths in the model's tree.
        guards: the Python state it depends on.
        fingerprint: of the run it was captured from.
        sizes_used: what the captured run did with sizes besides arithmetic.
        entered: paths of the modules that the captured run went through.
        any_grad_mode: True where it computes calls without gradients too.
        writes: path of the module and name of each attribute that forward writes; ``run`` returns their values, too.
        chooses: whether it takes the integers that forward is given.
        kept: the integers and names of modules that it takes, after those.
        draws: whether the captured run drew at random: passes leave more alone then than evaluation asks for.
        keys: of the calls that were seen to take its path, each with the floats given; None for inputs.
        given: which of the floats among a call's arguments are inputs, after the tensors.
        any_batch: True where the batch decides nothing, and keys may leave it open.
        equal_norms: norms of which one counts for the others, by path; it holds while their statistics agree.
        has_mixtures: whether candidates are mixed in it; None where no pass looked, or where it samples a path besides.
        was_reused: True once it ran in a later call than the one it was made for.
        has_guards: True where the graph itself checks answers read from data.
        draws_in_python: True where it draws from Python's generator.
        values: of each input that is a choice, those that it may have; None for other inputs.
        guards_lead: True where a run that fails one has written nothing by then.
        has_writes: True where it writes to memory that existed before.
        numbers: those that stay symbolic in it.
        turns: of a program that samples a path, the fingerprints of runs that take one candidate everywhere.
        domains: of such a program, the values of the choices that are not drawn.
        seconds: what one recording of its call takes.
        calls: how often it was about to run.
        audits: how often its call was recorded again.
    """

    captured: InitVar[Capture]
    call: InitVar[Call]
    any_batch: bool = False
    has_mixtures: bool | None = None
    equal_norms: tuple[tuple[str, ...], ...] = field(init=False)
    was_reused: bool = field(default=False, init=False)
    keys: set[tuple[tuple[Any, ...], tuple[float | None, ...]]] = field(init=False)
    given: tuple[int, ...] = field(init=False)
    graph: fx.Graph = field(init=False)
    guards: StateGuards = field(init=False)
    fingerprint: Fingerprint = field(init=False)
    sizes_used: tuple[tuple[Any, ...], ...] = field(init=False)
    entered: tuple[str, ...] = field(init=False)
    any_grad_mode: bool = field(init=False)
    writes: tuple[tuple[str, str], ...] = field(init=False)
    chooses: bool = field(init=False)
    kept: tuple[Kept, ...] = field(init=False)
    draws: bool = field(init=False)
    run: Callable[..., Any] = field(init=False)
    code: str = field(init=False)
    has_guards: bool = field(init=False)
    has_writes: bool = field(init=False)
    guards_lead: bool = field(init=False)
    draws_in_python: bool = field(init=False)
    values: tuple[frozenset[Any] | None, ...] = field(init=False)
    numbers: frozenset[Source] = field(init=False)
    turns: tuple[Fingerprint, ...] = field(init=False)
    domains: Any = field(init=False)
    seconds: float = field(init=False)
    calls: int = field(default=0, init=False)
    audits: int = field(default=0, init=False)

    def __post_init__(self, captured: Capture, call: Call) -> None:
        """Compile what was captured of a call."""
        positions = (number.position for number in captured.numbers if isinstance(number, Given))
        self.given = tuple(sorted(positions))
        self.keys = {(call.any_batch if self.any_batch else call.key, self._held(call))}
        self.graph, self.guards, self.entered = captured.graph, captured.guards, captured.entered
        self.fingerprint, self.sizes_used = captured.fingerprint, captured.sizes_used
        self.any_grad_mode, self.draws, self.writes = captured.any_grad_mode, captured.draws, captured.writes
        self.chooses, self.kept = captured.chooses, captured.kept
        self.turns, self.domains = captured.turns, captured.domains
        self.numbers, self.seconds = frozenset(captured.numbers), captured.seconds
        self.compile()

    def compile(self) -> None:
        """Compile the graph as it stands now."""
        graph = outlining.outlined(self.graph)
        self.code = code_of(graph)
        forward = function_of(graph, self.entered, self)
        if graph is not self.graph:  # each path would be compiled anew, and draw other numbers
            forward = torch.compiler.disable(forward, reason=_REASON)  # type: ignore[no-untyped-call]
        keeps_inputs = any(node.target in recomputing.OPERATIONS for node in self.graph.nodes)
        self.run = recomputing.keeping_inputs(forward) if keeps_inputs else forward
        self.draws_in_python = any(node.target is choices.randbelow for node in self.graph.nodes)
        self.guards_lead = guards_lead(self.graph)
        self.has_guards = any(map(is_guard, self.graph.nodes))
        self.values = values_of_inputs(self.graph)
        self.has_writes = any(node.meta.get("mutates") for node in self.graph.nodes)
        copies = (node for node in self.graph.nodes if node.target is ops.copy_statistics)
        self.equal_norms = tuple(tuple(str(norm.target) for norm in (n.args[1], *n.args[2])) for n in copies)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """What the keys of all its calls agree in."""
        return next(iter(self.keys))[0][:4]

    @property
    def kind(self) -> tuple[Any, ...]:
        """That of its calls, whatever integers they give."""
        return opened(self.fixed)

    def accepts(self, call: Call) -> bool:
        """Return whether a run with a call's key was seen to take this path."""
        held = self._held(call)
        if (call.key, held) not in self.keys:
            is_known = (call.any_batch, held) in self.keys
            if not is_known and not (self.any_grad_mode and (call.with_gradients, held) in self.keys):
                return False
            self.keys.add((call.key, held))  # found faster from now on
        return True

    def takes(self, call: Call) -> bool:
        """Return whether the recorded runs had the integers that a call gives."""
        if not self.chooses:
            return True
        first = len(self.values) - len(self.kept) - len(call.integers)
        return self._had(call.integers, self.values[first:])

    def inputs(self, call: Call, tree: TreeIndex) -> tuple[Any, ...] | None:
        """Return what to run it with; None where modules keep what the recorded runs had not."""
        inputs: tuple[Any, ...] = call.tensors
        if self.given:
            inputs = (*inputs, *map(call.numbers.__getitem__, self.given))
        if self.chooses:
            inputs = (*inputs, *call.integers)
        if not self.kept:
            return inputs
        kept = [one.value(tree) for one in self.kept]
        return (*inputs, *kept) if self._had(kept, self.values[-len(kept) :]) else None

    def _had(self, found: Sequence[Any], known: Sequence[frozenset[Any] | None]) -> bool:
        return all(values is None or value in values for values, value in zip(known, found, strict=False))

    def other_numbers(self, call: Call) -> Iterator[tuple[Source, tuple[float, float]]]:
        """Yield the floats that a call of this kind was given and now is given others for, with both."""
        for key, held in self.keys:
            for position, (was, value) in enumerate(zip(held, call.numbers, strict=False)):
                if key[:4] == call.fixed and was is not None and was != value:
                    yield Given(position), (was, value)

    def _held(self, call: Call) -> tuple[float | None, ...]:
        """Return the floats that a call is given, None for those that are inputs."""
        if not self.given:
            return call.numbers
        return tuple(None if i in self.given else number for i, number in enumerate(call.numbers))

    def extend(self, call: Call, guards: StateGuards, *, any_batch: bool) -> None:
        """Note that a call with another key, or other guards, took the same path."""
        self.keys.add((call.any_batch if any_batch else call.key, self._held(call)))
        self.guards.add(guards)

    def for_evaluation(self, call: Call, guards: StateGuards, *, any_batch: bool) -> Program:
        """Return this program of training as one that evaluation, which took the same path, runs too.

        Norms count no more then.
        """
        twin = self._alike()
        twin.keys = {(call.any_batch if any_batch else call.key, self._held(call))}
        twin.guards, twin.was_reused, twin.calls = replace(guards, layers=self.guards.layers), False, 0
        return twin

    def norms_agree(self, tree: TreeIndex) -> bool:
        """Return whether norms of which one counts for the others have equal statistics still."""
        return not self.equal_norms or norms_agree(self.equal_norms, tree)

    def first_change(self, tree: TreeIndex, given: Sequence[float] = ()) -> Change | None:
        """Return what changed in the Python state it depends on, or None; ``given`` are the floats of the call."""
        return self.guards.first_change(tree, given)

    def copy(self) -> Program:
        """Return a program with a graph of its own."""
        twin = self._alike()
        twin.graph, twin.keys = load_graph(dump_graph(self.graph)), set(self.keys)
        twin.compile()
        return twin

    def _alike(self) -> Program:
        twin = object.__new__(Program)
        vars(twin).update(vars(self))
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Write the graph as plain data."""
        state = {name: value for name, value in vars(self).items() if name not in ("run", "code", "graph")}
        return {**state, "rows": dump_graph(self.graph)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the graph and compile it."""
        self.graph = load_graph(state.pop("rows"))
        vars(self).update(state)
        self.compile()
