"""The cost model of merged kernels: where the taps of several lie together, and which sets cost no more as one.

The cost of a convolution at given channels, groups and size is its number of taps; so is that of its gradients. A 1x1
in a 3x3 is 9 taps instead of 10; a 5x5 of dilation 2 with a 5x5 is 81 instead of 50, and stays apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toponas_fx.analysis.linear_ops import LinearOp


@dataclass(frozen=True)
class Grid:
    """The positions of a merged kernel's taps: for each dimension its reach before the centre, spacing and size."""

    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, operations: Sequence[LinearOp]) -> Grid:
        """Return the coarsest grid that holds the taps of all operations."""
        padding: list[int] = []
        dilation: list[int] = []
        size: list[int] = []
        for dim in range(operations[0].dims):
            before = max(op.padding[dim] for op in operations)
            after = max(op.footprint[dim] - 1 - op.padding[dim] for op in operations)
            steps = [op.dilation[dim] for op in operations if op.kernel_shape[dim + 2] > 1]
            spacing = math.gcd(*steps, *(before - op.padding[dim] for op in operations), before + after) or 1
            padding.append(before)
            dilation.append(spacing)
            size.append((before + after) // spacing + 1)
        return cls(tuple(padding), tuple(dilation), tuple(size))


def cheapest_sets(operations: Sequence[LinearOp], slack: float = 1.0) -> list[list[LinearOp]]:
    """Split operations into sets that each have at most ``slack`` times the taps as one that they have apart.

    Args:
        operations: operations of one geometry that could all merge.
        slack: 1 for no more than apart.

    Returns:
        The sets, those with the largest kernels first.
    """
    sets: list[list[LinearOp]] = []
    for operation in sorted(operations, key=lambda op: -math.prod(op.footprint)):
        for chosen in sets:
            apart = math.prod(Grid.of(chosen).size) + math.prod(operation.kernel_shape[2:])
            if math.prod(Grid.of([*chosen, operation]).size) <= slack * apart:
                chosen.append(operation)
                break
        else:
            sets.append([operation])
    return sets


def merged_taps(operations: Sequence[LinearOp]) -> int:
    """Return the taps that operations of one input have once the sets that pay are merged."""
    by_geometry: dict[object, list[LinearOp]] = {}
    for operation in operations:
        key = (operation.stride, operation.groups, operation.kernel_shape[:2])
        by_geometry.setdefault(key, []).append(operation)
    found = [chosen for group in by_geometry.values() for chosen in cheapest_sets(group)]
    return sum(math.prod(Grid.of(chosen).size) for chosen in found)
