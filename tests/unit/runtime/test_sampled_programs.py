"""Compiled models that sample a path: copies, tracebacks, what a step leaves in memory, what a try costs."""

from __future__ import annotations

import copy
import linecache
import pickle
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from forced_paths import Net, X
from toponas_fx.analysis import arms
from toponas_fx.capture import all_paths, path_sampling
from toponas_fx.runtime.program import Program


def drawing(self: Any, x: Tensor) -> Tensor:
    for row in self.alphas[:2]:
        k = (row + torch.rand(3)).argmax().item()
        x = self.ops[k](x.relu()) + row[k]
    return x


def test_a_choice_has_the_shape_of_what_it_takes_at_the_batch_of_the_call() -> None:
    fast: Any = toponas_fx.simplify(Net(drawing), torch.randn(7, *X.shape[1:], dtype=X.dtype), passes=())
    found = arms.selects(fast.graph)
    assert len(found) == 2
    for select in found:
        shapes = {tuple(value.meta["type"].shape) for value in (select, *select.args[2])}  # type: ignore[index,union-attr]
        assert shapes == {(7, *X.shape[1:])}


class Failure(torch.autograd.Function):
    """Fails while ``fails``."""

    fails = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if Failure.fails:
            raise RuntimeError("on demand")
        return x * 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0]


class Failing(nn.Module):
    """A candidate that fails on demand."""

    def forward(self, x: Tensor) -> Any:
        return Failure.apply(x)


def simplified(forward: Callable[..., Any] = drawing, **parts: Any) -> tuple[Any, Any]:
    model = Net(forward, **parts).double()
    fast = toponas_fx.simplify(copy.deepcopy(model), X.double())
    assert not fast._toponas.as_written
    return model, fast


def assert_same(fast: nn.Module, model: nn.Module, count: int = 9) -> None:
    for number in range(count):
        outputs = []
        for one in (fast, model):
            torch.manual_seed(number)
            outputs.append(one(X.double()))
        torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changed",
    [copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast)), lambda fast: copy.deepcopy(copy.deepcopy(fast))],
    ids=["deepcopy", "pickle", "twice"],
)
def test_copies_run_without_a_capture(changed: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = simplified()
    twin = changed(fast)
    monkeypatch.setattr("toponas_fx.facade.dispatch.compile_call", None)
    for one in (twin, fast):
        assert_same(one, model)
    (program,) = twin._toponas.programs
    assert arms.selects(program.graph)
    assert "Switch" not in program.code
    assert "choice_0_of_" in program.code


def test_a_program_is_copied_with_its_arms() -> None:
    _, fast = simplified()
    program: Program = fast._toponas.programs[0]
    twin = program.copy()
    assert twin.code == program.code
    assert [node.meta.get("arm") for node in twin.graph.nodes] == [node.meta.get("arm") for node in program.graph.nodes]
    for seed in range(4):
        outputs = []
        for one in (twin, program):
            torch.manual_seed(seed)
            outputs.append(one.run(fast, X.double()))
        assert torch.equal(*outputs)


def test_a_traceback_shows_the_line_of_the_arm() -> None:
    _, fast = simplified(ops=nn.ModuleList([Failing(), nn.Tanh(), nn.ReLU()]))
    Failure.fails = True
    try:
        with pytest.raises(RuntimeError, match="on demand") as error:
            assert_same(fast, fast)
    finally:
        Failure.fails = False
    frames = [
        frame for frame in traceback.extract_tb(error.value.__traceback__) if "toponas_fx program" in frame.filename
    ]
    assert len(frames) == 2, "the program, and the arm of the choice"
    assert "choice_" in (frames[0].line or "")
    assert "apply_" in (frames[1].line or "").lower() or "Failure" in (frames[1].line or "")
    assert "choice_" in frames[1].filename


def test_the_code_of_arms_is_forgotten_with_the_program() -> None:
    _, fast = simplified()
    program = fast._toponas.programs[0].copy()
    names = [name for name in linecache.cache if f"program {id(program)}" in name]
    assert len(names) >= 1 + 2 * 3
    del program
    assert not set(names) & set(linecache.cache)


def test_what_an_arm_computed_is_freed() -> None:
    """The value of a step is gone after it, those that are lazy too."""
    _, fast = simplified(lambda self, x: drawing(self, drawing(self, x)))
    kept: list[weakref.ref[Tensor]] = []
    real = nn.Conv2d.forward

    def forward(self: Any, x: Tensor) -> Tensor:
        out: Tensor = real(self, x)
        kept.extend((weakref.ref(x), weakref.ref(out)))
        return out

    nn.Conv2d.forward = forward  # type: ignore[method-assign]
    try:
        with torch.no_grad():
            for seed in range(6):
                torch.manual_seed(seed)
                fast(X.double())
                assert all(reference() is None for reference in kept)
    finally:
        nn.Conv2d.forward = real  # type: ignore[method-assign]
    assert kept


def test_no_more_is_saved_for_backward_than_in_the_original() -> None:
    model, fast = simplified()
    for seed in range(6):
        assert saved_by(fast, seed) <= saved_by(model, seed)


def saved_by(model: nn.Module, seed: int) -> int:
    """Return how many numbers a forward saves."""
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    torch.manual_seed(seed)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(X.double())
    return sum(saved)


def test_a_choice_that_goes_astray_is_undone_and_runs_as_written() -> None:
    """What else it is computed of was drawn alike in all recorded runs; by then a norm has counted."""

    def forward(self: Any, x: Tensor) -> Tensor:
        k = self.alphas[0].argmax() + (torch.rand(()) > 0.5).long()
        return self.ops[k.item() % 3](self.norm(x))

    torch.manual_seed(0)  # 0.4963 is drawn next
    model, fast = simplified(forward, norm=nn.BatchNorm2d(4))
    assert fast._toponas.programs[0].has_guards
    for largest in range(3):
        for one in (model, fast):
            one.alphas.data[0, largest] = 1.0 + largest
        assert_same(fast, model, 6)
        for found, expected in zip(fast.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_integer_that_counts_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class ByEpoch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, epoch: int) -> Any:
            return self.conv(x) if epoch < 3 else self.conv(x) * 2

    x = torch.randn(2, 4, 6, 6)
    fast = toponas_fx.simplify(ByEpoch(), (x, 0))
    made: list[Any] = []
    real = path_sampling.capture
    for owner in (path_sampling, all_paths):
        monkeypatch.setattr(owner, "capture", lambda *a, **k: made.append(a) or real(*a, **k))
    for epoch in range(4):
        torch.testing.assert_close(fast(x, epoch), ByEpoch.forward(fast, x, epoch))
    assert len(made) == 2  # whether it is read, and one of a value that no candidate has
