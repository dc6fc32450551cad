"""Notes on a simplified model: sentences about what its user may not expect."""

from __future__ import annotations

from toponas_fx.runtime.simplified_module import SimplifiedModule


def note_on_names(fast: SimplifiedModule) -> str:
    """Say which names are the user's here."""
    names = ", ".join(f"`{name}`" for name in sorted(fast._toponas_taken))
    return (
        f"{fast._toponas.user_class.__name__} has {names} of its own, which a simplified model leaves to it: "
        "toponas_fx.inspection(fast) has the graph, the report, the reference"
    )


def note_on_writes(fast: SimplifiedModule) -> list[str]:
    """Return a note on the attributes that forward writes, if there are any: results kept there are read by others."""
    written = {key: None for program in fast._toponas.programs for key in program.writes}
    if not written:
        return []
    path, name = next(iter(written))
    more = f" and {len(written) - 1} more" if len(written) > 1 else ""
    owner = f"`{path}`" if path else "the model"
    return [
        f"forward writes the attribute `{name}` of {owner}{more}, which each call sets: candidates whose results are "
        "kept there cannot merge"
    ]
