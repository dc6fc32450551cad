"""Names in checkpoints: every tensor once, and what an original model's checkpoint has besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def own_names(state_dict: dict[str, Any], prefix: str, ties: Mapping[str, str]) -> None:
    """Remove the names of replaced modules from a state dict, in place.

    torch lists a tied module under each of its paths. A search loop that updates the first and loads the dict would
    write the stale second value over it.
    """
    for removed in ties:
        for name in _below(state_dict, f"{prefix}{removed}."):
            del state_dict[name]


def fit_checkpoint(
    state_dict: dict[str, Any], prefix: str, ties: Mapping[str, str], removed_parameters: Iterable[str]
) -> None:
    """Make a checkpoint, of the original model or of a simplified one, fit the shared tree, in place.

    Replaced modules get the values of those that took their place; parameters that no run reads are left out.
    """
    for path in removed_parameters:
        state_dict.pop(prefix + path, None)
    for removed, kept in ties.items():
        for name in _below(state_dict, f"{prefix}{removed}."):
            del state_dict[name]
        for name in _below(state_dict, f"{prefix}{kept}."):
            state_dict[f"{prefix}{removed}.{name[len(prefix) + len(kept) + 1 :]}"] = state_dict[name]


def _below(state_dict: Mapping[str, Any], start: str) -> list[str]:
    return [name for name in state_dict if name.startswith(start)]
