"""Searches that sample paths: SPOS' evolution, ProxylessNAS' gates, ENAS' controller, and the loop around them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

import enas_controller
import proxyless_gates
import search_darts
import search_loop
import spos_evolution
from enas_controller import Controller, ControllerArchitect, ENASSearch
from proxyless_gates import GateArchitect, ProxylessSearch
from search_loop import Search
from spos_evolution import PARENTS, POPULATION, Evolution, NoArchitect, SPOSSearch
from supernets.enas import ENASSupernet
from supernets.nasbench201 import CANDIDATES, EDGES
from supernets.proxyless import ProxylessSupernet
from supernets.spos_mobile import SPOSSupernet

CPU = torch.device("cpu")
TINY = ["--C", "4", "--nodes", "1", "--epochs", "2", "--batch", "4", "--limit-batches", "2"]


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(size) % 3


def loader() -> DataLoader:
    return DataLoader(TensorDataset(*batch(8)), 4)


def search_of(kind: type[Search], model: Any, architect: Any) -> Any:
    return kind("original", model, architect(model, lr=0.01), 1, 2)


@pytest.mark.parametrize("method", ["gdas-darts", "enas", "proxyless", "spos"])
def test_search_runs(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, figure = tmp_path / "out.json", tmp_path / "out.svg"
    search_darts.main(["--method", method, "--json", str(path), "--plot", str(figure), "--original", *TINY])
    assert search_darts.METHODS[method].title in capsys.readouterr().out
    result = json.loads(path.read_text(encoding="utf-8"))["results"]["original"]
    assert min(result["seconds_a_step"], result["saved_bytes"]) > 0
    assert result["cell"]
    assert figure.exists()


def test_both_searches_draw_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's paths are the same, and so is what the same path saves for backward."""
    drawn: dict[int, list[Any]] = {}
    draw = SPOSSupernet.uniform_choice

    def record(model: SPOSSupernet) -> Any:
        choice = draw(model)
        drawn.setdefault(id(model), []).append(choice)
        return choice

    monkeypatch.setattr(SPOSSupernet, "uniform_choice", record)
    monkeypatch.setattr(search_loop.toponas_fx, "simplify", lambda model, inputs, mode: model)
    args, data = search_darts.parse(["--method", "spos", *TINY])
    results, _ = search_loop.run_searches(spos_evolution.METHOD, args, data, Console(quiet=True))
    original, simplified = drawn.values()
    assert original == simplified[1:]  # which draws one more, as the example for simplify
    assert len(set(original)) > 1
    assert results["original"]["saved_bytes"] == results["simplified"]["saved_bytes"]
    assert results["original"]["cell"] == results["simplified"]["cell"]


def test_evolution_finds_the_path_of_the_best_score() -> None:
    counts = [7, 6, 7, 6]
    evolution = Evolution(counts)
    best: list[float] = []
    for _ in range(150):
        assert len(evolution.population) == POPULATION
        for path in evolution.population:
            assert all(0 <= taken < count for taken, count in zip(path, counts, strict=True))
        best.append(evolution.compete(lambda path: -sum(abs(taken - 3) for taken in path)))
        assert evolution.best == evolution.population[0]
    assert best == sorted(best)  # the parents compete again
    assert evolution.best == (3, 3, 3, 3)
    assert Evolution(counts).population == Evolution(counts).population


def test_evolution_crosses_and_mutates() -> None:
    evolution = Evolution([7] * 20)
    evolution.compete(lambda path: -path[0])
    parents, children = evolution.population[:PARENTS], evolution.population[PARENTS:]
    mutations, crossovers = children[0::2], children[1::2]
    for child in crossovers:
        assert all(taken in {parent[i] for parent in parents} for i, taken in enumerate(child))
    changes = [
        min(sum(a != b for a, b in zip(child, parent, strict=True)) for parent in parents) for child in mutations
    ]
    assert 0 < sum(changes) < 20


def test_spos_trains_uniform_paths_and_validates_the_best() -> None:
    model = SPOSSupernet(C=4, layers=1, num_classes=3)
    search = search_of(SPOSSearch, model, NoArchitect)
    before = [weight.clone() for weight in model.weight_parameters()]
    search.step(batch(), batch())
    trained = [not torch.equal(old, new) for old, new in zip(before, model.weight_parameters(), strict=True)]
    assert any(trained)
    assert not all(trained)
    scores: list[float] = []
    validate = Search.accuracy

    def record(self: Search, *arguments: Any) -> float:
        assert self is search
        scores.append(validate(self, *arguments))
        return scores[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "accuracy", record)
        accuracy = search.accuracy(loader(), None, CPU)
    assert accuracy == max(scores)
    assert len(scores) > PARENTS
    assert model.training  # a path's norms have the batch's statistics
    assert search.genotype() == model.genotype(search.path)
    assert search.path == search.evolution.best
    assert search.result(accuracy)["cell"] == search.genotype()
    with torch.no_grad():
        torch.testing.assert_close(search.predict(batch()[0]), model(batch()[0], search.path))


