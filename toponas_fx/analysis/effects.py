"""Which nodes may be removed when unread, and merged when equal."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import fx, nn
from torch.nn import functional

from toponas_fx import ops
from toponas_fx.analysis import arms
from toponas_fx.ir import known_facts
from toponas_fx.ir.targets import target_name
from toponas_fx.ops import choices
from toponas_fx.ops.registry import facts

_RANDOM = frozenset(
    "rand randn randint rand_like randn_like randint_like randperm bernoulli multinomial normal poisson binomial empty "
    "empty_like new_empty empty_strided dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout "
    "feature_alpha_dropout gumbel_softmax rrelu fractional_max_pool2d fractional_max_pool3d "
    "fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices "
    "native_dropout scaled_dot_product_attention multi_head_attention_forward new _sample_dirichlet _standard_gamma "
    "seed manual_seed set_rng_state".split()
)
_RANDOM_IN_PLACE = frozenset("bernoulli_ uniform_ normal_ exponential_ random_ cauchy_ geometric_ log_normal_".split())
_DROPOUTS = nn.modules.dropout._DropoutNd
_EFFECTS = frozenset("_set_grad_enabled requires_grad_ backward _assert _assert_async record_function".split())
_COUNTING = frozenset("batch_norm instance_norm native_batch_norm".split())
_PURE_MODULES = tuple(
    f"torch.nn.modules.{name}"
    for name in "activation conv linear pooling padding upsampling flatten pixelshuffle channelshuffle distance".split()
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)
_RANDOM_MODULES = (nn.RReLU, nn.MultiheadAttention, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_STATELESS_NORMS = (nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)

_SCALABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm)  # by type: a subclass may do more


def is_pure(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether running a node any number of times, or never, differs only in its own value.

    Unknown callables, random draws, in-place writes and norms that update running statistics are not pure.
    """
    if node.meta.get("mutates") or node.op in ("placeholder", "output"):
        return False
    if node.op == "get_attr":
        return True
    if node.op == "call_module":
        return is_pure_module(gm.get_submodule(str(node.target)))
    name = target_name(node.target)
    if name in _RANDOM or name in _EFFECTS or facts(node.target).has_effect:
        return False
    if is_counting_function(node):
        return False
    if node.op == "call_method":
        return not name.endswith("_") or name.endswith("__")
    return _is_known(node.target) and node.target is not operator.setitem and not name.endswith("_")


def is_random(gm: nn.Module, node: fx.Node) -> bool:
    """Return whether a node draws from a random generator."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        return isinstance(module, _RANDOM_MODULES) or (isinstance(module, _DROPOUTS) and module.training)
    name = target_name(node.target)
    return name in _RANDOM or name in _RANDOM_IN_PLACE or facts(node.target).draws


@known_facts.of_module
def is_pure_module(module: nn.Module) -> bool:
    """Tell the same of a leaf module in its present mode."""
    if getattr(module, "inplace", False) or isinstance(module, _RANDOM_MODULES) or is_hooked(module):
        return False
    if isinstance(module, _DROPOUTS):
        return not module.training
    if isinstance(module, nn.modules.instancenorm._InstanceNorm):  # whose buffers count whenever the input's are used
        return module.running_mean is None or (not module.training and module.track_running_stats)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return not (module.training and module.track_running_stats)
    return type(module).__module__ in _PURE_MODULES or isinstance(module, _STATELESS_NORMS)


@known_facts.of_module
def is_counting_norm(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm in training mode whose only effect is on running statistics of its own."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or is_hooked(module):
        return False
    if any(statistic is None for statistic in module._buffers.values()):
        return False
    return module.training and module.track_running_stats and next(module.parameters(), None) is None


@known_facts.of_module
def is_hooked(module: nn.Module) -> bool:
    """Return whether a module carries hooks: each of its calls does what only the user knows."""
    own = object.__getattribute__(module, "__dict__")  # a capture watches plain reads
    return any(own[name] for name in _HOOKS) if _HOOKS[0] in own else any(hook_tables([module]))


def has_global_hooks() -> bool:
    """Return whether torch runs hooks around every module's call."""
    return any(getattr(nn.modules.module, name) for name in _GLOBAL_HOOKS)


def global_hooks() -> list[tuple[str, Any]]:
    """Return the hooks that run around every module's call, each with its table's name; torch's own only look on."""
    tables = ((name, getattr(nn.modules.module, name).values()) for name in _GLOBAL_HOOKS)
    found = [(name, hook) for name, hooks in tables for hook in hooks]
    return [known for known in found if not str(getattr(known[1], "__module__", "")).startswith("torch.")]


def hook_tables(modules: Iterable[nn.Module]) -> Iterator[dict[int, Any]]:
    """Yield the tables of hooks of some modules; all are empty where none carries any."""
    for module in modules:
        for name in _HOOKS:
            yield getattr(module, name)


def is_counting_function(node: fx.Node) -> bool:
    """Return whether a node calls a functional norm that may update running statistics, given after the input."""
    name = getattr(node.target, "__name__", "")
    return node.op == "call_function" and name in _COUNTING and not _counts_nothing(node)


def is_guard(node: fx.Node) -> bool:
    """Return whether a node may end a run: it reads from data what the recorded runs read otherwise."""
    return node.target is ops.guard or (node.target is choices.select and arms.may_fail(node))


def guards_lead(graph: fx.Graph) -> bool:
    """Return whether a run that fails a guard has written nothing by then but what it made, and drawn numbers."""
    guards = [node for node in graph.nodes if is_guard(node)]
    held: set[Any] = set()
    for node in graph.nodes:
        if not guards or node > guards[-1]:
            return True
        if node.op in ("placeholder", "get_attr") or not any("type" in value.meta for value in node.all_input_nodes):
            held.add(node.meta.get("storage"))  # the model's, the caller's, or an item of theirs
        known = facts(node.target)
        counts = (known.has_effect and known.gives_data and not known.draws) or is_counting_function(node)
        if node.op == "call_module" or counts or not held.isdisjoint(node.meta.get("mutates", ())):
            return False
    return True


def _counts_nothing(node: fx.Node) -> bool:
    """Return whether a functional norm updates no running statistics; torch counts no version for those."""
    given = {**dict(zip(("input", "running_mean", "running_var"), node.args, strict=False)), **node.kwargs}
    is_plain = node.target in (functional.batch_norm, functional.instance_norm)
    return is_plain and given.get("running_mean") is None and given.get("running_var") is None


def _is_known(function: Any) -> bool:
    if isinstance(function, BuiltinFunctionType):
        return True
    owner = getattr(function, "__module__", "") or ""
    is_plain = isinstance(function, FunctionType | type(operator.add))
    return is_plain and owner.split(".")[0] in ("torch", "_operator", "operator", "toponas_fx")


def is_scalable_norm(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a node calls a norm with affine weights that a number can be multiplied into."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return False
    module = gm.get_submodule(str(node.target))
    return type(module) in _SCALABLE and not is_hooked(module)
