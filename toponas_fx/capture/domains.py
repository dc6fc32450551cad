"""Which values the choices may have that forward reads from its arguments and from its modules.

What is drawn has a range. For other integers the values 0, 1, 2, ... are tried until forward fails; where it takes any,
they are none of a few candidates: sizes, counts of epochs. Names are those that the model keeps beside the ones seen,
as children of one module or in one list, less those for which forward fails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from toponas_fx.capture import Capture
from toponas_fx.capture.forcing import MOST, Forcing, index_of
from toponas_fx.capture.kept_choices import Kept, Key, by_attribute, pattern_of
from toponas_fx.capture.path_sections import UnlikePathsError
from toponas_fx.module_tree.index import TreeIndex

ANY_INTEGER = f"an integer that forward is given may have more than {MOST} values"
NOT_FEW = "which values it may have is not told by where forward fails, nor by names beside it"
_Seen = Mapping[Kept, Collection[Any]]


@dataclass(frozen=True)
class Domains:
    """The values of each choice that is not drawn.

    Attributes:
        given: of the integers among forward's arguments, in order; None where these are no choices.
        kept: of the integers and names that modules keep.
        ignored: which of the given integers forward does not read; any value of these will do.
    """

    given: Sequence[Sequence[int]] | None = None
    kept: Mapping[Kept, Sequence[Any]] = field(default_factory=dict)
    ignored: Collection[int] = ()

    def with_unread(self, unread: Mapping[Kept, Any]) -> Domains:
        """Return the same with what forward does not read; any value of it will do."""
        return replace(self, kept={**self.kept, **{kept: (value,) for kept, value in unread.items()}})

    @property
    def sizes(self) -> set[int]:
        """How many values they have."""
        return set(map(len, (*(self.given or ()), *self.kept.values())))

    @property
    def has_names(self) -> bool:
        """Whether any are names, which Python may read unseen."""
        return any(type(values[0]) is str for values in self.kept.values())

    def forcing(self, turn: int, round: int | None = None, *, is_plain: bool = False) -> Forcing:
        """Return what decides a run; see ``Forcing``."""
        every = (*(self.given or ()), *self.kept.values())
        values = [known[index_of(turn, round, place, len(known))] for place, known in enumerate(every, start=1)]
        count = len(self.given or ())
        kept = dict(zip(self.kept, values[count:], strict=True))
        return Forcing(turn, round, None if self.given is None else values[:count], kept, is_plain=is_plain)

    def guard(self, recorded: Capture, tree: TreeIndex) -> None:
        """Guard the attributes that hold choices in a recorded call, in all but those.

        Raises:
            UnlikePathsError: a run read one of the attributes otherwise, or what should have been unread.
        """
        nodes = [node for node in recorded.graph.nodes if node.op == "placeholder"]
        integers = nodes[len(nodes) - len(self.kept) - len(self.given or ()) :]
        if any(integers[place].users for place in self.ignored):
            raise UnlikePathsError("forward reads an integer that it is given on some of its paths")
        for (kept, values), node in zip(self.kept.items(), nodes[len(nodes) - len(self.kept) :], strict=True):
            if len(values) == 1 and node.users:
                raise UnlikePathsError(f"forward reads {kept} on some of its paths")
        for key, places in by_attribute(self.kept).items():
            if key in recorded.guards.attributes:
                raise UnlikePathsError(f"forward looks at {Kept(*key)} not by its name alone")
            recorded.guards.note_attribute(*key, pattern_of(tree, key, places), "")


def find_domains(
    fails: Callable[[Forcing], bool], tree: TreeIndex, given: int | None, seen: _Seen, ignored: Collection[int] = ()
) -> Domains:
    """Find the values by trial.

    Args:
        fails: tells whether forward does in a run.
        tree: the model's.
        given: how many integers are among forward's arguments; None where these are no choices.
        seen: the values that modules were seen to keep. Those that have no few candidates are left out.
        ignored: which of the integers among forward's arguments it does not read.

    Raises:
        UnlikePathsError: an integer that forward is given may have more values than there may be candidates.
    """
    present = {kept: kept.value(tree) for kept in seen}
    integers = [kept for kept, value in present.items() if type(value) is int]
    read = [place for place in range(given or 0) if place not in ignored]

    def fail(values: Sequence[int]) -> bool:
        kept = {**present, **dict(zip(integers, values[len(read) :], strict=True))}
        chosen = dict(zip(read, values, strict=False))
        return fails(Forcing(0, None, None if given is None else [chosen.get(i, 0) for i in range(given)], kept))

    sizes = _sizes(fail, [0] * len(read) + [present[kept] for kept in integers])
    if not all(sizes[: len(read)]):
        raise UnlikePathsError(ANY_INTEGER)
    of_given = dict(zip(read, sizes, strict=False))
    found: dict[Kept, Sequence[Any]] = {}
    for kept, size in zip(integers, sizes[len(read) :], strict=True):
        values = (*range(size), *sorted(set(seen[kept]).difference(range(size))))
        if size and len(values) <= MOST:
            found[kept] = values
    found |= _names(fails, tree, present, {kept: seen[kept] for kept in seen if kept not in integers})
    ranges = None if given is None else [range(of_given.get(place, 1)) for place in range(given)]
    return Domains(ranges, found, tuple(ignored))


def _sizes(fails: Callable[[Sequence[int]], bool], base: Sequence[int]) -> list[int]:
    """Return below which number each of some integers stays, for forward fails for that; 0 where that was not seen.

    Args:
        fails: tells whether forward does for some integers.
        base: some for which it does not.
    """
    sizes = [0] * len(base)
    if not sizes or not fails([MOST] * len(sizes)):
        return sizes
    for value in range(MOST + 1):
        if not fails([min(value, size - 1) if size else value for size in sizes]):
            continue
        for place in [place for place, size in enumerate(sizes) if not size]:
            sizes[place] = value if fails([*base[:place], value, *base[place + 1 :]]) else 0
        if all(sizes) or not fails([own if size else MOST for size, own in zip(sizes, base, strict=True)]):
            break
    return sizes


def _names(
    fails: Callable[[Forcing], bool], tree: TreeIndex, present: Mapping[Kept, Any], seen: _Seen
) -> dict[Kept, Sequence[str]]:
    taken = {kept.key for kept in seen}
    offered = {kept: names for kept, known in seen.items() if (names := _names_around(tree, known, taken))}
    found = {kept: list(names) for kept, names in offered.items()}
    for turn in range(max(map(len, offered.values()), default=0)):
        tried = {kept: names[turn % len(names)] for kept, names in offered.items()}
        if not fails(Forcing(0, None, None, {**present, **tried})):
            continue
        for kept, name in tried.items():
            if name in found[kept] and fails(Forcing(0, None, None, {**present, kept: name})):
                found[kept].remove(name)
    return {kept: tuple(names) for kept, names in found.items() if len(names) > 1}


def _names_around(tree: TreeIndex, seen: Collection[str], left_out: Collection[Key]) -> tuple[str, ...]:
    """Return the fewest names that the model keeps together, these among them; none where there are no such."""
    known = (names for path, module in tree.modules.items() for names in _names_in(path, module, left_out))
    best: Collection[str] = min((names for names in known if set(names).issuperset(seen)), key=len, default=())
    return tuple(best) if 1 < len(best) <= MOST else ()


def _names_in(path: str, module: nn.Module, left_out: Collection[Key]) -> Iterator[Collection[str]]:
    """Yield the names of a module's children, and of what it keeps in lists, tuples and dicts."""
    yield module._modules
    for name, value in vars(module).items():
        is_list = isinstance(value, list | tuple | dict) and (path, name) not in left_out
        if is_list and all(type(item) is str for item in value):
            yield dict.fromkeys(value)
