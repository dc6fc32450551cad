"""What a node calls, by name."""

from __future__ import annotations

from typing import Any


def target_name(target: Any) -> str:
    """Return the name of a node's target: a method's, a function's, a path; nothing for what has no name."""
    return target if isinstance(target, str) else str(getattr(target, "__name__", ""))
