"""Drawing what a simplification did to a supernet, as one page or picture: ``toponas_fx.draw(fast, "page.html")``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from toponas_fx.api import simplify
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.page import page
from toponas_fx.draw.sheet import sheet
from toponas_fx.errors import ArgumentError
from toponas_fx.progress import progress
from toponas_fx.runtime.simplified_module import SimplifiedModule

_WRITERS = {".html": page, ".htm": page, ".svg": sheet}


def draw(fast_or_model: nn.Module, path: str | Path, x: Any = None) -> Path:
    """Draw a supernet's cells before and after, as an HTML page that needs nothing else or as an SVG picture.

    The page shows each kind of cell once, with the candidate operations of every edge. An edge that is pointed at, or
    reached by the keyboard, tells its architecture weights as they are now, what it computed and computes, what the
    passes did to it and what they refused. The arrow keys walk through the passes.

    Args:
        fast_or_model: what ``simplify`` returned, or a model, which is simplified first and not changed.
        path: the file to write, ``.html`` for the page or ``.svg`` for the picture alone.
        x: example inputs for a model that is not simplified yet, as for ``simplify``.

    Returns:
        The path that was written.

    Raises:
        ArgumentError: what is given is no module, or the path is none to write such a file to.
        InputError: as for ``simplify``.
    """
    target = Path(path)
    if target.suffix.lower() not in _WRITERS:
        raise ArgumentError(f"draw writes .html or .svg, not {target.suffix or 'a name without a suffix'!r}: {target}")
    if not target.parent.is_dir():
        raise ArgumentError(f"there is no folder {target.parent} to write {target.name} to")
    if not isinstance(fast_or_model, nn.Module):
        raise ArgumentError(f"draw takes a torch.nn.Module, not {type(fast_or_model).__name__}")
    with progress(f"drawing {type(fast_or_model).__name__}"):
        fast = fast_or_model if isinstance(fast_or_model, SimplifiedModule) else simplify(fast_or_model, x)
        target.write_text(_WRITERS[target.suffix.lower()](collect(fast)), encoding="utf-8")
    return target
