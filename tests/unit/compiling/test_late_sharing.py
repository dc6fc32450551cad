"""What a model shares is decided by the first training call that mixes, where ``simplify`` met none."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import pytest
import torch

import toponas_fx
from exactness import assert_runs_like, counted_captures, no_capture
from sampled_supernets import EDGES, NAMES, Architecture, ModeSet
from toponas_fx.analysis.arms import selects

X = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ARCHITECTURE = Architecture.of("skip", "conv_3x3", "conv_1x1")


def _supernet() -> ModeSet:
    torch.manual_seed(0)
    return ModeSet().double()


def searching(mode: str = "share") -> tuple[Any, Any]:
    """Return a supernet that draws when it is simplified, and the simplified one; they share their parameters."""
    model = _supernet()
    with pytest.warns(UserWarning, match="Python's random generator is used"):
        fast = toponas_fx.simplify(model, X, mode=mode)
    return model, fast


def decided(fast: Any) -> Any:
    fast.set_mode("mixed")
    with pytest.warns(UserWarning, match="shares modules from this call on") as caught:
        fast(X)
    assert len(caught) == 1
    return fast


def test_a_mode_that_mixes_is_shared_when_the_loop_sets_it() -> None:
    model, fast = searching()
    names = [name for name, _ in fast.named_parameters()]
    assert names == [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.SGD(fast.parameters(), 0.1, momentum=0.9)
    fast.set_mode("chosen", ARCHITECTURE)
    fast(X)[1].sum().backward()
    held = {name: parameter for name, parameter in fast.named_parameters() if parameter.grad is not None}
    decided(fast)
    left = {name for name in names if name not in dict(fast.named_parameters())}
    assert left & set(held), "a parameter with a gradient should leave"
    assert all(held[name].grad is None for name in left & set(held))
    assert len(fast.report.mixtures) == 2 * len(EDGES)
    assert fast.report.after.convolutions < fast.report.before.convolutions
    assert fast.report.after.norms < fast.report.before.norms
    assert any("shares modules from this call on" in note for note in fast.report.notes)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer.zero_grad()
    fast(X)[1].sum().backward()
    optimizer.step()
    assert {name for name, value in model.named_parameters() if torch.equal(value, before[name])} >= left
    assert len(fast._toponas.programs) == 1


def test_vertices_hold_after_a_late_decision() -> None:
    _, fast = searching()
    decided(fast)
    for training in (True, False):
        fast.train(training)
        for index, name in enumerate(NAMES):
            with torch.no_grad():
                fast.alphas.copy_(torch.eye(len(NAMES))[index].expand_as(fast.alphas) * 1e4)
            fast.set_mode("mixed")
            expected = fast.reference(X)
            assert_equal(fast(X), expected)
            fast.set_mode("chosen", Architecture.of(*[name] * len(EDGES)))
            alone = fast.reference(X)
            if not training:
                assert_equal(alone, expected)
            assert_equal(fast.reference(X), alone)
            assert_equal(toponas_fx.restore(fast)(X), alone)


def assert_equal(found: Any, expected: Any) -> None:
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


def test_checkpoints_from_before_and_after_a_late_decision_fit_both() -> None:
    model, fast = searching()
    early = copy.deepcopy(fast.state_dict())
    decided(fast)
    assert list(fast.state_dict()) == list(early)
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(torch.randn_like(parameter))
    late = copy.deepcopy(fast.state_dict())
    _, other = searching()
    other.load_state_dict(late)
    assert_equal(decided(other)(X), fast(X))
    other.load_state_dict(early)
    assert all(torch.equal(other.state_dict()[name], early[name]) for name, _ in other.named_parameters())
    model.load_state_dict(late)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fast: pickle.loads(pickle.dumps(fast))])
def test_copies_hold_to_a_late_decision_and_undecided_ones_decide_alike(
    copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fast = searching()
    undecided = copied(fast)
    decided(fast)
    twin = copied(fast)
    with no_capture(monkeypatch):
        assert_equal(twin(X), fast(X))
    decided(undecided)
    assert undecided._toponas.sharing == twin._toponas.sharing


def test_an_evaluation_decides_nothing_and_its_graph_does_not_outlive_the_decision() -> None:
    model, fast = searching()
    fast.set_mode("mixed"), model.set_mode("mixed")
    fast.eval(), model.eval()
    assert_runs_like(fast, model, X)
    assert not fast._toponas.sharing.ties
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]
    decided(fast.train())
    assert_equal(fast.eval()(X), fast.reference(X))


def test_alternating_steps_keep_the_merged_one_and_its_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """SETN's loop: one step with a drawn architecture, one with all candidates; a few captures, then none.

    The kernels that the merged one has normalized are so on the paths of architectures, too.
    """
    _, fast = searching()
    decided(fast)
    generator = random.Random(0)
    with counted_captures(monkeypatch) as found:
        for _ in range(30):
            fast.set_mode("chosen", Architecture.drawn(generator))
            assert_equal(fast(X), fast.reference(X))
            fast.set_mode("mixed")
            fast(X)
    assert len(found) <= 4
    assert [len(program.kept) for program in fast._toponas.programs][:2] == [0, len(EDGES)]
    with no_capture(monkeypatch):
        fast(X)


def test_exact_mode_has_nothing_to_decide() -> None:
    model, fast = searching("exact")
    fast.set_mode("mixed"), model.set_mode("mixed")
    assert_runs_like(fast, model, X)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in model.named_parameters()]


class DrawnByTorch(ModeSet):
    """Paths that are compiled, for torch draws them."""

    def run(self, cell: Any, x: torch.Tensor) -> Any:
        if self.mode != "drawn":
            return super().run(cell, x)
        states = [x]
        for node in (1, 2):
            inner = []
            for source in range(node):
                k = torch.multinomial(self.alphas[cell.index[f"{node}<-{source}"]].softmax(-1), 1).item()
                inner.append(cell.edges[f"{node}<-{source}"][k](states[source]))
            states.append(sum(inner))
        return states[-1]


def test_drawn_paths_compute_with_kernels_as_they_were_decided() -> None:
    torch.manual_seed(0)
    fast = toponas_fx.simplify(DrawnByTorch("mixed").double(), X)
    assert fast._toponas.sharing.kernels
    fast.set_mode("drawn")
    for seed in range(8):
        torch.manual_seed(seed)
        found = fast(X)
        torch.manual_seed(seed)
        assert_equal(found, fast.reference(X))
    assert selects(fast._toponas.programs[0].graph)