def test_spos_weighs_all_candidates_alike() -> None:
    search = search_of(SPOSSearch, SPOSSupernet(C=4, layers=1), NoArchitect)
    for weights, count in zip(spos_evolution.METHOD.weights(search), (7, 6, 6), strict=True):
        torch.testing.assert_close(weights, torch.full((count,), 1 / count))


def test_gates_move_two_alphas_and_keep_their_sum() -> None:
    model = ProxylessSupernet(C=4, layers=1, num_classes=3)
    architect = GateArchitect(model, lr=0.1, network_momentum=0.9)
    for _ in range(3):  # the optimizer's memory moves no others either
        before = [block.alphas.detach().clone() for block in model.blocks]
        architect.step(batch(), batch(), 0.1, None, False)
        for block, old in zip(model.blocks, before, strict=True):
            new = block.alphas.detach()
            changed = (new != old).nonzero().flatten().tolist()
            assert changed == sorted(block.active)
            assert len(changed) == 2
            torch.testing.assert_close(torch.softmax(new, 0).sum(), torch.tensor(1.0))
            others = [i for i in range(len(new)) if i not in changed]
            torch.testing.assert_close(torch.softmax(new, 0)[others], torch.softmax(old, 0)[others])


def test_proxyless_trains_one_path_and_validates_the_strongest() -> None:
    model = ProxylessSupernet(C=4, layers=1, num_classes=3)
    search = search_of(ProxylessSearch, model, GateArchitect)
    active: list[list[int]] = []
    model.register_forward_pre_hook(lambda *_: active.append([len(block.active) for block in model.blocks]))
    search.step(batch(), batch())
    assert active == [[2] * 3, [1] * 3]
    search.accuracy(loader(), None, CPU)
    assert [block.active for block in model.blocks] == [[int(block.alphas.argmax())] for block in model.blocks]


def test_controller_samples_nearly_evenly_and_passes_gradients() -> None:
    controller = Controller()
    architecture, choices = controller()
    assert len(architecture) == len(EDGES)
    assert choices.logits.shape == (len(EDGES), len(CANDIDATES))
    even = math.log(len(CANDIDATES))
    assert choices.entropy().min().item() > 0.99 * even
    assert len({controller()[0] for _ in range(20)}) > 10
    choices.log_prob(torch.tensor(architecture)).sum().backward()
    assert all(parameter.grad is not None for parameter in controller.parameters())
    assert controller(greedy=True)[0] == controller(greedy=True)[0]
    greedy, choices = controller(greedy=True)
    assert greedy == tuple(choices.logits.argmax(dim=-1).tolist())


class Judge(ENASSupernet):
    """Classifies right as many images of five as there are edges of a candidate, and one edge does not count."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = sum(candidate == 2 for candidate in self.architecture[1:])
        return torch.nn.functional.one_hot((torch.arange(len(x)) >= right).long(), 2).float()


def test_controller_learns_what_is_rewarded() -> None:
    architect = ControllerArchitect(Judge(C=4, N=1), lr=0.02)
    images, targets = torch.zeros(len(EDGES) - 1, 3, 8, 8), torch.zeros(len(EDGES) - 1, dtype=torch.long)
    for _ in range(150):
        architect.step((images, targets), (images, targets), 0.1, None, False)
    assert architect.controller(greedy=True)[0][1:] == (2,) * (len(EDGES) - 1)
    assert 0.5 < architect.baseline <= 1


def test_the_baseline_is_a_moving_average() -> None:
    model = Judge(C=4, N=1)
    architect = ControllerArchitect(model, lr=0.0)
    images, targets = torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.long)
    rewards = []
    for _ in range(3):
        architect.step((images, targets), (images, targets), 0.1, None, False)
        rewards.append(sum(candidate == 2 for candidate in model.architecture[1:]) / 5)
    expected = 0.95 * (0.95 * rewards[0] + 0.05 * rewards[1]) + 0.05 * rewards[2]
    assert architect.baseline == pytest.approx(expected)


def test_enas_trains_samples_and_validates_the_most_likely() -> None:
    model = ENASSupernet(C=4, N=1, num_classes=3)
    search = search_of(ENASSearch, model, ControllerArchitect)
    architectures: list[Any] = []
    model.register_forward_pre_hook(lambda *_: architectures.append(model.architecture))
    for _ in range(4):
        search.step(batch(), batch())
    assert len(set(architectures)) > 4  # the controller's and the weights' are drawn apart
    search.accuracy(loader(), None, CPU)
    greedy, choices = search.architect.controller(greedy=True)
    assert model.architecture == greedy
    assert search.genotype() == model.genotype()
    (weights,) = enas_controller.METHOD.weights(search)
    torch.testing.assert_close(weights, choices.probs.detach())


def test_proxyless_weighs_by_its_alphas() -> None:
    model = ProxylessSupernet(C=4, layers=1)
    search = search_of(ProxylessSearch, model, GateArchitect)
    for weights, block in zip(proxyless_gates.METHOD.weights(search), model.blocks, strict=True):
        torch.testing.assert_close(weights, torch.softmax(block.alphas.detach(), dim=-1))
