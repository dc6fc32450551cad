"""Attributes that forward writes hold, after each call, what the original's hold: values, gradients, kinds, layout."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import toponas_fx
from exactness import counted_captures, image, no_capture
from write_cases import (
    ANYHOW,
    COMPILED,
    Cell,
    counted,
    deeper,
    given,
    measured_once,
    missing_before,
    moved,
    outputs_kept,
    rebound_state,
    regularised,
    swapped,
    the_input,
    the_output,
    weights_kept,
    with_the_last,
)

LOG: list[int] = []
NAMES = ("last", "seen", "flag", "cache", "calls", "weight_of_it", "last_input", "left")


def state(m: Any) -> list[tuple[str, str, Any]]:
    """Return all attributes that cases write, by module."""
    own = ((path, name, vars(module)) for path, module in m.named_modules() for name in NAMES)
    return [(path, name, table[name]) for path, name, table in own if name in table]


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    assert type(found) is type(expected), where
    left, left_spec = pytree.tree_flatten(found)
    right, right_spec = pytree.tree_flatten(expected)
    assert left_spec == right_spec, where
    for one, other in zip(left, right, strict=True):
        if isinstance(other, Tensor):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=where)
            assert one.requires_grad == other.requires_grad, where
            assert one.stride() == other.stride(), where
        else:
            assert type(one) is type(other), where
            assert one == other, where


def gradients(m: Any, out: Any, x: Tensor) -> list[Any]:
    """Return gradients through the output, and through what was left on the model."""
    tensors = [t for t in pytree.tree_leaves((out, [v for *_, v in state(m)])) if isinstance(t, Tensor)]
    loss = sum(
        (t * torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in tensors if t.requires_grad
    )
    return list(torch.autograd.grad(loss, [*m.parameters(), x], allow_unused=True))


@pytest.mark.parametrize("case", COMPILED)
def test_what_is_left_is_the_original_s(case: str) -> None:
    model = Cell(COMPILED[case])
    fast = toponas_fx.simplify(copy.deepcopy(model), image(), mode="exact")
    assert fast._toponas.programs
    assert_same(state(fast), state(model), "simplify leaves nothing behind")
    for step, (batch, training) in enumerate([(3, True), (5, True), (2, False), (4, True), (4, True), (3, False)]):
        for each in (model, fast):
            each.train(training)
        found = []
        for each in (model, fast):
            x = image(batch=1 if case.startswith(("the last", "one takes")) else batch, seed=step).requires_grad_()
            out = each(x)
            found.append((out, state(each), gradients(each, out, x)))
            with torch.no_grad():  # the next step starts from tensors without this one's graph
                for path, name, value in state(each):
                    detached = pytree.tree_map_only(Tensor, torch.Tensor.detach, value)
                    object.__setattr__(each.get_submodule(path), name, detached)
        (expected, left, grads), (result, mine, own) = found
        assert_same(result, expected, f"output of step {step}")
        assert_same(mine, left, f"attributes of step {step}")
        for one, other in zip(own, grads, strict=True):
            assert (one is None) == (other is None)
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        for one, other in zip(fast.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    ran = [program for program in fast._toponas.programs if program.writes]
    assert ran, "the case tells nothing: no program writes"


_TWO_PATHS = (with_the_last, measured_once, missing_before, swapped, moved, rebound_state)
STEADY = [case for case in COMPILED if COMPILED[case] not in _TWO_PATHS]


@pytest.mark.parametrize("case", STEADY)
def test_a_write_costs_no_capture(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = toponas_fx.simplify(Cell(COMPILED[case]), image(), mode="exact")
    fast(image()), fast.eval()(image())
    with no_capture(monkeypatch):
        for batch in (3, 4, 2):
            fast.train()(image(batch=batch))
            fast.eval()(image(batch=batch))


def test_what_is_written_and_returned_is_one_object() -> None:
    fast = toponas_fx.simplify(Cell(the_output), image(), mode="exact")
    out = fast(image())
    assert fast.last is out
    fast = toponas_fx.simplify(Cell(the_input), image(), mode="exact")
    x = image()
    fast(x)
    assert fast.last is x


def test_a_list_is_a_new_one_at_each_call() -> None:
    fast = toponas_fx.simplify(Cell(outputs_kept), image(), mode="exact")
    fast(image())
    first = fast.last
    first.append("the user's own")
    fast(image())
    assert fast.last is not first
    assert len(fast.last) == 3


def test_candidates_still_merge_beside_a_write() -> None:
    model, x = Cell(weights_kept), image()
    fast = toponas_fx.simplify(model, x)
    assert fast._toponas.sharing.ties
    fast(x)
    assert torch.equal(fast.last, model.alphas.softmax(0))
    assert len(list(fast.parameters())) < len(list(model.parameters()))


def test_the_report_says_what_is_written() -> None:
    notes = toponas_fx.simplify(Cell(deeper), image()).report.notes
    assert any("writes the attribute `last_input` of `ops.0.1` and 5 more" in note for note in notes), notes
    assert not any("writes" in note for note in toponas_fx.simplify(Cell(Cell.mix), image()).report.notes)


def test_memory_is_flat() -> None:
    fast = toponas_fx.simplify(Cell(with_the_last), image(), mode="exact")
    programs = []
    for _ in range(30):
        fast(image()).sum().backward()
        programs.append(len(fast._toponas.programs))
    assert programs[-1] == programs[5]


@pytest.mark.parametrize("case", ANYHOW)
def test_what_a_graph_cannot_leave_is_left_all_the_same(case: str) -> None:
    """Compiled or as written: after each call all is as the original has it, objects that are one included."""
    model = Cell(ANYHOW[case])
    model.table = [torch.ones(()).double()]
    twin = copy.deepcopy(model)
    wrap: Callable[[Tensor], Any] = (lambda x: [x]) if ANYHOW[case] is given else (lambda x: x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(twin, (wrap(image()),), mode="exact")
        for step in range(12):
            arguments = [wrap(image(seed=step)) for _ in (model, fast)]
            outputs = [each(argument) for each, argument in zip((model, fast), arguments, strict=True)]
            assert_same(outputs[1], outputs[0], f"step {step}")
            assert_same(state(fast), state(model), f"step {step}")
            assert len(fast.table) == len(model.table)
            assert (fast.last is fast.seen) == (model.last is model.seen)
            assert (fast.last is fast.table) == (model.last is model.table)
            assert (fast.last is arguments[1]) == (model.last is arguments[0])
            assert (fast.last is outputs[1]) == (model.last is outputs[0])


@pytest.mark.parametrize("case", ["architecture weights (SNAS)", "the last features are read in the next step"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_by_torch(case: str) -> None:
    model = Cell(COMPILED[case])
    fast = toponas_fx.simplify(copy.deepcopy(model), image(batch=1), mode="exact")
    run = torch.compile(fast, backend="aot_eager")
    for step in range(4):
        x = image(batch=1, seed=step)
        assert_same(run(x).detach(), model(x).detach(), f"step {step}")
        for each in (model, fast):
            each.last = each.last.detach()
        torch.testing.assert_close(fast.last, model.last, rtol=1e-10, atol=1e-10)


def test_a_copy_has_attributes_of_its_own() -> None:
    fast = toponas_fx.simplify(Cell(regularised), image(), mode="exact")
    with torch.no_grad():
        fast(image())
        twin = copy.deepcopy(fast)
        twin.alphas.fill_(2.0)
        twin(image())
    assert torch.allclose(twin.last, torch.tensor(3.0).log().double())
    assert not torch.allclose(fast.last, twin.last)


def test_a_counter_costs_no_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="forward writes the attribute `calls` of the model"):
        fast = toponas_fx.simplify(Cell(counted), image(), mode="exact")
    with counted_captures(monkeypatch) as made:
        for _ in range(12):
            fast(image())
    assert not made
    assert fast.calls == 12


def test_two_lists_that_grow_cost_no_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    def growing(m: Any, x: Tensor) -> Tensor:
        m.table.append(len(m.table))
        m.other["a"].append(len(m.other))
        LOG.append(x.size(0))
        return m.mix(x) * (len(m.table) + len(m.other["a"]) + len(LOG))  # type: ignore[no-any-return]

    model = Cell(growing)
    model.table, model.other = [], {"a": []}
    with pytest.warns(UserWarning, match="forward changes state in place"):
        fast = toponas_fx.simplify(model, image(), mode="exact")
    with counted_captures(monkeypatch) as made:
        for _ in range(12):
            fast(image())
    assert not made
    assert (len(fast.table), len(fast.other["a"])) == (12, 12)
