"""Candidates that are picked first and run later are decided by what picked them; where that is unseen, it is told."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import toponas_fx
from forced_paths import Net

Path = Callable[[Any, Tensor], Any]


def candidates() -> list[nn.Module]:
    return [
        nn.Identity(),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
        nn.Conv2d(4, 4, 3, padding=1),
    ]


def supernet(path: Path) -> nn.Module:
    """Return a model of three edges, each a ModuleList, a ModuleDict and a Sequential, and one list for all."""
    torch.manual_seed(0)
    names = ("skip", "conv_1x1", "conv_3x3")
    model = Net(
        path,
        edges=nn.ModuleList(nn.ModuleList(candidates()) for _ in range(3)),
        named=nn.ModuleList(nn.ModuleDict(dict(zip(names, candidates(), strict=True))) for _ in range(3)),
        rows=nn.ModuleList(nn.Sequential(*candidates()) for _ in range(3)),
        active=["skip", "skip", "skip"],
    )
    model.lists = [list(edge) for edge in model.edges]
    return model.double()


def drawn() -> list[int]:
    return torch.randint(3, (3,)).tolist()  # type: ignore[no-any-return]


def chained(picked: Iterable[Any], x: Tensor) -> Tensor:
    for op in picked:
        x = op(x)
    return x


def of_lists(model: Any, x: Tensor) -> Tensor:
    return chained([edge[k] for edge, k in zip(model.edges, drawn(), strict=True)], x)


def of_sequences(model: Any, x: Tensor) -> Tensor:
    return chained([row[k] for row, k in zip(model.rows, drawn(), strict=True)], x)


def by_tensors(model: Any, x: Tensor) -> Tensor:
    index = (model.alphas + torch.rand(3, 3)).argmax(-1)
    return chained([edge[k] for edge, k in zip(model.edges, index, strict=True)], x)


def by_python(model: Any, x: Tensor) -> Tensor:
    return chained([random.choice(edge) for edge in model.edges], x)


def by_names_kept(model: Any, x: Tensor) -> Tensor:
    return chained([named[name] for named, name in zip(model.named, model.active, strict=True)], x)


def of_one_list(model: Any, x: Tensor) -> Tensor:
    return chained([model.edges[0][k] for k in drawn()], x)


def some_first(model: Any, x: Tensor) -> Tensor:
    """Of one list, run while others are picked."""
    i, j, k = drawn()
    first, second = model.edges[0][i], model.edges[0][j]
    x = first(x)
    third = model.edges[0][k]
    return third(second(x))


def backwards(model: Any, x: Tensor) -> Tensor:
    return chained([edge[k] for edge, k in zip(model.edges, drawn(), strict=True)][::-1], x)


def weighted(model: Any, x: Tensor) -> Tensor:
    rows = F.gumbel_softmax(model.alphas, hard=True)
    indices = rows.argmax(-1).tolist()
    picked = [edge[k] for edge, k in zip(model.edges, indices, strict=True)]
    for row, op, k in zip(rows, picked, indices, strict=True):
        x = op(x) * row[k]
    return x


def only_looked_at(model: Any, x: Tensor) -> Tensor:
    """What is picked is asked something; all run."""
    rows = F.gumbel_softmax(model.alphas, hard=True)
    picked = [edge[k] for edge, k in zip(model.edges, rows.argmax(-1).tolist(), strict=True)]
    assert all(op.training is model.training for op in picked)
    for edge, row in zip(model.edges, rows, strict=True):
        x = sum(w * op(x) for w, op in zip(row, edge, strict=True))  # type: ignore[assignment]
    return x


PATHS = (
    of_lists,
    of_sequences,
    by_tensors,
    by_python,
    by_names_kept,
    of_one_list,
    some_first,
    backwards,
    weighted,
    only_looked_at,
)


def images(step: int) -> Tensor:
    return torch.randn(2 + step % 3, 4, 6, 6, generator=torch.Generator().manual_seed(step)).double()


def simplified(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return toponas_fx.simplify(copy.deepcopy(model), images(2), mode="exact")


def stepped(model: Any, step: int) -> tuple[Any, ...]:
    """Return the output of a step, all gradients, the buffers, and what is drawn next."""
    torch.manual_seed(step)
    random.seed(step)
    model.active = [("skip", "conv_1x1", "conv_3x3")[(step + edge * edge) % 3] for edge in range(3)]
    model.zero_grad()
    x = images(step).requires_grad_()
    output = model(x)
    output.square().mean().backward()
    gradients = [leaf.grad for leaf in (x, *model.parameters())]
    return output, gradients, [*model.buffers()], torch.rand(3), random.random()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_what_picked_a_candidate_decides_it(path: Path) -> None:
    model = supernet(path)
    fast = simplified(model)
    for step in range(12):
        torch.testing.assert_close(stepped(fast, step), stepped(model, step), rtol=1e-10, atol=1e-10)
    assert not fast._toponas.as_written, fast._toponas.as_written
    assert len(fast._toponas.programs) <= (1 if path is not by_names_kept else 4)
    assert len(fast.report.mixtures) == 3


def of_plain_lists(model: Any, x: Tensor) -> Tensor:
    return chained([ops[k] for ops, k in zip(model.lists, drawn(), strict=True)], x)


def by_names_looked_up(model: Any, x: Tensor) -> Tensor:
    names = [list(model.named[0])[k] for k in drawn()]
    return chained([named[name] for named, name in zip(model.named, names, strict=True)], x)


def functions(model: Any, x: Tensor) -> Tensor:
    return chained([(torch.relu, torch.tanh, torch.sigmoid)[k] for k in drawn()], x)


def skipped_unpicked(model: Any, x: Tensor) -> Tensor:
    picked = [edge[k] if k > 0 else None for edge, k in zip(model.edges, drawn(), strict=True)]
    return chained([op for op in picked if op is not None], x)


UNSEEN = (of_plain_lists, by_names_looked_up, functions, skipped_unpicked)


@pytest.mark.parametrize("path", UNSEEN, ids=lambda path: path.__name__)
def test_where_it_is_not_seen_which_choice_decides_the_reason_says_so(path: Path) -> None:
    model = supernet(path)
    fast = simplified(model)
    (reason,) = set(fast._toponas.as_written.values())
    assert "choices are read before what they decide runs, and which decides what is not seen" in reason
    torch.testing.assert_close(stepped(fast, 1), stepped(model, 1), rtol=1e-10, atol=1e-10)


def draws_again(model: Any, x: Tensor) -> Tensor:
    while True:
        picked = [random.choice(edge) for edge in model.edges]
        if not all(isinstance(op, nn.Identity) for op in picked):
            return chained(picked, x)


def test_a_path_that_is_drawn_again_until_it_is_liked_is_told() -> None:
    model = supernet(draws_again)
    fast = simplified(model)
    (reason,) = set(fast._toponas.as_written.values())
    assert "cannot be one graph: forward draws more than 2000 times where all draws are alike" in reason
    torch.testing.assert_close(stepped(fast, 1), stepped(model, 1), rtol=1e-10, atol=1e-10)
