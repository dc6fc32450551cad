"""The names that a function's code looks up."""

from __future__ import annotations

import functools
from types import CodeType

BY_TEXT = frozenset(("globals", "getattr", "hasattr", "vars", "__dict__", "attrgetter", "eval"))
"""What reads by names that are texts in the code."""


@functools.cache
def names_of(code: CodeType) -> tuple[str, ...]:
    """Return the names that a function's code, or that of a function within it, looks up, by text too."""
    texts = (text for text in code.co_consts if isinstance(text, str) and text.isidentifier())
    by_text = texts if not BY_TEXT.isdisjoint(code.co_names) else ()
    inner = (name for part in code.co_consts if isinstance(part, CodeType) for name in names_of(part))
    return tuple(dict.fromkeys((*code.co_names, *by_text, *inner)))
