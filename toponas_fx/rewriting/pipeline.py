"""Runs a list of passes over a graph, checks each one's result and keeps a record of what it did."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from toponas_fx.analysis.costs import Costs, graph_costs
from toponas_fx.errors import PassError
from toponas_fx.ir import known_facts
from toponas_fx.ir.printer import format_graph, format_node, number_nodes
from toponas_fx.progress import step
from toponas_fx.rewriting.pass_base import Pass, Plan, Repeat, Semantics
from toponas_fx.rewriting.rewriter import Rewriter
from toponas_fx.rewriting.verifier import Interface, verify, verify_interface

MAX_ROUNDS = 100
_log = logging.getLogger("toponas_fx")


@dataclass(frozen=True)
class Change:
    """One thing that was done, or refused.

    Attributes:
        sentence: what, in words.
        origins: names of the captured nodes it is about.
    """

    sentence: str
    origins: tuple[str, ...]


@dataclass
class PassRecord:
    """What one pass did to one graph.

    Attributes:
        name: the pass.
        semantics: its promise.
        before: costs of the graph before it.
        after: costs after it, observed.
        changes: one for each match that was applied.
        refusals: what its last plan refused.
    """

    name: str
    semantics: Semantics
    before: Costs
    after: Costs
    changes: list[Change] = field(default_factory=list)
    refusals: list[Change] = field(default_factory=list)


Passes = Sequence["Pass | Repeat"]


Observer = Callable[[Pass, fx.GraphModule], None]


def run_passes(gm: fx.GraphModule, passes: Passes, observe: Observer | None = None) -> list[PassRecord]:
    """Run passes in order over ``gm.graph``, in place.

    Args:
        gm: the model; its tree may get tied on the way.
        passes: passes, and ``Repeat`` for those that run in turn until nothing changes.
        observe: called after each run of a pass, with the pass and the model.

    Returns:
        One record a pass, in order; a repeated pass has one for all its runs.

    Raises:
        PassError: a pass failed or found no end; the text names it, its place, and shows the graph around the node.
    """
    with known_facts.remembering():
        return _run_all(gm, passes, observe)


def _run_all(gm: fx.GraphModule, passes: Passes, observe: Observer | None) -> list[PassRecord]:
    interface = Interface.of(gm.graph)
    verify(gm, interface)
    flat = list(flatten(passes))
    costs = graph_costs(gm)
    records = {id(pass_): PassRecord(pass_.name, pass_.semantics, costs, costs) for pass_ in flat}
    done: list[str] = []
    for entry in passes:
        group = entry.passes if isinstance(entry, Repeat) else (entry,)
        settled: set[int] = set()  # those that found nothing more in the graph as it is
        for _ in range(MAX_ROUNDS):
            for pass_ in group:
                if id(pass_) in settled:
                    continue
                record = records[id(pass_)]
                record.before = record.before if record.changes else costs
                if _run_pass(gm, pass_, record, costs, interface, flat, done):
                    settled.clear()
                settled.add(id(pass_))
                costs = record.after
                if observe is not None:
                    observe(pass_, gm)
            if len(settled) == len(group):
                break
        else:
            names = [pass_.name for pass_ in group]
            endless = PassError(f"passes {names} still change the graph after {MAX_ROUNDS} turns")
            endless.passes = tuple(group)
            raise endless
    return [records[id(pass_)] for pass_ in flat]


def flatten(passes: Passes) -> Iterator[Pass]:
    """Yield passes in order, those that repeat once."""
    for entry in passes:
        yield from entry.passes if isinstance(entry, Repeat) else (entry,)


def _run_pass(
    gm: fx.GraphModule,
    pass_: Pass,
    record: PassRecord,
    costs: Costs,
    interface: Interface,
    flat: list[Pass],
    done: list[str],
) -> bool:
    number = [id(other) for other in flat].index(id(pass_)) + 1  # by identity: equal passes have places of their own
    place = f"pass '{pass_.name}' ({number} of {len(flat)}), after {done}"
    count = len(record.changes)
    step(f"{pass_.name} ({number} of {len(flat)})")
    try:
        pass_.requires(gm)
        _apply_until_done(gm, pass_, record)
        pass_.ensures(gm)
        (verify if len(record.changes) > count else verify_interface)(gm, interface)
    except Exception as error:
        kind, told = (type(error), "") if isinstance(error, PassError) else (PassError, f"{type(error).__name__}: ")
        failure = kind(f"{place}: {told}{error}")
        failure.passes = (pass_,)
        raise failure from error
    record.after = graph_costs(gm) if len(record.changes) > count else costs
    done.append(pass_.name)
    if _level() >= 1:
        _log.info("%s: %d changes, %d nodes", pass_.name, len(record.changes) - count, record.after.nodes)
    return len(record.changes) > count


def _apply_until_done(gm: fx.GraphModule, pass_: Pass, record: PassRecord) -> None:
    match: Any = None
    for _ in range(MAX_ROUNDS):
        plan = pass_.plan(gm)
        record.refusals = [Change(refusal.reason, _origins(refusal.nodes)) for refusal in plan.refusals]
        if not plan.matches:
            _log_plan(gm, pass_, plan)
            return
        rewriter = Rewriter(gm, pass_.name)
        for planned in plan.matches:
            match = rewriter.current(planned)
            _log_match(gm, pass_, match)
            change = Change(match.describe(), _origins(match.nodes))
            pass_.apply(match, rewriter)
            record.changes.append(change)
            if _level() >= 2:
                _log.debug("after %s:\n%s", pass_.name, format_graph(gm))
    around = format_graph(gm, around=match.nodes[0]) if match.nodes[0] in set(gm.graph.nodes) else format_graph(gm)
    raise PassError(f"still finds work after {MAX_ROUNDS} rounds, last: {match.describe()}:\n{around}")


def _origins(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for node in nodes for name in node.meta.get("origin", (node.name,))))


def is_strict_here() -> bool:
    """Return whether the environment asks for errors where a pass fails: ``TOPONAS_STRICT=1``, or any log of passes."""
    return _level() > 0 or os.environ.get("TOPONAS_STRICT", "0") not in ("", "0")


def _level() -> int:
    text = os.environ.get("TOPONAS_DEBUG", "0")
    level = int(text) if text.isdigit() else 0
    if level and not _log.handlers:
        _log.addHandler(logging.StreamHandler())
        _log.setLevel(logging.DEBUG)
    return level


def _log_match(gm: fx.GraphModule, pass_: Pass, match: Any) -> None:
    if _level() >= 3:
        line = format_node(match.nodes[0], number_nodes(gm.graph), gm)
        _log.debug("%s matches %s: %s", pass_.name, line, match.describe())


def _log_plan(gm: fx.GraphModule, pass_: Pass, plan: Plan) -> None:
    if _level() >= 3:
        numbers = number_nodes(gm.graph)
        for refusal in plan.refusals:
            _log.debug("%s refuses %s: %s", pass_.name, format_node(refusal.nodes[0], numbers, gm), refusal.reason)
