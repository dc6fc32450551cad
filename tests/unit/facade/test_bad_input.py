"""Bad input gets one clear sentence and changes nothing; what is odd but possible is said in the report."""

from __future__ import annotations

import random
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image, weights
from small_darts import Network, batch, network
from toponas_fx.module_tree.tensor_paths import model_tensors


def test_the_reserved_prefix() -> None:
    model = nn.Linear(6, 6)
    vars(model)["_toponas_graph"] = 1
    with pytest.raises(toponas_fx.ArgumentError, match="Linear has an attribute `_toponas_graph`: rename it"):
        toponas_fx.simplify(model, image().float())


def scripted(module: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(module)


X = batch()[0]
BAD: dict[str, tuple[Any, str]] = {
    "no_module": (lambda: toponas_fx.simplify([nn.ReLU()], X), "takes a torch.nn.Module, not list"),
    "a_class": (lambda: toponas_fx.simplify(Network, X), "takes a torch.nn.Module, not type"),
    "wrapped": (lambda: toponas_fx.simplify(nn.DataParallel(network()), X), "simplify before wrapping"),
    "twice": (lambda: toponas_fx.simplify(toponas_fx.simplify(network(), X)), "simplified already"),
    "scripted": (lambda: toponas_fx.simplify(scripted(nn.Linear(6, 2)), X), "simplify it before"),
    "lazy": (lambda: toponas_fx.simplify(nn.Sequential(nn.LazyConv2d(4, 1)), X), "`0.weight` belongs to a lazy layer"),
    "lazy_norm": (lambda: toponas_fx.simplify(nn.LazyBatchNorm2d(affine=False), X), "`running_mean` belongs to a lazy"),
    "meta": (lambda: toponas_fx.simplify(nn.Linear(6, 2, device="meta")), "`weight` is on the meta device"),
    "meta_input": (lambda: toponas_fx.simplify(network(), X.to("meta")), "a tensor on the meta device"),
    "mode": (lambda: toponas_fx.simplify(network(), X, mode="fast"), "one of 'share', 'exact', not 'fast'"),
    "normalize": (lambda: toponas_fx.simplify(network(), X, normalize="no"), "normalize must be one of"),
    "pass": (lambda: toponas_fx.simplify(network(), X, passes=["merge"]), "Pass, which 'merge' is not"),
    "pass_class": (lambda: toponas_fx.simplify(network(), X, passes=[toponas_fx.passes.Deduplicate]), "write Dedup"),
    "no_tensor": (lambda: toponas_fx.simplify(network(), "x"), "one tensor or a tuple of forward's arguments, not str"),
    "no_tensors": (lambda: toponas_fx.simplify(network(), (1, 2)), "one tensor or a tuple of forward's arguments"),
    "too_many": (lambda: toponas_fx.simplify(network(), (X, X)), "do not fit the model's forward: too many"),
    "no_input": (lambda: toponas_fx.simplify(nn.Sequential(nn.ReLU())), "tells no input shape; pass example_inputs"),
    "inferred": (lambda: toponas_fx.simplify(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(7, 7))), "pass example_"),
    "inspection": (lambda: toponas_fx.inspection(network()), "takes what simplify returned, not Network"),
    "restore": (lambda: toponas_fx.restore(network()), "takes what simplify returned, not Network"),
}  # fmt: skip


@pytest.mark.parametrize("way", BAD)
def test_bad_input_gets_one_clear_sentence(way: str) -> None:
    call, sentence = BAD[way]
    with pytest.raises(toponas_fx.ToponasError, match=re.escape(sentence)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_an_input_that_does_not_fit_raises_the_users_error_and_changes_nothing() -> None:
    model = network()
    before = [tensor.clone() for _, tensor in model_tensors(model)]
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        toponas_fx.simplify(model, image())
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, model_tensors(model), strict=True))
    fast = toponas_fx.simplify(model, X, mode="exact")
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        fast(image())
    with pytest.raises(toponas_fx.InputError, match="do not fit the model's forward"):
        fast(X, X)
    assert_runs_like(fast, model, X)


