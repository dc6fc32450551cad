"""What modules keep that was seen to change: integers and names that may be choices, and what came of trying them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from toponas_fx.capture.domains import NOT_FEW
from toponas_fx.capture.forcing import MOST
from toponas_fx.capture.guards import StateGuards
from toponas_fx.capture.kept_choices import Kept, changed_parts
from toponas_fx.module_tree.index import TreeIndex
from toponas_fx.module_tree.snapshots import INHERITED, MISSING, freeze

CHANGES = 2
"""Captures that such changes cost before they are taken for choices: a mode that is switched once is none."""


@dataclass
class KeptValues:
    """Integers and names of one model's modules.

    Attributes:
        seen: the values of those that changed.
        changes: how many calls met no program, and one that would hold but for such changes.
        in_vain: for the fixed part of a call's key, those that are no choices in it, with the reason.
    """

    seen: dict[Kept, set[Any]] = field(default_factory=dict)
    changes: int = 0
    in_vain: dict[tuple[Any, ...], dict[Kept, str]] = field(default_factory=dict)

    def copy(self) -> KeptValues:
        """Return an independent copy."""
        in_vain = {kind: dict(found) for kind, found in self.in_vain.items()}
        return KeptValues({kept: set(values) for kept, values in self.seen.items()}, self.changes, in_vain)

    def note_changes(self, runs: Iterable[StateGuards], tree: TreeIndex) -> None:
        """Note what changed since some runs, of which those count that such changes alone set apart."""
        changes = [_changed(guards, tree) for guards in runs]
        self.changes += any(changes)
        for kept, values in (item for found in changes for item in found.items()):
            self.seen.setdefault(kept, set()).update(values)

    def may_choose(self, kind: tuple[Any, ...], tree: TreeIndex) -> dict[Kept, frozenset[Any]]:
        """Return those that may be choices in a kind of call, with the values that they had, the present ones too."""
        if self.changes < CHANGES:
            return {}
        found = {}
        for kept, values in self.seen.items():
            value = kept.value(tree)
            if kept not in self.in_vain.get(kind, {}) and {type(value)} == set(map(type, values)):
                values.add(value)
                if len(values) <= MOST:
                    found[kept] = frozenset(values)
        return found

    def note_in_vain(self, kind: tuple[Any, ...], tried: Iterable[Kept], reason: str) -> None:
        """Note which were tried and are no choices."""
        self.in_vain.setdefault(kind, {}).update((kept, reason or NOT_FEW) for kept in tried)

    def is_open(self, kind: tuple[Any, ...], key: Any) -> bool:
        """Return whether something in an attribute may yet turn out to be a choice."""
        return any(kept.key == key and kept not in self.in_vain.get(kind, {}) for kept in self.seen)

    def why_not(self, key: Any) -> str:
        """Return why what changed in an attribute is no choice, as the end of a sentence; nothing where none is."""
        tried = (item for found in self.in_vain.values() for item in found.items())
        return next((reason for kept, reason in tried if kept.key == key), "")


def _changed(guards: StateGuards, tree: TreeIndex) -> dict[Kept, tuple[Any, Any]]:
    """Return the integers and names that were others in a run, with both values; none where more was another."""
    found: dict[Kept, tuple[Any, Any]] = {}
    for (path, name), picture in guards.attributes.items():
        value = getattr(tree.modules.get(path), name, MISSING)
        parts = {} if value is picture or picture is INHERITED else changed_parts(picture, freeze(value, tree.paths))
        if parts is None:
            return {}
        for steps, was in parts.items():
            kept = Kept(path, name, steps)
            found[kept] = was, kept.value(tree)
    return found
