"""What ``example_inputs`` and ``example_kwargs`` may be, and what is said of the rest."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from check_models import C, Supernet
from exactness import assert_runs_like
from small_darts import batch, network
from toponas_fx.analysis.arms import selects
from toponas_fx.capture.inputs import infer_inputs
from toponas_fx.runtime.simplified_module import SimplifiedModule

X = torch.randn(2, C, 6, 6, generator=torch.Generator().manual_seed(0))
IMAGE = batch()[0]


class ByName(Supernet):
    """Takes its image by name alone, and a number beside it."""

    def forward(self, *, x: Tensor, scale: float = 1.0) -> Tensor:  # type: ignore[override]
        return super().forward(x) * scale

    def larger(self) -> nn.Module:
        """Return a model of another structure."""
        other = type(self)()
        other.head = nn.Identity()
        return other


class OfBatch(Supernet):
    """Takes one dict, by position."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["image"])


class OfBoth(Supernet):
    """Takes one tensor by position and one by name."""

    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) * mask


# -- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "written"),
    [
        ((2, 3, 32, 32), "the sizes (2, 3, 32, 32): write torch.randn(2, 3, 32, 32)"),
        ([2, 3, 32, 32], "the sizes [2, 3, 32, 32]: write torch.randn(2, 3, 32, 32)"),
        (torch.Size([4]), "the sizes torch.Size([4]): write torch.randn(4)"),
        (((2, 3), (2, 8)), "the sizes ((2, 3), (2, 8)): write (torch.randn(2, 3), torch.randn(2, 8))"),
        ([(2, 3)], "the sizes [(2, 3)]: write torch.randn(2, 3)"),
    ],
)
@pytest.mark.parametrize("function", [toponas_fx.simplify, toponas_fx.explain, toponas_fx.topology, toponas_fx.check])
def test_sizes_in_place_of_tensors_are_answered_with_what_to_write(function: Any, inputs: Any, written: str) -> None:
    with pytest.raises(toponas_fx.InputError, match=re.escape(f"forward's arguments, not {written}")):
        function(network(), inputs)


@pytest.mark.parametrize("inputs", [(), [], (True, False), (2, "x"), (0.5,), ((2, 3), None)])
def test_what_is_no_shape_is_not_called_one(inputs: Any) -> None:
    with pytest.raises(toponas_fx.InputError, match="must be one tensor or a tuple of forward's arguments, not ") as e:
        toponas_fx.simplify(network(), inputs)
    assert "randn" not in str(e.value)


