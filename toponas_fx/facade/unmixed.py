"""Saying that a model has no mixed operation: what was looked for, what was seen instead, and what its user can do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toponas_fx.module_tree.tensor_paths import is_library

LOOKED_FOR = (
    "no mixed operation was found, a sum of candidates each times its weight, as in sum(w * op(x) for w, op in ...)"
)
MODE = (
    "If the search mixes its candidates in another mode, nothing is lost: its first training call is captured and "
    "simplified. Otherwise leave simplify out"
)
SETS = "If the search sets another path before its steps, all paths are recorded once that was seen twice. "
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
    for path, module in model.named_modules():
        members = list(module.children())
        count = sum(any(id(inner) in ran for inner in member.modules()) for member in members)
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        lists += is_list
        if (is_list and 0 < count < len(members)) or (path and count == 1 < len(members) and _is_users(module)):
            partly.append(f"{count} of {len(members)} modules of `{path}`")
    if not partly:
        seen = NONE_LEFT_OUT if lists else "there is no list of modules that could be candidates"
        return f"{LOOKED_FOR}; {seen}. {MODE}"
    more = f" and a part of {len(partly) - SEEN} more lists" if len(partly) > SEEN else ""
    seen = f"only {', '.join(partly[:SEEN])}{more} ran: one path, which has nothing to merge"
    return f"{LOOKED_FOR}; {seen}. {SETS}{MODE}"


def _is_users(module: nn.Module) -> bool:
    """Return whether a module's class is the user's, which may keep its candidates as its own children (NNI)."""
    return not is_library(type(module).__module__)


GIVEN = (
    "forward is given integers: once they are others, all that they choose between is recorded as one graph, where "
    "that can be; nothing is shared then, unless share_sampled asks for it"
)
"""What is said of a model whose loop may give forward its path."""
