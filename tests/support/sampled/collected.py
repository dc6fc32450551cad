"""All sampled supernets of this folder."""

from __future__ import annotations

import inspect

from sampled import adverse, arms, draws, gates, gdas, given, kept, kept_oddly, readings, structures, unlike
from sampled.parts import Sampled

SAMPLED: list[type[Sampled]] = [
    kind
    for file in (gdas, readings, draws, given, kept, kept_oddly, gates, structures, unlike, arms, adverse)
    for name, kind in vars(file).items()
    if inspect.isclass(kind) and issubclass(kind, Sampled) and kind.__module__ == file.__name__ and name[0] != "_"
]
