"""``check``: what passes, what must not, and what is said where something cannot be told."""

from __future__ import annotations

import copy
import ctypes
import json
import sys
from typing import Any

import pytest
import torch
from torch import nn

import toponas_fx
from check_models import Annealed, Constant32, Draws, Lottery, Noisy, Rounded32, Scored, Supernet, WeightsGiven
from supernets.darts import DARTSSupernet
from supernets.gdas import GDASSupernet
from supernets.mobile import MobileSupernet
from supernets.nasbench201 import NASBench201Supernet
from supernets.pcdarts import PCDARTSSupernet
from toponas_fx.checking.one_hot import OneHotArchitectures
from toponas_fx.module_tree.tensor_paths import model_tensors
from toponas_fx.passes import DEFAULT_PASSES, DetectMixedOps
from toponas_fx.rewriting.pass_base import Pass, Semantics
from wrong_passes import Fail, SwapSharedWeights, SwapWeights, add_pass

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = {"C": 4, "layers": 2, "steps": 1, "multiplier": 1, "reductions": (1,)}
SUPERNETS = {
    "nasbench201": (lambda: NASBench201Supernet(C=4, N=1, alphas="tensor"), 18),
    "darts": (lambda: DARTSSupernet(**SMALL), 4),
    "pcdarts": (lambda: PCDARTSSupernet(**SMALL), 4),
    "mobile": (lambda: MobileSupernet(C=4, layers=1), 3),
}


# -- what passes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUPERNETS)
def test_supernets_of_the_field_pass(name: str) -> None:
    make, mixtures = SUPERNETS[name]
    verdict = toponas_fx.check(make(), IMAGE)
    assert verdict.passed, verdict
    assert (verdict.one_hot.complete, verdict.one_hot.mixtures) == (mixtures, mixtures)
    assert verdict.one_hot.is_complete
    assert (verdict.dtype, verdict.reason, verdict.notes) == ("float64", "", ())
    assert {check.mode for check in verdict.checks} == {"exact", "share"}
    assert max(check.error for check in verdict.checks) < 1e-11
    at_vertices = [c for c in verdict.checks if c.mode == "share" and c.at.startswith("one-hot architecture")]
    assert {(c.what, c.training) for c in at_vertices} == {
        (what, training) for what in ("outputs", "gradients") for training in (True, False)
    }


def test_a_sampled_path_is_compared_with_the_same_one() -> None:
    verdict = toponas_fx.check(GDASSupernet(C=4, N=1), IMAGE)
    assert verdict.passed
    assert verdict.sentence == "PASS: GDASSupernet, simplified, computes what it did"


def test_a_model_left_as_written_is_right_and_says_so() -> None:
    verdict = toponas_fx.check(Draws(), X)
    assert verdict.passed
    assert verdict.sentence.startswith("PASS, runs as written: ")
    assert ".py:" in verdict.sentence
    assert verdict.as_written["share"]


