"""What a pass is: it plans without changing anything, then applies each match through the rewriter."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import fx

from toponas_fx.rewriting.rewriter import Rewriter


class Semantics(enum.Enum):
    """What a pass promises about the function that a model computes."""

    EXACT = "the same function, up to the order of additions"
    ROUNDING = "the same function, by different arithmetic"
    SHARES = "the original with the shared modules tied, at every one-hot weight vector"


class Stage(enum.IntEnum):
    """Where in the pipeline a pass belongs; ``simplify`` runs the stages in this order.

    Attributes:
        DETECT: weighted sums, however they are written, become mixed sums.
        REDUCE: mixed sums are known, and nothing is shared yet: each candidate is as the user wrote it. What a pass
            that names no stage gets.
        SHARE: equal work is done once, alike modules become one. Its passes run in turn until none finds anything more.
        MERGE: it is known which modules are shared: kernels are normalized and merged.
        LOWER: the rules are done: weights are folded, kernels batched, operations get the form that they run in.
        FINISH: what nobody reads goes, and what is to be computed again in the backward pass is chosen.
    """

    DETECT = 1
    REDUCE = 2
    SHARE = 3
    MERGE = 4
    LOWER = 5
    FINISH = 6


class Match(Protocol):
    """One place that a pass will change."""

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The nodes it is about; the first is where it happens."""

    def describe(self) -> str:
        """One sentence without a full stop: what is done here."""


@dataclass(frozen=True)
class Refusal:
    """One place that a pass looked at and left alone.

    Attributes:
        nodes: the nodes it is about.
        reason: one sentence without a full stop.
    """

    nodes: tuple[fx.Node, ...]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a pass would do to a graph.

    Matches are disjoint: applying one leaves the others valid. A node that one replaces is its replacement in those
    that are applied after it, wherever their fields hold it.
    """

    matches: tuple[Any, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class Pass(ABC):
    """One rewrite rule; a frozen dataclass whose fields are its options.

    Where one fails, it is undone and left out, and the compilation goes on; unless it shares modules, which is decided
    once for all graphs of a model.

    Attributes:
        name: the class name in kebab-case.
        semantics: its promise.
        stage: where in the pipeline it runs, among the passes of that stage in the order in which they are given.
    """

    name: ClassVar[str]
    semantics: ClassVar[Semantics]
    stage: ClassVar[Stage] = Stage.REDUCE

    def requires(self, gm: fx.GraphModule) -> None:  # noqa: B027 - most passes require nothing
        """Raise PreconditionError where the pass cannot run on this graph at all."""

    @abstractmethod
    def plan(self, gm: fx.GraphModule) -> Plan:
        """Find what to do, and what was refused and why; changes nothing."""

    @abstractmethod
    def apply(self, match: Any, rewriter: Rewriter) -> None:
        """Carry out one match."""

    def ensures(self, gm: fx.GraphModule) -> None:  # noqa: B027 - most passes need no check of their own
        """Raise VerificationError where the result is not what the pass promises."""


@dataclass(frozen=True, init=False)
class Repeat:
    """Passes that run in turn until none finds anything more."""

    passes: tuple[Pass, ...]

    def __init__(self, *passes: Pass) -> None:
        """Take the passes in order."""
        object.__setattr__(self, "passes", passes)

    @property
    def stage(self) -> Stage:
        """The last of its passes' stages: what the others are done with is there by then."""
        return max((pass_.stage for pass_ in self.passes), default=Stage.REDUCE)


def in_stages(passes: Sequence[Pass | Repeat]) -> tuple[Pass | Repeat, ...]:
    """Return passes in the order of their stages, those of one stage in the order in which they are given."""
    return tuple(sorted(passes, key=lambda entry: entry.stage))


def without_sharing(passes: Sequence[Pass | Repeat], *spared: type[Pass]) -> tuple[Pass | Repeat, ...]:
    """Return passes less those that share modules; those of some classes stay."""
    kept: list[Pass | Repeat] = []
    for entry in passes:
        inner = entry.passes if isinstance(entry, Repeat) else (entry,)
        exact = [pass_ for pass_ in inner if pass_.semantics is not Semantics.SHARES or isinstance(pass_, spared)]
        if exact:
            kept.append(Repeat(*exact) if isinstance(entry, Repeat) else entry)
    return tuple(kept)


def broken_contract(pass_: Any) -> str | None:
    """Return what keeps something from being used as a pass, in one sentence, or None where nothing does."""
    if isinstance(pass_, type) and issubclass(pass_, Pass):
        return f"passes are instances: write {pass_.__name__}(), not {pass_.__name__}"
    if not isinstance(pass_, Pass):
        return f"passes are instances of toponas_fx.rewriting.pass_base.Pass, which {pass_!r} is not"
    for name, kind in (("name", str), ("semantics", Semantics), ("stage", Stage)):
        found = getattr(pass_, name, None)
        if not isinstance(found, kind) or not found:
            return f"{type(pass_).__name__} needs a class attribute `{name}`, a {kind.__name__}, and has {found!r}"
    return None
