"""Integers that are choices: each use of one, in forward, is seen, and the same as that of a plain integer."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from forced_paths import Net, X, forced
from toponas_fx.capture.forcing import Forcing
from toponas_fx.capture.path_sections import is_decision
from toponas_fx.capture.recorded_choices import RecordedChoice

Use = Callable[[Tensor, Any], Any]


def _match(x: Tensor, k: Any) -> Tensor:
    match k:
        case 0:
            return x.exp()
        case 1:
            return x.tanh()
    return x


USES: dict[str, Use] = {
    "list index": lambda x, k: x * [1, 2, 3][k],
    "index from the end": lambda x, k: x * [1, 2, 3][-k],
    "tuple": lambda x, k: x * (1, 2, 3)[k],
    "range index": lambda x, k: x * range(1, 9, 3)[k],
    "dict key": lambda x, k: x * {0: 1, 1: 2, 2: 3}[k],
    "dict key made": lambda x, k: x * len({k: 1, 0: 2}),
    "set": lambda x, k: x * (2 if k in {0, 1} else 3),
    "in": lambda x, k: x * (2 if k in (0, 1) else 3),
    "list.index": lambda x, k: x * (1 + [0, 1, 2].index(k)),
    "match": _match,
    "format": lambda x, k: x * {"op0": 1, "op1": 2, "op2": 3}[f"op{k}"],
    "format with a width": lambda x, k: x * int(f"1{k:02d}"),
    "percent": lambda x, k: x * int("1%d" % k),  # noqa: UP031
    "str": lambda x, k: x * int(f"1{k!s}"),
    "repr": lambda x, k: x * int(f"1{k!r}"),
    "if": lambda x, k: x.exp() if k else x,
    "not": lambda x, k: x.exp() if not k else x,
    "and": lambda x, k: x * float((k and 2) + 1),
    "equal": lambda x, k: x.exp() if k == 1 else x,
    "unequal": lambda x, k: x.exp() if k != 1 else x,
    "less": lambda x, k: x.exp() if k < 2 else x,
    "less, of a float": lambda x, k: x.exp() if 0.5 < k else x,
    "at least": lambda x, k: x.exp() if k >= 1 else x,
    "plus": lambda x, k: x * (k + 1),
    "minus, reflected": lambda x, k: x * (3 - k),
    "times a float": lambda x, k: x * (0.5 * k),
    "over a float": lambda x, k: x * (k / 2.5),
    "remainder": lambda x, k: x * (k % 2 + 1),
    "power": lambda x, k: x * 2**k,
    "power, modulo": lambda x, k: x * (1 + pow(k, 2, 3)),
    "divmod": lambda x, k: x * float(sum(divmod(k, 2))),
    "shift": lambda x, k: x * (1 << k),
    "bits": lambda x, k: x * float((k & 1) | 2),
    "negative": lambda x, k: x * -(k + 1),
    "absolute": lambda x, k: x * (1 + abs(k)),
    "rounded": lambda x, k: x * (1 + round(k)),
    "bit_length": lambda x, k: x * (1 + k.bit_length()),
    "sum": lambda x, k: x * (1 + sum([k, k])),
    "max": lambda x, k: x * max(k, 1),
    "sorted": lambda x, k: x * sorted([k, 1])[0],
    "math": lambda x, k: x * math.sqrt(k + 1),
    "int": lambda x, k: x * (int(k) + 1),
    "float": lambda x, k: x * float(k),
    "text repeated": lambda x, k: x * (1 + len("a" * k)),
    "list repeated": lambda x, k: x * (1 + len(k * [0])),
    "range": lambda x, k: x * (1 + sum(1 for _ in range(k))),
    "slice of a list": lambda x, k: x * (1 + len([1, 2, 3][k:])),
    "numpy index": lambda x, k: x * numpy.arange(1, 4)[k].item(),
    "isinstance": lambda x, k: x * (2 if isinstance(k, int) else 1),
    "index of a tensor": lambda x, k: x[:, k],
    "index with others": lambda x, k: x[:, k, ..., None],
    "slice of a tensor": lambda x, k: x[:, k:].mean(1),
    "slice up to": lambda x, k: x[:, : k + 1].mean(1),
    "narrow": lambda x, k: x.narrow(1, k, 1),
    "select by name": lambda x, k: x.select(1, index=k),
    "zeros of a size": lambda x, k: x.mean() + torch.zeros(k).sum(),
    "tensor": lambda x, k: x * torch.tensor(k + 1),
    "tensor of a list": lambda x, k: x * torch.tensor([k, 1])[0],
    "one-hot": lambda x, k: x.mean() * F.one_hot(torch.tensor(k), 3),
    "roll": lambda x, k: x.roll(k, 0),
    "padding": lambda x, k: F.pad(x, (k, 2 - k)),
    "tensor equal": lambda x, k: x.mean() * (torch.arange(3) == k),
    "equal to a tensor": lambda x, k: x.mean() * (k == torch.arange(3)),
    "tensor unequal": lambda x, k: x.mean() * (torch.arange(3) != k),
    "tensor less": lambda x, k: x.mean() * (torch.arange(3) < k),
    "greater than a tensor": lambda x, k: x.mean() * (k > torch.arange(3)),
    "tensor times": lambda x, k: x * k,
    "times a tensor": lambda x, k: k * x,
    "tensor plus": lambda x, k: x + k,
    "minus a tensor": lambda x, k: k - x,
    "tensor over": lambda x, k: x / (k + 1),
    "tensor to the power": lambda x, k: x**k,
    "to the power of a tensor": lambda x, k: (k + 1) ** x,
}


def sampling(use: Use) -> nn.Module:
    """Return a model that draws two candidates, and uses the first one's number once the second is computed."""

    def forward(self: Any, x: Tensor) -> Any:
        k, j = (self.alphas[:2] + torch.rand(2, 3)).argmax(-1).tolist()
        return use(self.ops[j](x), k)

    return Net(forward).double()