# -- arguments by name -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["share", "exact"])
def test_a_forward_that_takes_its_tensors_by_name_alone(mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = toponas_fx.simplify(ByName(), example_kwargs={"x": X, "scale": 2.0}, mode=mode)
    assert [node.name for node in fast.graph.nodes if node.op == "placeholder"] == ["x"]
    count = len(fast._toponas.programs)
    found = fast(x=X, scale=2.0)
    assert len(fast._toponas.programs) == count, "the captured programs hold for such a call"
    if mode == "exact":
        assert torch.allclose(found, fast.reference(x=X, scale=2.0), atol=1e-5)
    else:
        assert fast.report.after.convolutions < fast.report.before.convolutions


def test_positional_arguments_and_arguments_by_name() -> None:
    model = OfBoth().double()
    model.held = {"alphas": model.held["alphas"].detach().double().requires_grad_()}
    x, mask = X.double(), torch.rand(2, 1, 6, 6).double()
    fast = toponas_fx.simplify(model, x, example_kwargs={"mask": mask}, mode="exact")
    assert [node.name for node in fast.graph.nodes if node.op == "placeholder"] == ["x", "mask"]
    assert_runs_like(fast, model, x, mask=mask)


def test_the_report_is_measured_with_arguments_by_name() -> None:
    given = {"x": X, "scale": 2.0}
    report = toponas_fx.explain(ByName(), example_kwargs=given)
    assert 0 < report.after.flops < report.before.flops
    same = toponas_fx.explain(Supernet(), X)
    assert (report.before.flops, report.after.flops) == (same.before.flops, same.after.flops)
    assert toponas_fx.simplify(Supernet()).report.before.flops is None, "nothing is measured with a guess"


def test_the_topology_is_found_with_arguments_by_name() -> None:
    found = toponas_fx.topology(ByName(), example_kwargs={"x": X})
    assert found.number_of_edges() == toponas_fx.topology(Supernet(), X).number_of_edges() > 0


def test_check_compares_with_arguments_by_name() -> None:
    verdict = toponas_fx.check(ByName(), example_kwargs={"x": X, "scale": 2.0})
    assert verdict.passed, verdict
    assert verdict.inputs == ("float64[2, 4, 6, 6]",)
    assert verdict.report is not None
    assert verdict.report.before.flops
    assert verdict.one_hot.is_complete
    assert toponas_fx.check(OfBoth(), X, example_kwargs={"mask": torch.ones(2, 1, 6, 6)}).passed


def test_tuning_runs_with_arguments_by_name(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOPONAS_CACHE", str(tmp_path))
    fast = toponas_fx.simplify(ByName(), example_kwargs={"x": X}, mode="exact", tune=True)
    assert "of the original's, measured" in capsys.readouterr().out
    assert torch.allclose(fast(x=X), fast.reference(x=X), atol=1e-5)


def test_a_model_of_another_structure_is_simplified_with_the_arguments_by_name() -> None:
    fast = toponas_fx.simplify(ByName(), example_kwargs={"x": X}, mode="exact")
    for twin in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        other = twin.larger()
        assert isinstance(other, SimplifiedModule)
        assert torch.allclose(other(x=X), other.reference(x=X), atol=1e-5)


def test_a_model_that_draws_its_path_is_recorded_with_arguments_by_name() -> None:
    class Sampled(ByName):
        def weights(self) -> Any:
            return nn.functional.gumbel_softmax(self.held["alphas"], hard=True)

        def forward(self, *, x: Tensor) -> Tensor:  # type: ignore[override]
            for w, ops in zip(self.weights(), self.edges, strict=True):
                x = sum(v * op(x) for v, op in zip(w, ops, strict=True) if v != 0)  # type: ignore[assignment]
            return x

    fast = toponas_fx.simplify(Sampled(), example_kwargs={"x": X})
    assert selects(fast._toponas.programs[0].graph)
    assert fast(x=X).shape == X.shape


def test_the_given_dict_is_not_kept() -> None:
    given: dict[str, Any] = {"x": X}
    fast = toponas_fx.simplify(ByName(), example_kwargs=given)
    given["y"] = X
    assert fast.report.before.flops
    assert isinstance(fast.larger(), SimplifiedModule)


@pytest.mark.parametrize(
    ("inputs", "by_name", "error", "text"),
    [
        (None, [X], toponas_fx.InputError, "example_kwargs must be a dict of forward's arguments by name, not list"),
        (None, {1: X}, toponas_fx.InputError, "do not fit the model's forward: keywords must be strings"),
        (None, {"y": X}, toponas_fx.InputError, "do not fit the model's forward: missing a required argument: 'x'"),
        (None, {"scale": 2.0}, toponas_fx.InputError, "there is no tensor in example_inputs or example_kwargs"),
        ({"x": X}, None, toponas_fx.InputError, "its keys are forward's arguments: write example_kwargs={'x': ...}"),
    ],
    ids=["list", "number", "missing", "no tensor", "as inputs"],
)
def test_what_is_no_call_of_forward_gets_one_sentence(inputs: Any, by_name: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)) as caught:
        toponas_fx.simplify(ByName(), inputs, example_kwargs=by_name)
    assert "\n" not in str(caught.value)


# -- one dict by position --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [{"image": X}, ({"image": X},)], ids=["bare", "in a tuple"])
def test_a_forward_that_takes_one_dict(inputs: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = toponas_fx.simplify(OfBatch(), inputs, mode="exact")
    assert torch.allclose(fast({"image": X}), fast.reference({"image": X}), atol=1e-5)
    assert toponas_fx.check(OfBatch(), inputs).passed


def test_a_dict_that_may_be_either_is_asked_about() -> None:
    with pytest.raises(toponas_fx.InputError, match=re.escape("or ({...},) where forward takes the dict itself")):
        toponas_fx.simplify(OfBatch(), {"batch": X})


# -- guessed inputs --------------------------------------------------------------------------------------------------


def test_a_guess_lies_where_the_model_does() -> None:
    with torch.device("meta"):
        layer = nn.Conv2d(3, 4, 1, dtype=torch.float16)
    assert [(x.device.type, x.dtype) for x in infer_inputs(layer)] == [("meta", torch.float16)]
