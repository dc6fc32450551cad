"""Whether norms of which one counts for the others have equal statistics still: anybody may set these apart.

On a CPU the values are compared at each call. Where that means to wait for the device, versions tell most of the time:
a run counts in the first norm, of which torch notes nothing, and writes once to each of the others.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from toponas_fx.module_tree.index import TreeIndex

_STATISTICS = tuple(operator.itemgetter(name) for name in ("running_mean", "running_var"))
_Seen = tuple[Tensor, int]
LOOK = 32
"""Calls of which one compares values wherever they are: what is written through ``.data`` has no version."""


def norms_agree(norms: Sequence[Sequence[str]], tree: TreeIndex) -> bool:
    """Return whether the statistics of norms are equal, group by group.

    Args:
        norms: the paths of norms, those of one group together, the one that counts first; the same object each time.
        tree: the model's.
    """
    known: Any = tree.watched.get(id(norms))
    if known is None:
        found = [(tree.modules[first], tree.modules[path]) for first, *rest in norms for path in rest]
        tables = [[vars(norm)["_buffers"] for norm in side] for side in zip(*found, strict=True)]
        known = tree.watched[id(norms)] = (norms, tables, [None, 0])  # what was seen last, and how often
    _, tables, seen = known
    kept, others = ([tensor for take in _STATISTICS for tensor in map(take, side)] for side in tables)
    if any(map(operator.is_, kept, others)):
        return False  # they count in one place, or not at all
    if kept[0] is None or not waits(kept[0]):
        return _equal(kept, others)
    if any(tensor is None for tensor in (*kept, *others)):
        return False
    now = [(tensor, tensor._version) for tensor in (*kept, *others)]
    seen[1] += 1
    is_known = seen[1] % LOOK != 0 and seen[0] is not None and _is_one_run(seen[0], now, len(kept))
    seen[0] = now if is_known or _equal(kept, others) else None
    return seen[0] is not None


def _equal(kept: list[Tensor], others: list[Tensor]) -> bool:
    try:
        return torch.equal(torch.cat(kept), torch.cat(others))
    except (RuntimeError, TypeError):  # on several devices, or one counts not at all
        return not any(tensor is None for tensor in (*kept, *others)) and all(map(torch.equal, kept, others))


def waits(tensor: Tensor) -> bool:
    """Return whether to look at a tensor's values is to wait for a device."""
    return tensor.device.type != "cpu"


def _is_one_run(before: list[_Seen], now: list[_Seen], kept: int) -> bool:
    """Return whether at most one run has written to tensors between two looks at them, the first of which are kept."""
    if any(tensor is not was for (tensor, _), (was, _) in zip(now, before, strict=True)):
        return False
    steps = [version - was for (_, version), (_, was) in zip(now, before, strict=True)]
    return not any(steps[:kept]) and set(steps[kept:]) in ({0}, {1})
