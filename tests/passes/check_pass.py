"""The one helper of the tests of passes: the rewrite as text, idempotence, and the function by the declared semantics.

Everything runs in float64, with norms whose eps is too small to hide an error. Tensors are compared relative to their
size, and to 1 below it.
"""

import contextlib
import copy
import itertools
import re
import textwrap

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

import toponas_fx
from toponas_fx.capture.owners import model_tensors
from toponas_fx.graph_text import format_graph
from toponas_fx.pass_contract import Repeat, Semantics
from toponas_fx.pipeline import run_passes

EXACT = 1e-10
"""Tolerance of EXACT and ROUNDING passes, and of the vertex test."""
UNDONE = 1e-7
"""Tolerance where a norm must undo a kernel's scale: its eps does not scale along."""
EPS = 1e-12

_TYPE = re.compile(r" : [a-z0-9_]+\[[0-9,]*\]$", re.MULTILINE)


class Net(nn.Module):
    """A module of named parts (modules, parameters, tensors, plain values) and a function ``forward(self, x)``."""

    def __init__(self, forward, **parts):
        super().__init__()
        self._forward_function = (forward,)  # in a tuple: a plain function is no state to guard
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x, *more):
        return self._forward_function[0](self, x, *more)


class Edge(nn.Module):
    """One mixture: ``sum(w * op(x))`` over candidates, the weights taken as they are."""

    def __init__(self, *candidates):
        super().__init__()
        self.alphas = nn.Parameter(torch.linspace(0.3, 0.7, len(candidates)))
        self.ops = nn.ModuleList(candidates)

    def forward(self, x):
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=True))


def text_of(gm):
    """Return the graph text without types."""
    return _TYPE.sub("", format_graph(gm))


def lines_of(gm, function):
    """Return the arguments of each call of a function, as text: ``([%3, %5], [%2, %4], (0, 0))``."""
    return [line.split(f" {function}")[1] for line in text_of(gm).splitlines() if f"= {function}(" in line]


def prepare(module):
    """Bring a module and its plain tensors to float64, norms to a small eps and statistics of their own."""
    module = copy.deepcopy(module).double()
    for part in module.modules():
        if hasattr(part, "eps"):
            part.eps = EPS
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    for _, tensor in model_tensors(module):
        if tensor.is_floating_point():
            tensor.data = tensor.data.double()
    return module


def check_pass(pass_, module, inputs, before=None, after=None, prerequisites=()):
    """Check one pass on one module.

    Args:
        pass_: the pass.
        module: a module; a copy of it is used.
        inputs: its input, or a tuple of inputs.
        before: the graph text it starts from, types left out; None where the text does not matter.
        after: the graph text it ends at, likewise; equal to ``before`` where nothing may change.
        prerequisites: passes that run before it. For a pass that shares, ``module`` has raw architecture weights
            called ``alphas``, ``[n]`` or ``[edges, n]``, and all passes run in the deciding capture.

    Returns:
        The rewritten model, in training mode, and the record of the pass.
    """
    inputs = tuple(x.double() if x.is_floating_point() else x for x in _as_tuple(inputs))
    module = prepare(module)
    shares = pass_.semantics is Semantics.SHARES
    oracle = copy.deepcopy(module)
    if any(entry.semantics is Semantics.SHARES for entry in _flat(prerequisites)):
        oracle = toponas_fx.simplify(oracle, inputs, passes=prerequisites)
    fast = toponas_fx.simplify(copy.deepcopy(module), inputs, passes=prerequisites)
    fast.train()
    _check_text(fast, before)
    if shares:
        fast = toponas_fx.simplify(module, inputs, passes=(*prerequisites, pass_)).train()
        record = fast.report.records[-1]
    else:
        (record,) = run_passes(fast, [pass_])
        fast.eval()
        run_passes(fast, [pass_])
    _recompile(fast)
    _check_text(fast, after)
    assert bool(record.changes) == (before != after) or before is None, record.changes
    check_is_idempotent(pass_, fast)
    pass_.ensures(fast)
    if shares:
        check_vertices(fast, inputs)
        check_restored(fast, inputs)
    else:
        check_same(fast, oracle, inputs)
    return fast.train(), record


def check_keeps(pass_, module, inputs, reason=None, prerequisites=()):
    """Check that a pass leaves a module's training graph alone, and says so where ``reason`` is given.

    Returns:
        The reasons of all refusals.
    """
    inputs = tuple(x.double() if x.is_floating_point() else x for x in _as_tuple(inputs))
    fast = toponas_fx.simplify(prepare(module), inputs, passes=prerequisites).train()
    undecide(fast)
    before = text_of(fast)
    plan = pass_.plan(fast)
    assert plan.matches == (), [match.describe() for match in plan.matches]
    assert text_of(fast) == before
    reasons = [refusal.reason for refusal in plan.refusals]
    assert all(refusal.nodes for refusal in plan.refusals)
    if reason is not None:
        assert any(reason in found for found in reasons), reasons
    return reasons


def undecide(fast):
    """Let passes take the present graph for the deciding capture."""
    fast.meta["sharing"].is_decided = False


def check_is_idempotent(pass_, fast):
    """A second run finds nothing and changes nothing, in both modes."""
    for training in (True, False):
        fast.train(training)
        before = text_of(fast)
        (record,) = run_passes(fast, [pass_])
        assert record.changes == [], record.changes
        assert text_of(fast) == before


