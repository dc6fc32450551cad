"""Saying that a model has no mixed operation: what was looked for, what was seen instead, and what its user can do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

LOOKED_FOR = (
    "no mixed operation was found, a sum of candidates each times its weight, as in sum(w * op(x) for w, op in ...)"
)
MODE = (
    "If the search mixes its candidates in another mode, nothing is lost: its first training call is captured and "
    "simplified. Otherwise leave simplify out"
)
NONE_LEFT_OUT = "all modules of its lists ran, and their results are added without weights, or not at all"
SEEN = 2


def why_unmixed(model: nn.Module, entered: Sequence[str]) -> str:
    """Return what a training capture without mixed operations showed, in a sentence.

    Args:
        model: the model.
        entered: paths of the modules that ran.
    """
    ran = {id(model.get_submodule(path)) for path in entered}
    partly: list[str] = []
    lists = 0
    for path, container in model.named_modules():
        if not isinstance(container, nn.ModuleList | nn.ModuleDict) or isinstance(container, nn.Sequential):
            continue
        members = list(container.children())
        count = sum(any(id(module) in ran for module in member.modules()) for member in members)
        lists += 1
        if 0 < count < len(members):
            partly.append(f"{count} of {len(members)} modules of `{path}`")
    if not partly:
        seen = NONE_LEFT_OUT if lists else "there is no list of modules that could be candidates"
    else:
        more = f" and a part of {len(partly) - SEEN} more lists" if len(partly) > SEEN else ""
        seen = f"only {', '.join(partly[:SEEN])}{more} ran: one path, which has nothing to merge"
    return f"{LOOKED_FOR}; {seen}. {MODE}"


GIVEN = (
    "forward is given integers: once they are others, all that they choose between is recorded as one graph, where "
    "that can be; nothing is shared then, unless share_sampled asks for it"
)
"""What is said of a model whose loop may give forward its path."""