def simplified(model: nn.Module) -> Any:
    """Return a copy, compiled without passes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return toponas_fx.simplify(copy.deepcopy(model), X.double(), passes=())


def assert_same_paths(fast: nn.Module, model: nn.Module) -> None:
    """Compare the outputs of some draws."""
    for seed in range(8):
        found, expected = (_drawn(one, seed) for one in (fast, model))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def _drawn(model: nn.Module, seed: int) -> Any:
    torch.manual_seed(seed)
    return model(X.double())


@pytest.mark.parametrize("name", [name for name in USES if name != "isinstance"])
def test_a_use_is_seen_wherever_it_is(name: str) -> None:
    """One that is not seen would be taken for a part of the second choice."""
    for turn in range(3):
        run = forced(sampling(USES[name]).float(), Forcing(turn))
        assert [node.args[1] for node in run.graph.nodes if is_decision(node)] == [turn, turn, turn]


def test_all_uses_are_right() -> None:
    model = sampling(lambda x, k: [use(x, k) for use in USES.values()])
    fast = simplified(model)
    assert not fast._toponas.as_written, fast._toponas.as_written
    assert_same_paths(fast, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", USES)
def test_a_use_is_right(name: str) -> None:
    model = sampling(USES[name])
    fast = simplified(model)
    assert not fast._toponas.as_written, fast._toponas.as_written
    assert_same_paths(fast, model)


REFUSED: dict[str, tuple[Use, str]] = {
    "type": (lambda x, k: x * (2 if type(k) is int else 1), "forward asks which type or object a value is"),
    "type, in a comparison": (lambda x, k: x * (2 if type(k) == int else 1), "asks which type or object a value is"),  # noqa: E721
    "json": (lambda x, k: x * len(json.dumps(k)), "forward fails on a path: TypeError"),
    "a method": (lambda x, k: x * len(k.to_bytes(2, "big")), "forward fails on a path: AttributeError"),
    "a number of torch's": (lambda x, k: torch.add(x, x, alpha=k), "forward fails on a path: TypeError"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_use_that_cannot_be_seen_runs_as_written(name: str) -> None:
    use, reason = REFUSED[name]
    model = sampling(use)
    fast = simplified(model)
    assert fast._toponas.as_written
    for found in fast._toponas.as_written.values():
        assert "each run samples another path there, and they cannot be one graph: " in found
        assert reason in found
    assert_same_paths(fast, model)


# -- the integer by itself ---------------------------------------------------------------------------------------------

SEEN = {
    "index": lambda k: [1, 2, 3][k],
    "key": lambda k: {2: 1}[k],
    "hash": hash,
    "bool": bool,
    "equal": lambda k: k == 2,
    "unequal": lambda k: k != 2,
    "in": lambda k: k in [2],
    "less": lambda k: k < 2,
    "sum": lambda k: k + 1,
    "reflected": lambda k: 1 - k,
    "text": str,
    "format": lambda k: f"{k}",
    "repr": repr,
    "range": range,
    "slice": lambda k: [1, 2, 3][:k],
    "int": int,
    "float": float,
    "index of a tensor": lambda k: torch.arange(3)[k].item(),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_use_tells(name: str) -> None:
    seen: list[bool] = []
    assert SEEN[name](RecordedChoice(2, lambda: seen.append(True))) == SEEN[name](2)
    assert seen


def test_both_sides_of_an_operation_tell() -> None:
    seen: list[str] = []
    one, two = RecordedChoice(1, lambda: seen.append("one")), RecordedChoice(2, lambda: seen.append("two"))
    assert (one < two) is True
    assert one + two == 3
    assert seen == ["one", "two"] * 2


def test_it_says_that_it_is_an_integer_and_is_none() -> None:
    choice = RecordedChoice(2)
    assert isinstance(choice, int)
    assert type(choice) is not int


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_a_plain_integer(copied: Callable[[Any], Any]) -> None:
    found = copied([RecordedChoice(2)])[0] if copied is not copy.copy else copied(RecordedChoice(2))
    assert (type(found), found) == (int, 2)


def test_after_the_run_it_marks_nothing() -> None:
    """What forward left somewhere may be used by anybody, for as long as they want."""
    kept = nn.Module()

    def forward(self: Any, x: Tensor) -> Tensor:
        k, j = self.alphas[:2].argmax(-1).tolist()
        weakly().choice = k
        return self.ops[j](x)

    weakly = weakref.ref(kept)
    run = forced(Net(forward), Forcing(1))
    before = len(run.graph.nodes)
    assert [1, 2, 3][kept.choice] == 2  # type: ignore[index]
    assert len(run.graph.nodes) == before


def test_what_forward_leaves_and_returns_is_a_plain_integer() -> None:
    """A count of what was taken, an integer that is returned: as the original's."""

    def forward(self: Any, x: Tensor) -> Any:
        k = (self.alphas[0] + torch.rand(3)).argmax().item()
        self.last, self.taken[k] = k, self.taken[k] + 1
        return self.ops[k](x), k

    model = Net(forward, taken=[0, 0, 0], last=0).double()
    fast = simplified(model)
    for seed in range(6):
        found, expected = (_drawn(one, seed)[1] for one in (fast, model))
        assert (type(found), found) == (int, expected)
        assert (type(fast.last), fast.last) == (int, model.last)
        assert fast.taken == model.taken
        assert all(type(count) is int for count in fast.taken)
    assert copy.deepcopy(fast).last == model.last
    assert pickle.loads(pickle.dumps(fast.last)) == model.last