def check_same(fast, oracle, inputs, tolerance=EXACT):
    """Outputs, gradients of all tensors and inputs, and buffers agree, in both modes."""
    for training in (True, False):
        fast.train(training)
        oracle.train(training)
        own, others = gradient_tensors(fast), gradient_tensors(oracle)
        assert own.keys() <= others.keys()
        torch.manual_seed(1)
        found = run(fast, inputs, own.values())
        torch.manual_seed(1)
        expected = run(oracle, inputs, [others[name] for name in own])
        names = ["output", *own, *(f"input {index}" for index in range(len(inputs)))]
        assert_close(found, expected, names, tolerance)
        buffers = dict(oracle.named_buffers())
        assert fast.state_dict().keys() <= oracle.state_dict().keys()
        for name, buffer in fast.named_buffers():
            assert_close([buffer], [buffers[name]], [name], tolerance)


def check_vertices(fast, inputs, tolerance=EXACT):
    """At every one-hot weight vector, the graph computes what the user's forward on the shared tree does.

    In training mode also what it does without normalized kernels: the norm undoes a kernel's scale. Gradients are
    compared for all but the architecture weights, which are finite, in training mode.
    """
    for _ in vertices(fast):
        for training in (True, False):
            fast.train(training)
            tensors = {k: v for k, v in gradient_tensors(fast).items() if not k.startswith("alphas")}
            names = ["output", *tensors, *(f"input {index}" for index in range(len(inputs)))]
            expected = run(fast.reference, inputs, tensors.values())
            with untouched(fast):
                found = run(fast, inputs, tensors.values())
            assert_close(found, expected, names, tolerance, none_is_zero=True)
            weights = [tensor for key, tensor in gradient_tensors(fast).items() if key.startswith("alphas")]
            with untouched(fast):
                gradients = run(fast, inputs, weights)[1 : 1 + len(weights)]
            assert all(gradient.isfinite().all() for gradient in gradients)
        fast.train()
        with untouched(fast), torch.no_grad():
            as_written = [user_class(fast).forward(fast, *inputs)]
        with untouched(fast), torch.no_grad():
            assert_close([fast(*inputs)], as_written, ["output without normalized kernels"], UNDONE)


def check_restored(fast, inputs):
    """At every one-hot weight vector, the untied model computes what the simplified one does."""
    for _ in vertices(fast):
        plain = toponas_fx.restore(fast)
        for training in (False, True):
            fast.train(training)
            plain.train(training)
            with untouched(fast), torch.no_grad():
                assert_close([plain(*inputs)], [fast(*inputs)], ["output of the restored model"], EXACT)


def user_class(fast):
    """Return the user's class of a simplified model."""
    return next(base for base in type(fast).__mro__ if not issubclass(base, fx.GraphModule) and "forward" in vars(base))


def vertices(fast):
    """Set the architecture weights to one-hot vectors: each candidate on all edges, then mixed choices."""
    alphas = fast.alphas
    rows = alphas.data.view(-1, alphas.shape[-1])
    edges, count = rows.shape
    choices = [(choice,) * edges for choice in range(count)]
    if edges > 1:
        choices += itertools.islice(itertools.product(range(count), repeat=edges), 1, None, max(1, count**edges // 4))
    saved = rows.clone()
    for choice in choices:
        rows.zero_()
        for row, index in zip(rows, choice, strict=True):
            row[index] = 1.0
        yield choice
    rows.copy_(saved)


def gradient_tensors(module):
    """Return every tensor of a module that requires grad, plain ones included, by path; a tied one once."""
    found, seen = {}, set()
    for path, tensor in model_tensors(module):
        if tensor.requires_grad and id(tensor) not in seen:
            seen.add(id(tensor))
            found[path.target + "".join(f"[{key!r}]" for _, key in path.steps)] = tensor
    return found


def run(call, inputs, wanted):
    """Return the output and the gradients of ``wanted`` and of the inputs under a loss that tells elements apart."""
    inputs = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = [leaf for leaf in pytree.tree_leaves(call(*inputs)) if isinstance(leaf, torch.Tensor)]
    flat = torch.cat([output.flatten() for output in outputs])
    loss = (flat * torch.linspace(-1, 1, flat.numel(), dtype=flat.dtype)).sum()
    targets = [*wanted, *(x for x in inputs if x.requires_grad)]
    return [flat.detach(), *torch.autograd.grad(loss, targets, allow_unused=True)]


def assert_close(found, expected, names, tolerance, none_is_zero=False):
    """Compare tensors pairwise; a gradient is None on both sides or on none."""
    for tensor, other, name in zip(found, expected, names, strict=True):
        if tensor is None or other is None:
            both = tensor is None and other is None
            zeros = none_is_zero and not any(t.any() for t in (tensor, other) if t is not None)
            assert both or zeros, f"{name}: {'no' if tensor is None else 'a'} gradient, unlike the oracle"
            continue
        assert tensor.shape == other.shape, name
        if not tensor.numel():
            continue
        error = (tensor - other).abs().max().item() / max(1.0, other.abs().max().item())
        assert error <= tolerance, f"{name}: off by {error:.3g}"


@contextlib.contextmanager
def untouched(module):
    """Restore buffers on exit."""
    saved = [(buffer, buffer.clone()) for buffer in module.buffers()]
    yield
    for buffer, value in saved:
        buffer.data.copy_(value)


def _check_text(gm, expected):
    if expected is not None:
        assert text_of(gm) == textwrap.dedent(expected).strip("\n")


def _recompile(fast):
    for training in (False, True):
        fast.train(training)
        fast.recompile()


def _flat(passes):
    for entry in passes:
        yield from entry.passes if isinstance(entry, Repeat) else (entry,)


def _as_tuple(inputs):
    return inputs if isinstance(inputs, tuple) else (inputs,)
