"""Names of candidate operations in the field's words, from what they compute: ``sep_conv_3x3``, ``skip_connect``.

The structure of a candidate's nodes is all that counts; no class of anybody's supernet is known here. Where the user
names candidates, by the keys of a ModuleDict or a list of names that the model holds, those names win.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import fx, nn

from toponas_fx import ops
from toponas_fx.analysis.drawn_edges import Draw
from toponas_fx.analysis.labels import label_of
from toponas_fx.analysis.mixed_ops import MixedOp
from toponas_fx.analysis.module_paths import common_path, place_of
from toponas_fx.analysis.node_kinds import Layer, layer_of
from toponas_fx.ir.targets import target_name

NONE, SKIP = "none", "skip_connect"
_SHOWN = 3
_SILENT = ("dropout", "identity")
"""Kinds of layers that no name tells of."""


def candidate_names(gm: fx.GraphModule, mixed: MixedOp, chains: Sequence[Sequence[fx.Node]]) -> tuple[str, ...]:
    """Return a name for each candidate of a mixed operation.

    Args:
        gm: the model.
        mixed: the mixed operation, as it was detected or as rewriting left it.
        chains: for each of its terms, the nodes that compute it from what the edge reads, in order; none for a skip.

    Returns:
        As many names; those that the user gave where the nodes are still the user's.
    """
    parts = candidate_terms(mixed, chains)
    main = [group[-1] for group in parts]
    named = [_structural(gm, mixed.terms[i], chains[i]) for i in main]
    if not any("made_by" in node.meta for chain in chains for node in chain):
        named = _users_names(gm, [chains[i] for i in main], named) or named
    names = {position: name for group, name in zip(parts, named, strict=True) for position in group}
    return tuple(names[position] for position in range(len(chains)))


def candidate_terms(mixed: MixedOp, chains: Sequence[Sequence[fx.Node]]) -> list[tuple[int, ...]]:
    """Return the terms of each candidate, by place: one, or a skip and the block that it goes around.

    ``w * (x + f(x))`` is a sum of two terms with one weight, and one candidate. What may be drawn is a candidate each.
    """
    if isinstance(mixed, Draw):
        return [(place,) for place in range(len(mixed.positions))]
    by_weight: dict[Any, list[int]] = {}
    for place, weight in enumerate(mixed.weights):
        by_weight.setdefault(_key(weight) if isinstance(weight, fx.Node) else place, []).append(place)
    found: list[tuple[int, ...]] = []
    for places in by_weight.values():
        skips = [i for i in places if not chains[i] and isinstance(mixed.terms[i], fx.Node)]
        blocks = [i for i in places if i not in skips]
        is_residual = len(skips) == len(blocks) == 1 and not is_zero(mixed.terms[blocks[0]])
        found += [(skips[0], blocks[0])] if is_residual else [(i,) for i in places]
    return sorted(found, key=lambda group: min(group))


def _key(value: Any) -> Any:
    """Return what equal products of equal elements have in common."""
    if isinstance(value, fx.Node) and value.target in (operator.mul, operator.getitem, "select"):
        return value.target, tuple(_key(part) for part in value.args)
    return value if isinstance(value, fx.Node) else str(value)


def is_zero(term: Any) -> bool:
    """Return whether a term is zero whatever its inputs."""
    if not isinstance(term, fx.Node):
        return bool(term == 0)
    name = target_name(term.target)
    if name in ("mul", "mul_", "imul"):
        return any(isinstance(factor, int | float) and factor == 0 for factor in term.args)
    if name in ("cat", "concat"):
        parts: Any = term.args[0]
        return all(map(is_zero, parts))
    return name in ("zeros", "zeros_like", "new_zeros")


def _structural(gm: fx.GraphModule, term: Any, chain: Sequence[fx.Node]) -> str:
    if is_zero(term) or getattr(term, "target", None) is ops.zeros_of:
        return NONE
    if not isinstance(term, fx.Node):
        return f"constant {term:g}"
    layers = [layer for layer in (layer_of(gm, node) for node in chain) if layer.kind not in _SILENT]
    found = _by_rule(layers)
    if found is not None:
        return found
    labels = [label_of(gm, node) for node in chain]
    more = f", and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN + 1 else ""
    return ", ".join(labels[:_SHOWN] if more else labels) + more


def _by_rule(layers: list[Layer]) -> str | None:
    """Name a candidate by its layers, without dropouts and identities."""
    if all(layer.kind == "slice" for layer in layers):
        return SKIP
    kinds = [layer.kind for layer in layers]
    if "cat" in kinds:
        return _factorized(layers)
    if kinds.count("add") == 1 and set(kinds[kinds.index("add") + 1 :]) <= {"activation"}:
        return _inverted_bottleneck(layers[: kinds.index("add")])
    if not set(kinds) <= {"conv", "linear", "norm", "activation", "max_pool", "avg_pool"}:
        return None
    working = [layer for layer in layers if layer.kind not in ("norm", "activation")]
    if not working:
        return None
    if kinds.count("max_pool") + kinds.count("avg_pool"):
        return f"{working[0].kind}_{working[0].by}" if len(working) == 1 and "activation" not in kinds else None
    return _inverted_bottleneck(layers) or _separable(layers) or _plain(layers)


def _factorized(layers: list[Layer]) -> str | None:
    """Name two strided pointwise convolutions side by side, of pixels that a slice moves."""
    kinds = Counter(layer.kind for layer in layers)
    convs = [layer for layer in layers if layer.kind == "conv"]
    is_halving = all(layer.is_pointwise and layer.stride > 1 for layer in convs)
    is_alone = set(kinds) <= {"conv", "cat", "slice", "norm", "activation"}
    return "factorized_reduce" if is_halving and is_alone and kinds["conv"] > 1 and kinds["cat"] == 1 else None


def _inverted_bottleneck(layers: list[Layer]) -> str | None:
    """Name a block that filters each channel by itself between two pointwise convolutions, or before one."""
    working = [layer for layer in layers if layer.kind not in ("norm", "activation")]
    if any(layer.kind != "conv" for layer in working) or len(working) not in (2, 3):
        return None
    *expand, depthwise, project = working
    if not depthwise.is_depthwise or not project.is_pointwise or not all(layer.is_pointwise for layer in expand):
        return None
    between = layers[layers.index(depthwise) + 1 : len(layers) - layers[::-1].index(project) - 1]
    if not expand and "activation" not in [layer.kind for layer in between]:
        return None  # half of a separable convolution
    read, made = expand[0].channels if expand else (1, 1)
    if made % read:
        return None
    dilated = f"_d{depthwise.dilation}" if depthwise.dilation > 1 else ""
    size = depthwise.sizes[0] if len(set(depthwise.sizes)) == 1 else depthwise.by
    return f"mbconv_k{size}_e{made // read}{dilated}"


def _separable(layers: list[Layer]) -> str | None:
    """Name stages of a depthwise convolution and the pointwise one right behind it."""
    convs = [layer for layer in layers if layer.kind == "conv"]
    pairs = list(zip(convs[::2], convs[1::2], strict=False))
    working = [layer for layer in layers if layer.kind not in ("norm", "activation")]
    if len(convs) % 2 or len(convs) != len(working) or not convs:
        return None
    at_once = set(pairwise(layers))
    if not all(a.is_depthwise and b.is_pointwise and (a, b) in at_once for a, b in pairs):
        return None
    if len({(depthwise.sizes, depthwise.dilation) for depthwise, _ in pairs}) > 1:
        return None
    first, count = convs[0], len(pairs)
    if first.dilation > 1:
        return f"dil_conv_{first.by}" + (f"_d{first.dilation}" if first.dilation != 2 else "") + _times(count, 1)
    return f"sep_conv_{first.by}" + _times(count, 2)


def _times(count: int, usual: int) -> str:
    return "" if count == usual else f"_x{count}"


def _plain(layers: list[Layer]) -> str | None:
    """Name one convolution or linear layer, or two that share the axes of a kernel."""
    working = [layer for layer in layers if layer.kind in ("conv", "linear")]
    has_norm = any(layer.kind == "norm" for layer in layers)
    if len(working) > 2 or (len(working) == 2 and not _is_split(*working)):
        return None
    first = working[0]
    if first.kind == "linear":
        return "linear"
    is_depthwise = first.is_depthwise and first.groups > 1
    kind = "dw_conv" if is_depthwise else "nor_conv" if has_norm and len(working) == 1 else "conv"
    grouped = f"_g{first.groups}" if first.groups > 1 and not is_depthwise else ""
    dilated = f"_d{first.dilation}" if first.dilation > 1 else ""
    return "_".join((kind, *(layer.by for layer in working))) + grouped + dilated


def _is_split(first: Layer, second: Layer) -> bool:
    """Return whether two convolutions filter one axis each: 1x7, then 7x1."""
    if first.groups * second.groups > 1 or len(first.sizes) != 2 or first.sizes != second.sizes[::-1]:
        return False
    return 1 in first.sizes and first.sizes != (1, 1)


def _users_names(gm: fx.GraphModule, chains: Sequence[Sequence[fx.Node]], named: list[str]) -> list[str] | None:
    """Return the names that the user gave to all candidates, or None."""
    counts = Counter(node for chain in chains for node in chain)
    owned = [[place_of(node) for node in chain if counts[node] == 1] for chain in chains]
    paths = [common_path(places) if places else None for places in owned]
    container = _container(gm, paths)
    if container is None:
        return None
    path, module = container
    keys = list(module._modules)
    places = [None if own is None else keys.index(_child(own, path)) for own in paths]
    if isinstance(module, nn.ModuleDict):
        return _assigned(keys, places)
    for holder, is_owner in _holders(gm, path):
        for names in _lists_of_names(holder, len(keys)):
            found = _assigned(names, places)
            if found is not None and (is_owner or _speaks_of(found, named)):
                return found
    return None


def _container(gm: fx.GraphModule, paths: list[str | None]) -> tuple[str, Any] | None:
    """Return the innermost list or dict of modules that has every candidate, each as a child of its own."""
    known = [path for path in paths if path is not None]
    above = common_path(known)
    while above:
        module = gm.get_submodule(above)
        inside = [path for path in known if path.startswith(above + ".")]
        children = {_child(path, above) for path in inside}
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if is_list and len(inside) == len(children) == len(known) and len(module) >= len(paths):  # type: ignore[arg-type]
            return above, module
        above = above.rpartition(".")[0]
    return None


def _child(path: str, above: str) -> str:
    return path[len(above) + 1 :].split(".")[0]


def _assigned(names: Sequence[str], places: Sequence[int | None]) -> list[str] | None:
    """Give each candidate its name, also those that no module computes: by their position, or as the one left."""
    is_in_order = len(names) == len(places) and all(place in (None, i) for i, place in enumerate(places))
    if is_in_order:
        return list(names)
    left = [name for i, name in enumerate(names) if i not in places]
    if places.count(None) > 1 or (None in places and len(left) != 1):
        return None
    return [left[0] if place is None else names[place] for place in places]


def _holders(gm: fx.GraphModule, path: str) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the modules above a list, the nearest first, and whether one owns it."""
    is_owner = True
    while path:
        path = path.rpartition(".")[0]
        yield gm.get_submodule(path), is_owner
        is_owner = False


def _lists_of_names(holder: nn.Module, length: int) -> Iterator[list[str]]:
    for value in (*vars(holder).values(), *vars(type(holder)).values()):
        is_list = isinstance(value, list | tuple) and len(value) == length
        if is_list and all(isinstance(name, str) and name for name in value) and len(set(value)) == length:
            yield list(value)


def _speaks_of(names: list[str], structural: list[str]) -> bool:
    """Return whether most names of a list that stands far away have a word in common with what is computed."""
    pairs = zip(names, structural, strict=True)
    return 2 * sum(bool(_words(name) & _words(other)) for name, other in pairs) > len(names)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+x\d+", name.lower()))
