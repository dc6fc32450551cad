"""Attributes that forward writes hold, after each call, what the original's hold: values, gradients, kinds, layout."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import toponas_fx
from exactness import image, no_capture

Pair = namedtuple("Pair", "mean rest")


class Cell(nn.Module):
    """Three candidates and a body that may write."""

    def __init__(self, body: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.body = body
        self.ops = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, k, padding=k // 2, bias=False), nn.BatchNorm2d(4))
            for k in (1, 3, 5)
        )
        self.alphas = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))
        self.last: Any = None
        self.seen: Any = None
        self.calls = 0
        self.flag = False
        self.double()

    def mix(self, x: Tensor) -> Tensor:
        """Mix the candidates."""
        return sum(w * op(x) for w, op in zip(self.alphas.softmax(0), self.ops, strict=True))  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Any:
        """Whatever the case does."""
        return self.body(self, x)


def outputs_kept(m: Any, x: Tensor) -> Tensor:
    m.last = [op(x) for op in m.ops]
    return sum(w * f for w, f in zip(m.alphas.softmax(0), m.last, strict=True))  # type: ignore[return-value]


def filled_later(m: Any, x: Tensor) -> Tensor:
    m.last = []
    for op in m.ops:
        m.last.append(op(x).mean())
    return m.mix(x)


def weights_kept(m: Any, x: Tensor) -> Tensor:
    m.last = F.softmax(m.alphas, dim=-1)
    return sum(w * op(x) for w, op in zip(m.last, m.ops, strict=True))  # type: ignore[return-value]


def handed_down(m: Any, x: Tensor) -> Tensor:
    m.ops[0].weight_of_it = m.alphas.softmax(0)[0]
    out = m.ops[0](x) * m.ops[0].weight_of_it
    m.ops[0].weight_of_it = None
    return out + m.mix(x)


def with_the_last(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    if m.last is not None:
        out = out + m.last.mean()
    m.last = out.detach()
    return out


def measured_once(m: Any, x: Tensor) -> Tensor:
    if not m.flag:
        m.seen = [sum(p.numel() for p in op.parameters()) * x.size(2) ** 2 for op in m.ops]
        m.flag = True
    return m.mix(x) * (1 + m.seen[1] * 1e-6)  # type: ignore[no-any-return]


def missing_before(m: Any, x: Tensor) -> Tensor:
    if not hasattr(m, "cache"):
        m.cache = torch.ones(1, dtype=x.dtype) * 0.5
    return m.mix(x) * m.cache  # type: ignore[no-any-return]


def two_levels(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    m.last = {"mean": out.mean((2, 3)), "all": [out, (x.sum(), None)], "n": x.size(0), "name": "a", 3: True}
    return out


def swapped(m: Any, x: Tensor) -> Tensor:
    m.last, m.seen = m.seen, m.alphas.sum() * x.mean()
    return m.mix(x) if m.last is None else m.mix(x) * m.last


def written_twice(m: Any, x: Tensor) -> Tensor:
    m.last = x.sum()
    out = m.mix(x) + m.last
    m.last = out.square().mean()
    return out * m.last  # type: ignore[no-any-return]


def the_output(m: Any, x: Tensor) -> Tensor:
    m.last = m.mix(x)
    return m.last  # type: ignore[no-any-return]


def the_input(m: Any, x: Tensor) -> Tensor:
    m.last = x
    return m.mix(x)


def moved(m: Any, x: Tensor) -> Tensor:
    m.seen = 0.5 if m.seen is None else m.seen * 0.9
    return m.mix(x) * m.seen  # type: ignore[no-any-return]


def ordered(m: Any, x: Tensor) -> Tensor:
    m.last = OrderedDict(b=m.alphas[1] * 2, a=x.mean())
    return m.mix(x)


def layout(m: Any, x: Tensor) -> Tensor:
    out = m.mix(x)
    m.last = out.permute(0, 2, 3, 1)
    m.seen = out.transpose(1, 2)
    return out


def deeper(m: Any, x: Tensor) -> Tensor:
    out = x
    for op in m.ops:
        op[1].last_input = out
        out = op(out)
        op[2].left = (out.mean(), out.shape)
    return out + m.mix(x)


def regularised(m: Any, x: Tensor) -> Tensor:
    m.last = -(m.alphas.softmax(0) * m.alphas.log_softmax(0)).sum()
    return m.mix(x)


def scored(m: Any, x: Tensor) -> Any:
    m.last = Pair(x.mean(), (m.alphas.max(),))
    return m.mix(x), m.last


def eval_only(m: Any, x: Tensor) -> Tensor:
    if not m.training:
        m.last = m.mix(x).argmax(1)
    return m.mix(x)


def rebound_state(m: Any, x: Tensor) -> Tensor:
    m.seen = x.mean((0, 2, 3)) if m.seen is None else 0.9 * m.seen + 0.1 * x.mean((0, 2, 3))
    return m.mix(x) - m.seen.view(1, -1, 1, 1)  # type: ignore[no-any-return]


def shape_kept(m: Any, x: Tensor) -> Tensor:
    m.last = x.shape
    m.seen = x.size(0) * 2 + 1
    return m.mix(x).view(m.last)


def no_gradient(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.last = m.mix(x)
    return m.mix(x) * 2


COMPILED: dict[str, Callable[[Any, Tensor], Any]] = {
    "outputs of candidates, a list (GAEA)": outputs_kept,
    "a list filled later": filled_later,
    "architecture weights (SNAS)": weights_kept,
    "handed down and taken back": handed_down,
    "the last features are read in the next step": with_the_last,
    "sizes at the first call (SNAS)": measured_once,
    "made at the first call": missing_before,
    "a dict of all kinds": two_levels,
    "one takes what the other had": swapped,
    "written twice": written_twice,
    "the output itself": the_output,
    "the input itself": the_input,
    "a number that decays": moved,
    "an ordered dict": ordered,
    "views": layout,
    "of layers within": deeper,
    "a regulariser": regularised,
    "a named tuple, returned as well": scored,
    "in evaluation only": eval_only,
    "a moving mean": rebound_state,
    "a shape and a size": shape_kept,
    "without gradients": no_gradient,
}
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


def test_memory_is_flat() -> None:
    fast = toponas_fx.simplify(Cell(with_the_last), image(), mode="exact")
    programs = []
    for _ in range(30):
        fast(image()).sum().backward()
        programs.append(len(fast._toponas.programs))
    assert programs[-1] == programs[5]


def aliased(m: Any, x: Tensor) -> Tensor:
    m.last = m.seen = [x.mean()]
    return m.mix(x)


def of_the_model(m: Any, x: Tensor) -> Tensor:
    m.last = m.table
    return m.mix(x)


def given(m: Any, x: Any) -> Tensor:
    m.last = x
    return m.mix(x[0])


def returned(m: Any, x: Tensor) -> Any:
    m.last = [m.mix(x)]
    return m.last


def an_object(m: Any, x: Tensor) -> Tensor:
    m.last = {x.size(0), "a"}
    return m.mix(x)


def a_module(m: Any, x: Tensor) -> Tensor:
    m.newest = m.ops[0]
    return m.mix(x)


def a_parameter(m: Any, x: Tensor) -> Tensor:
    m.last = m.alphas
    return m.mix(x)


def a_buffer(m: Any, x: Tensor) -> Tensor:
    m.ops[0][2].running_mean = m.ops[0][2].running_mean * 0.5
    return m.mix(x)


def deleted(m: Any, x: Tensor) -> Tensor:
    m.last = x
    del m.last
    m.last = None
    return m.mix(x)


def through_the_table(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean()
    return m.mix(x) * vars(m)["last"]  # type: ignore[no-any-return]


def counted(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.mix(x) * m.calls


def appended(m: Any, x: Tensor) -> Tensor:
    m.table.append(1)
    return m.mix(x) * len(m.table)


def text_kept(m: Any, x: Tensor) -> Tensor:
    m.last = f"{x.mean():.3f}"
    return m.mix(x)


def item_kept(m: Any, x: Tensor) -> Tensor:
    m.last = x.mean().item()
    return m.mix(x)


ANYHOW: dict[str, Callable[[Any, Any], Any]] = {
    "one list under two names": aliased,
    "a list of the model": of_the_model,
    "a list that is given": given,
    "the list that is returned": returned,
    "a set": an_object,
    "a module": a_module,
    "a parameter": a_parameter,
    "a buffer": a_buffer,
    "deleted": deleted,
    "read through the table": through_the_table,
    "counted": counted,
    "appended": appended,
    "a text": text_kept,
    "a number from data": item_kept,
}


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
