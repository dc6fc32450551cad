"""All idioms of this folder."""

from __future__ import annotations

import importlib
from pathlib import Path

from idiom import Idiom

_FILES = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))


def _collected() -> list[type[Idiom]]:
    for name in _FILES:
        if name not in ("collected", "idiom"):
            importlib.import_module(name)
    found, queue = [], list(Idiom.__subclasses__())
    while queue:
        kind = queue.pop(0)
        queue += kind.__subclasses__()
        if not kind.__name__.startswith("_"):
            found.append(kind)
    return sorted(found, key=lambda kind: (kind.__module__, kind.__name__))


IDIOMS = _collected()
