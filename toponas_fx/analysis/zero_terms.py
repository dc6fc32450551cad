"""Terms that are zero whatever they read."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from toponas_fx.analysis.memory import Memory


def is_zero(term: Any, memory: Memory) -> bool:
    """Return whether a term is zero whatever its inputs; memory that is written in place tells nothing."""
    if not isinstance(term, fx.Node) or memory.is_written(term):
        return False
    if term.target is operator.mul:
        return any(isinstance(arg, int | float) and arg == 0 for arg in term.args)
    if term.target is torch.cat:
        return all(is_zero(part, memory) for part in term.args[0])  # type: ignore[union-attr]
    return term.target in (torch.zeros, torch.zeros_like, "new_zeros")
