"""``share_sampled=True``: candidates of which a step draws one share modules, and compute what they then do."""

from __future__ import annotations

import copy
import pickle
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import toponas_fx
from sampled.collected import SAMPLED
from sampled.gdas import NASNetworkGDAS, TinyNetworkGDAS
from sampled.parts import Sampled
from sampled.side_by_side import built, image, seed
from supernets.gdas_darts import GDASDARTSSupernet
from supernets.nasbench201 import NASBench201Supernet
from supernets.spos_mobile import SPOSSupernet

QUICK = (TinyNetworkGDAS, NASNetworkGDAS)
kinds = pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in SAMPLED],
    ids=lambda kind: kind.__name__,
)


def shared(model: Any, **options: Any) -> Any:
    """Simplify a copy of a supernet, and let its candidates share."""
    model = copy.deepcopy(model)
    x = image(3, 0).detach()
    seed(0)
    return toponas_fx.simplify(model, model.arguments(x, 0), share_sampled=True, **options)


def step(model: Any, call: Any, number: int) -> dict[str, Any]:
    """Take a step from a seed, and return output, gradients, None apart from zero, buffers, and what is drawn next."""
    x = image((2, 3, 5)[number % 3], number)
    seed(number)
    model.prepare(number)
    model.zero_grad()
    output = call(*model.arguments(x, number))
    loss = model.loss(output)
    if loss.requires_grad:
        loss.backward()
    leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    seen = {f"output {i}": leaf.detach() for i, leaf in enumerate(leaves)} | {"x": x.grad, "next": torch.rand(1)}
    seen |= {name: parameter.grad for name, parameter in model.named_parameters()}
    seen |= {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    return {name: None if value is None else value.detach().clone() for name, value in seen.items()}


def assert_steps_alike(fast: Any, twin: Any, steps: int) -> None:
    """Step a model, and another by its user's own forward on the tied tree."""
    for number in range(steps):
        found, expected = step(fast, fast, number), step(twin, MethodType(twin._toponas.user_forward, twin), number)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] is None) == (value is None), (number, name)
            if value is not None:
                torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-10, msg=f"step {number}: {name}")


@kinds
@pytest.mark.filterwarnings("ignore:.*(shares modules from this call on|as its user wrote it|no mixed operation)")
def test_it_trains_as_the_users_forward_does_on_the_tied_tree(kind: type[Sampled]) -> None:
    if kind.mode != "share":
        pytest.skip("mixes candidates in some steps, where shared modules compute something else")
    model = built(kind)
    fast = shared(model)
    for number in range(3):  # some learn what their choices are by then, and share
        step(fast, fast, number)
    twin = copy.deepcopy(fast)
    assert_steps_alike(fast, twin, 9)
    fast.eval(), twin.eval()
    assert_steps_alike(fast, twin, 3)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
def test_half_of_the_parameters_of_a_darts_network_leave() -> None:
    torch.manual_seed(0)
    model = GDASDARTSSupernet(C=16, layers=3)
    x = torch.randn(2, 3, 16, 16)
    fast, exact = toponas_fx.simplify(model, x, share_sampled=True), toponas_fx.simplify(model, x)
    assert count(exact) == count(model)
    assert 0.5 < count(fast) / count(model) < 0.56
    optimizer = torch.optim.SGD(fast.parameters(), 0.1, momentum=0.9)
    for number in range(30):
        torch.manual_seed(number)
        optimizer.zero_grad()
        fast(x).square().mean().backward()
        optimizer.step()
    state = sum(buffer.numel() for of in optimizer.state.values() for buffer in of.values())
    assert state <= count(fast)
    assert fast._toponas.report.after.parameters == count(fast)


def test_integers_given_to_forward_decide_once_they_change() -> None:
    torch.manual_seed(0)
    model = SPOSSupernet(C=16, layers=1)
    x, one, other = torch.randn(2, 3, 16, 16), [0] * len(model.blocks), [1] * len(model.blocks)
    fast = toponas_fx.simplify(model, (x, one), share_sampled=True)
    assert count(fast) == count(model)
    with pytest.warns(UserWarning, match=r"shares modules from this call on, .* that has several candidates: `.* left"):
        fast(x, other)
    assert count(fast) < 0.55 * count(model)
    assert not [note for note in fast.report.notes if "nothing is shared" in note or "does not read" in note]
    for number in range(len(model.blocks[0].ops)):
        choice = [min(number, len(block.ops) - 1) for block in model.blocks]
        torch.testing.assert_close(fast(x, choice), fast.reference(x, choice), rtol=1e-4, atol=1e-5)
    assert not fast._toponas.as_written


def test_restore_gives_an_untied_model_that_computes_the_same() -> None:
    fast = shared(built(TinyNetworkGDAS))
    for number in range(5):
        step(fast, fast, number)
    plain = toponas_fx.restore(fast).eval()
    fast.eval()
    for number in range(8):
        x = image(2, number)
        seed(number)
        expected = fast(x)
        seed(number)
        for found, value in zip(plain(x), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-9)


def test_checkpoints_pickles_and_copies_keep_what_is_shared() -> None:
    fast, fresh = (shared(built(TinyNetworkGDAS, number)) for number in (0, 1))
    step(fast, fast, 0)
    fresh.load_state_dict(fast.state_dict())
    for twin in (fresh, copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert twin._toponas.sharing.ties == fast._toponas.sharing.ties != {}
        again = copy.deepcopy(fast)
        torch.testing.assert_close(step(twin, twin, 1)["x"], step(again, again, 1)["x"])


def test_nothing_is_shared_unless_asked_for() -> None:
    fast = toponas_fx.simplify(built(TinyNetworkGDAS), image(2, 0))
    assert fast._toponas.sharing.ties == {}
    assert any("none is shared or merged" in note for note in fast.report.notes)
    assert not any("none is shared or merged" in note for note in shared(built(TinyNetworkGDAS)).report.notes)


def test_the_report_writes_shared_norms_without_an_index() -> None:
    lines = str(shared(built(TinyNetworkGDAS)).report)
    assert "BNᵢ(convᵢ(relu x)), i=4,5" in lines
    assert "BN(convᵢ(relu x)), i=4,5" in lines


def test_mode_exact_refuses_the_option() -> None:
    with pytest.raises(
        toponas_fx.ArgumentError, match="share_sampled=True shares modules, which mode 'exact' does not"
    ):
        shared(built(TinyNetworkGDAS), mode="exact")


def test_a_mixed_supernet_is_shared_as_without_the_option() -> None:
    torch.manual_seed(0)
    model, x = NASBench201Supernet(C=4, N=1), torch.randn(2, 3, 16, 16)
    plain, asked = toponas_fx.simplify(model, x), toponas_fx.simplify(model, x, share_sampled=True)
    assert asked._toponas.sharing == plain._toponas.sharing
    assert asked.code == plain.code