def test_inputs_are_inferred() -> None:
    verdict = toponas_fx.check(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    assert verdict.inputs == ("float64[3, 3]",)
    assert verdict.passed
    assert "nothing is shared" in str(verdict)


def test_weights_that_forward_is_given_are_put_at_vertices_too() -> None:
    verdict = toponas_fx.check(WeightsGiven(), (X, torch.rand(2, 4)))
    assert verdict.passed
    assert verdict.one_hot.is_complete


def test_the_model_and_the_generators_are_left_alone() -> None:
    model, x = Supernet(), X.clone()
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    toponas_fx.check(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() is torch.float32
    assert torch.equal(x, X)
    for (path, tensor), (_, other) in zip(model_tensors(model), model_tensors(before), strict=True):
        assert tensor.dtype == other.dtype, path
        assert torch.equal(tensor, other), path


# -- what must not pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [SwapWeights(), SwapSharedWeights()], ids=["exact", "share"])
def test_swapped_weights_are_found(rule: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    add_pass(monkeypatch, rule)
    verdict = toponas_fx.check(Supernet(), X)
    assert not verdict.passed
    modes = {check.mode for check in verdict.failures}
    assert modes == ({"share"} if rule.semantics is Semantics.SHARES else {"exact", "share"})
    assert {check.what for check in verdict.failures} >= {"outputs", "gradients"}
    assert verdict.sentence.startswith("FAIL: ")
    assert "WRONG" in str(verdict)


def test_wrong_weights_are_found_where_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    add_pass(monkeypatch, SwapSharedWeights())
    model = Supernet()
    model.edges = nn.ModuleList(nn.ModuleList([nn.Identity(), nn.Tanh(), nn.Sigmoid(), nn.ReLU()]) for _ in range(2))
    verdict = toponas_fx.check(model, X)
    assert not verdict.one_hot.matters
    assert {(check.mode, check.at) for check in verdict.failures} >= {("share", "its own weights")}


def test_a_pass_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    add_pass(monkeypatch, Fail())
    verdict = toponas_fx.check(Supernet(), X)
    assert not verdict.passed
    assert verdict.report is None
    assert "pass 'fail'" in verdict.sentence
    assert "lost" in verdict.sentence
    assert json.loads(json.dumps(verdict.as_dict(), allow_nan=False))["checks"][0]["error"] is None


def test_statistics_of_another_norm_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrong buffers show in evaluation alone, and only since the norms have seen something."""
    make = toponas_fx.simplify

    def spoiled(*args: Any, **options: Any) -> Any:
        fast = make(*args, **options)
        real = fast._toponas.programs[-1 if fast._toponas.programs[0].fixed[2] else 0]
        assert not real.fixed[2]
        run = real.run
        real.run = lambda model, *tensors: run(model, *tensors) + 1e-6 * model.get_buffer("edges.0.2.2.running_mean")[0]
        return fast

    monkeypatch.setattr(sys.modules["toponas_fx.checking.check"], "simplify", spoiled)
    verdict = toponas_fx.check(Supernet(), X)
    assert {check.training for check in verdict.failures} == {False}
    assert not any(check.at == "its own weights" for check in verdict.failures)


# -- what cannot be told ---------------------------------------------------------------------------------------------


def test_weights_that_are_never_one_hot_are_named() -> None:
    verdict = toponas_fx.check(Annealed(), X)
    assert verdict.passed
    assert not verdict.one_hot.is_complete
    assert verdict.sentence == "PASS, but incomplete: 2 of 2 mixed operations could not be put at one-hot weights"
    assert "    edges.0: no value of its tensors makes its weights one-hot" in str(verdict).splitlines()
    assert not verdict.as_dict()["complete"]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Lottery, "its weights depend on no tensor of the model that can be set"),
        (Noisy, "no value of its tensors makes its weights one-hot"),
    ],
)
def test_weights_that_noise_decides_are_never_one_hot(kind: type[nn.Module], reason: str) -> None:
    verdict = toponas_fx.check(kind(), X)
    assert verdict.one_hot.missed
    assert all(missed.endswith(f": {reason}") for missed in verdict.one_hot.missed)
    assert not verdict.one_hot.is_complete


def test_weights_from_the_input_are_named() -> None:
    verdict = toponas_fx.check(Scored(), X)
    assert verdict.passed
    assert verdict.one_hot.missed == tuple(
        f"edges.{edge}: a module computes its weights from the input" for edge in range(2)
    )


def test_a_forward_that_needs_float32_is_compared_in_float32() -> None:
    verdict = toponas_fx.check(Constant32(), X)
    assert verdict.passed, verdict
    assert (verdict.dtype, verdict.tolerance) == ("float32", 1e-3)
    assert "forward cannot run in float64" in verdict.reason
    assert "check_models.py:" in verdict.reason
    assert "errors up to 1e-03 pass" in str(verdict)


def test_a_forward_that_rounds_inside_gets_the_tolerance_of_that() -> None:
    verdict = toponas_fx.check(Rounded32(), X)
    assert verdict.passed, verdict
    assert (verdict.dtype, verdict.tolerance) == ("float64", 1e-3)
    assert "computes in float32 there" in verdict.reason


@pytest.mark.parametrize(
    ("model", "inputs", "error", "text"),
    [
        (3, None, toponas_fx.ArgumentError, "a torch.nn.Module, not int"),
        (Supernet(), torch.randn(2, 5, 6, 6), toponas_fx.InputError, r"shape \(2, 5, 6, 6\): .*check_models.py"),
        (nn.ReLU(), None, toponas_fx.InputError, "tells no input shape"),
        (nn.DataParallel(Supernet()), X, toponas_fx.ArgumentError, "simplify before wrapping"),
    ],
    ids=["no module", "wrong inputs", "no inputs", "wrapped"],
)
def test_what_cannot_be_checked_is_an_error(model: Any, inputs: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        toponas_fx.check(model, inputs)


# -- one-hot architectures ---------------------------------------------------------------------------------------------


def test_vertices_move_the_candidates_weights_alone_and_put_them_back() -> None:
    model = PCDARTSSupernet(**SMALL)
    before = [tensor.detach().clone() for tensor in model.arch_parameters()]
    until = [type(entry) for entry in DEFAULT_PASSES].index(DetectMixedOps)
    detected = toponas_fx.simplify(model, IMAGE, passes=DEFAULT_PASSES[: until + 1])
    one_hot = OneHotArchitectures(detected, (IMAGE,))
    alphas, betas = model.arch_parameters()[:2], model.arch_parameters()[2:]
    assert set(one_hot.leaves) == set(map(id, alphas))
    for missed in one_hot.visit():
        assert missed == []
        for tensor in alphas:
            assert (tensor.softmax(-1).sort(-1).values == torch.eye(8)[-1]).all()
    assert all(len(state.reached) == 8 for state in one_hot.states)
    assert one_hot.rounds == 16
    for tensor, value in zip((*alphas, *betas), before, strict=True):
        assert torch.equal(tensor, value)


# -- Python state ------------------------------------------------------------------------------------------------------

COUNTER = ctypes.c_double(1.0)


def count() -> float:
    COUNTER.value += 1.0
    return float(COUNTER.value)


class Counts(Supernet):
    tau = 2.0

    def weights(self) -> Any:
        return (self.held["alphas"] / self.tau / count()).softmax(-1)


def test_a_forward_that_changes_unseen_fails_with_its_line() -> None:
    verdict = toponas_fx.check(Counts(), X)
    line = f"{__file__}:{Counts.weights.__code__.co_firstlineno + 1}"
    assert not verdict.passed
    assert f"forward has changed at {line}, unseen by any guard" in verdict.sentence
    assert {(c.mode, c.training) for c in verdict.failures if c.what == "recording"} == {
        (mode, training) for mode in ("exact", "share") for training in (True, False)
    }


def test_what_is_watched_is_said() -> None:
    verdict = toponas_fx.check(Annealed(), X)
    assert verdict.passed
    assert verdict.watched
    assert f"watched at each call: {verdict.watched[0]}" in str(verdict)
    assert verdict.as_dict()["watched"] == list(verdict.watched)
    assert not any(hidden in name for name in verdict.watched for hidden in (".training`", "weights`", "_toponas"))
