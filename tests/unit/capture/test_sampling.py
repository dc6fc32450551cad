"""Models that sample their path: one graph, or left as written with a reason; those that only look stay compiled."""

from __future__ import annotations

import copy
import re
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from supernets.gdas import GDASSupernet
from toponas_fx.analysis.arms import selects

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def assert_same_paths(fast: nn.Module, model: nn.Module, count: int = 6) -> None:
    """Compare the outputs of some draws."""
    for seed in range(count):
        outputs = []
        for one in (fast, model):
            torch.manual_seed(seed)
            outputs.append(one(X))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


def test_gdas_is_one_graph_with_a_choice_on_each_edge(recwarn: pytest.WarningsRecorder) -> None:
    model = GDASSupernet(C=4, N=1)
    fast = toponas_fx.simplify(copy.deepcopy(model), X)
    assert not fast._toponas.as_written
    assert not [warning for warning in recwarn if "as its user wrote it" in str(warning.message)]
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert_same_paths(fast, model)
    (program,) = fast._toponas.programs
    assert len({select.meta["site"] for select in selects(program.graph)}) == 18, "three cells of six edges"


# -- models whose sampling is no graph ---------------------------------------------------------------------------------


class Sampling(nn.Module):
    """Three candidates, and a path that a function takes with the model, an image and random numbers."""

    def __init__(self, path: Callable[[Any, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.zeros(4, 3))
        self.ops = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1), nn.AvgPool2d(3, 1, 1)])
        self.path, self.mean, self.other = (path,), torch.zeros(()), torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        return self.path[0](self, x, (self.alphas + torch.rand(4, 3)).argmax(-1))


def by_order(model: Any, x: Tensor, draws: Tensor) -> Any:
    """No index that is known for one: the first of a random order."""
    return model.ops[torch.randperm(3)[0].item()](x)


def depth(model: Any, x: Tensor, draws: Tensor) -> Any:
    for k in draws[: 1 + draws[0].item()]:
        x = model.ops[k](x)
    return x


def of_many(model: Any, x: Tensor, draws: Tensor) -> Any:
    return model.ops[torch.randint(17, ()).item() % 3](x)


def failing(model: Any, x: Tensor, draws: Tensor) -> Any:
    if draws[0] == 2:
        raise RuntimeError("on purpose")
    return model.ops[draws[0]](x)


def attributes(model: Any, x: Tensor, draws: Tensor) -> Any:
    if draws[0] == 1:
        model.mean = x.mean()
    else:
        model.other = x.mean()
    return model.ops[draws[0]](x)


def batch(model: Any, x: Tensor, draws: Tensor) -> Any:
    if draws[0] == draws[1] or len(x) == 2:
        return model.ops[draws[0]](x)
    return model.ops[draws[0]](x).exp()


def channels(model: Any, x: Tensor, draws: Tensor) -> Any:
    return x[:, : draws[0].item() + 1]


def in_place(model: Any, x: Tensor, draws: Tensor) -> Any:
    x = x * 1
    return x.relu_() if draws[0] == 0 else model.ops[draws[0]](x)


def endless(model: Any, x: Tensor, draws: Tensor) -> Any:
    while torch.randint(3, (2,)).unique().numel() < 2:
        pass
    return model.ops[draws[0]](x)


AS_WRITTEN: dict[Callable[..., Any], str] = {
    by_order: "by no index that was seen",
    depth: "how many choices are made depends on a choice",
    of_many: "a choice has 17 candidates, more than 16",
    failing: "forward fails on a path: RuntimeError: on purpose",
    attributes: "which attributes it writes depends on a choice",
    batch: "depends on other choices",
    channels: "its candidates give values of unlike shape or number",
    in_place: "a candidate writes to what another reads",
    endless: "forward draws more than 2000 times where all draws are alike",
}


def simplified(path: Callable[..., Any], x: Any = X) -> tuple[Any, Any, list[str]]:
    """Return a model, a simplified copy, and what was warned of."""
    model = Sampling(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = toponas_fx.simplify(copy.deepcopy(model), x)
    return model, fast, [str(warning.message) for warning in caught]


CASES = [pytest.param(path, marks=pytest.mark.slow if path is endless else ()) for path in AS_WRITTEN]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.__name__)
def test_sampling_that_is_no_graph_runs_as_written_and_says_why_and_where(path: Callable[..., Any]) -> None:
    model, fast, warned = simplified(path)
    (reason, *others) = set(fast._toponas.as_written.values())
    assert not others
    assert AS_WRITTEN[path] in reason
    assert re.match(r"\S*test_sampling\.py:\d+: each run samples another path there, ", reason)
    assert any(reason in text for text in warned)
    assert reason in fast.report.details()
    assert not fast.report.mixtures
    if path is not failing:
        assert_same_paths(fast, model)


def test_a_model_as_written_prints_its_modules_and_why_there_is_no_graph() -> None:
    _, fast, _ = simplified(depth)
    for mode in (fast.train(), fast.eval()):
        assert repr(mode) in str(mode)
        assert AS_WRITTEN[depth] in str(mode)


def test_what_fails_on_a_path_fails_there_as_in_the_original() -> None:
    model, fast, _ = simplified(failing)
    for seed in range(8):
        seen = []
        for one in (model, fast):
            torch.manual_seed(seed)
            try:
                seen.append(one(X).tolist())
            except RuntimeError as error:
                seen.append(str(error))
        assert seen[0] == seen[1]


@pytest.mark.slow
@pytest.mark.timed
def test_gdas_costs_no_more_than_it_did() -> None:
    model = GDASSupernet(C=16, N=2)
    x, target = torch.randn(16, 3, 32, 32), torch.randint(10, (16,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = toponas_fx.simplify(model, x)
    pairs = []
    for index in range(41):
        spent = []
        for one in (model, fast):
            torch.manual_seed(index)  # the same path for both
            start = time.perf_counter()
            one._loss(x, target).backward()
            spent.append(time.perf_counter() - start)
        pairs.append(spent)
    ratio = statistics.median(after / before for before, after in pairs[1:])
    difference = statistics.median(after - before for before, after in pairs[1:])
    assert ratio <= 1.05 or difference <= 1e-3


class LooksAtDraws(nn.Module):
    """Draws until all is finite, and leaves out weights that are zero: the same path nearly always."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas = nn.Parameter(torch.randn(2))
        self.ops = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)])

    def forward(self, x: Tensor) -> Any:
        while True:
            weights = torch.softmax(self.alphas - torch.empty_like(self.alphas).exponential_().log(), 0)
            if not weights.isinf().any():
                break
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True) if w != 0)


def test_a_path_that_stays_is_compiled() -> None:
    model = LooksAtDraws()
    fast = toponas_fx.simplify(model, X)
    assert len(fast.report.mixtures) == 1
    for seed in range(3):
        torch.manual_seed(seed)
        found = fast(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, model(X), rtol=1e-5, atol=1e-5)
    assert not fast._toponas.as_written
