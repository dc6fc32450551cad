"""Finding the cells of a supernet: which parts of it repeat, by module paths and the flow of data, never by names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toponas_fx.draw.drawing import Key


def cell_paths(paths: Mapping[Key, str], sources: Mapping[Key, str]) -> dict[Key, str]:
    """Return for each edge the module that is its cell; the empty path is the whole model.

    A cell is the innermost module that holds two or more edges and stands beside another such module, where no value
    is read by edges of both: the nodes of one cell read the same inputs, two cells do not.

    Args:
        paths: where the candidates of each edge are in the model.
        sources: the value that each edge reads.
    """
    held: dict[str, list[Key]] = {}
    for key, path in paths.items():
        for outer in _outer(path):
            held.setdefault(outer, []).append(key)
    siblings: dict[str, list[str]] = {}
    for path, own in held.items():
        if path and len(own) > 1:
            siblings.setdefault(path.rpartition(".")[0], []).append(path)
    cells = {path for group in siblings.values() for path in _apart(group, held, sources)}
    return {key: next((outer for outer in _outer(path) if outer in cells), "") for key, path in paths.items()}


def _outer(path: str) -> Iterable[str]:
    """Yield a path and those of the modules around it, the innermost first, the whole model last."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _apart(group: list[str], held: Mapping[str, list[Key]], sources: Mapping[Key, str]) -> list[str]:
    """Return the modules of a group that read no value in common with any other; none if that leaves one alone."""
    read = {path: {sources[key] for key in held[path]} for path in group}
    found = [path for path in group if all(read[path].isdisjoint(read[other]) for other in group if other != path)]
    return found if len(found) > 1 else []