def test_no_mixture_and_inferred_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    fast = toponas_fx.simplify(model)
    assert "no mixed operation" in fast.report.details()
    torch.testing.assert_close(fast(X.float()), model(X.float()))  # in another layout, and so to rounding
    assert (
        torch.equal(toponas_fx.simplify(nn.Linear(6, 2)).weight, toponas_fx.simplify(nn.Linear(6, 2)).weight) is False
    )
    assert "candidate" in str(toponas_fx.explain(network(), X))
    assert toponas_fx.topology(network(), X).number_of_edges() > 0


class Cut(nn.Module):
    """As many candidates and weights as one asks for: zip drops the rest without a word."""

    def __init__(self, candidates: int, count: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(candidates)]).double()
        self.alphas = weights(count)

    def forward(self, x: Tensor) -> Any:
        return sum(w * op(x) for w, op in zip(self.alphas, self.ops, strict=False))


@pytest.mark.parametrize(("candidates", "count", "said"), [(2, 4, "4 elements, 2 are used"), (3, 2, "ops.2")])
def test_weights_that_do_not_match_the_candidates_are_named(candidates: int, count: int, said: str) -> None:
    model = Cut(candidates, count)
    fast = toponas_fx.simplify(model, image())
    assert any(said in note for note in fast.report.notes), fast.report.notes
    assert_runs_like(toponas_fx.simplify(model, image(), mode="exact"), model, image())


def write(m: Any, x: Tensor) -> Tensor:
    m.last = {x.mean()}
    return m.layer(x)


def append(m: Any, x: Tensor) -> Tensor:
    m.seen.append(1)
    return m.layer(x) * len(m.seen)


def seed(m: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return m.layer(x)


def rebind(m: Any, x: Tensor) -> Tensor:
    out = m.layer(x)
    out.data = out.data * 2
    return out


CANNOT: dict[str, tuple[Any, str, str]] = {
    "write": (write, "forward writes the attribute `last` of the model", "keep a buffer"),
    "append": (append, "changes state in place: `the model.seen`", "do it outside forward"),
    "draw": (lambda m, x: m.layer(x) * random.random(), "Python's random generator is used", "draw with torch.rand"),
    "numpy": (lambda m, x: m.layer(x) * float(x.detach().numpy().max()), "handed to numpy", "torch's own functions"),
    "rebind": (rebind, "a property of a tensor (.data, .grad, .requires_grad) is assigned", "torch's own functions"),
    "seed": (seed, "torch's random generator is seeded", "do it before the call"),
    "vmap": (lambda m, x: torch.vmap(m.layer)(x), "torch.vmap() hides", "write the dimension out"),
    "lend": (lambda m, x: torch.func.functional_call(m.layer, {}, x), "functional_call() lends", "torch.nn.functional"),
    "hold": (lambda m, x: {m.layer(x)}, "forward returns, a set", "keep to tensors"),
    "foreign": (lambda m, x: m.layer(x) + FOREIGN[0], "comes neither from the model", "keep it as a buffer"),
}  # fmt: skip
FOREIGN = (torch.ones(6),)


@pytest.mark.parametrize("way", CANNOT)
def test_what_cannot_be_captured_is_placed_named_and_leaves_no_trace(way: str) -> None:
    """The warning says where, what was met and what to do; the model is as it was, and its forward runs as written."""
    body, met, advice = CANNOT[way]
    model = type("Odd", (nn.Module,), {"forward": body})()
    model.layer, model.seen, model.last = nn.Linear(6, 6), [], None
    before = [tensor.clone() for _, tensor in model_tensors(model)]
    kind, states = type(model), (torch.get_rng_state(), random.getstate())
    names = [(sorted(vars(module)), len(module._forward_hooks)) for module in model.modules()]
    with pytest.warns(UserWarning, match=re.escape(met)) as caught:
        fast = toponas_fx.simplify(model, image().float())
    for warning in caught:
        assert re.search(r"runs as its user wrote it: \S*test_bad_input\.py:\d+: ", str(warning.message))
        assert advice in str(warning.message)
    assert type(model) is kind
    assert (model.seen, model.last) == ([], None)
    assert [(sorted(vars(module)), len(module._forward_hooks)) for module in model.modules()] == names
    assert all(torch.equal(a, b) for a, (_, b) in zip(before, model_tensors(model), strict=True))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert type(fast(image().float())) is type(model(image().float()))
