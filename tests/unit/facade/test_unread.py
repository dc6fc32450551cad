"""Parameters that forward has not read yet stay, and learn as soon as a call reads them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import toponas_fx
from exactness import image


class Headed(nn.Module):
    """A mixed operation, and a head that only some calls run."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3))
        self.head = nn.Conv2d(4, 4, 1)
        self.alphas = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.path = forward
        self.double()

    def mix(self, x: Tensor) -> Tensor:
        weights = F.softmax(self.alphas, 0)
        return sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))  # type: ignore[return-value]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.path(self, *args, **kwargs)


def behind_a_keyword(m: Headed, x: Tensor, auxiliary: bool = False) -> Tensor:
    return m.mix(x) + m.head(x) if auxiliary else m.mix(x)


def with_an_optional_tensor(m: Headed, x: Tensor, other: Tensor | None = None) -> Tensor:
    return m.mix(x) if other is None else m.mix(x) + m.head(other)


def by_the_rank(m: Headed, x: Tensor) -> Tensor:
    return m.mix(x) if x.dim() == 4 else m.head(m.mix(x))


def by_the_size(m: Headed, x: Tensor) -> Tensor:
    return m.head(m.mix(x)) if x.size(-1) > 6 else m.mix(x)


def in_evaluation_by_a_text(m: Headed, x: Tensor, kind: str = "plain") -> Tensor:
    return {"plain": lambda: m.mix(x), "headed": lambda: m.head(m.mix(x))}[kind]()


CASES: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]]] = {
    "keyword": (behind_a_keyword, lambda: ((image(),), {"auxiliary": True})),
    "optional tensor": (with_an_optional_tensor, lambda: ((image(), image(seed=3)), {})),
    "rank": (by_the_rank, lambda: ((image()[0],), {})),
    "size": (by_the_size, lambda: ((image(side=8),), {})),
    "text": (in_evaluation_by_a_text, lambda: ((image(), "headed"), {})),
}


@pytest.mark.parametrize("mode", ["share", "exact"])
@pytest.mark.parametrize("case", CASES)
def test_a_head_that_a_later_call_runs_learns(case: str, mode: str) -> None:
    path, arguments = CASES[case]
    model = Headed(path)
    fast = toponas_fx.simplify(model, image(), mode=mode)
    assert fast.state_dict().keys() == model.state_dict().keys()
    optimizer = torch.optim.SGD(fast.parameters(), 0.1)
    assert [name for name, _ in toponas_fx.used_parameters(fast)] == [
        name for name, _ in model.named_parameters() if "head" not in name
    ]
    args, kwargs = arguments()
    before = fast.head.weight.detach().clone()
    fast(image()).square().sum().backward()
    assert fast.head.weight.grad is None
    fast(*args, **kwargs).square().sum().backward()
    optimizer.step()
    assert not torch.equal(fast.head.weight, before)
    assert [name for name, _ in toponas_fx.used_parameters(fast)] == [name for name, _ in fast.named_parameters()]
    if mode == "exact":
        model.load_state_dict(fast.state_dict())
        assert torch.allclose(fast(*args, **kwargs), model(*args, **kwargs), rtol=1e-10, atol=1e-12)


def test_what_runs_as_written_may_read_all() -> None:
    def drawn(m: Headed, x: Tensor) -> Tensor:
        m.kept = {x.size(0)}
        return m.mix(x)

    with pytest.warns(UserWarning, match="runs as its user wrote it"):
        fast = toponas_fx.simplify(Headed(drawn), image())
    assert [name for name, _ in toponas_fx.used_parameters(fast)] == [name for name, _ in fast.named_parameters()]


def test_a_parameter_that_was_retired_is_read_as_it_was() -> None:
    model = Headed(behind_a_keyword)
    fast = toponas_fx.simplify(model, image(), mode="exact")
    toponas_fx.retire(fast, "head.weight")
    for twin in (fast, copy.deepcopy(fast), pickle.loads(pickle.dumps(copy.deepcopy(fast)))):
        assert [name for name, _ in twin.named_parameters() if "head" in name] == ["head.bias"]
        found = twin(image(), auxiliary=True)
        assert torch.allclose(found, model(image(), auxiliary=True), rtol=1e-10, atol=1e-12)
        assert toponas_fx.restore(twin).state_dict().keys() == model.state_dict().keys()
    with pytest.raises(toponas_fx.ArgumentError, match="no parameter `head"):
        toponas_fx.retire(fast, ["head.weight"])


@pytest.mark.parametrize("function", [toponas_fx.used_parameters, lambda model: toponas_fx.retire(model, [])])
def test_both_take_simplified_models(function: Callable[[Any], Any]) -> None:
    with pytest.raises(toponas_fx.ArgumentError, match="what simplify returned, not Headed"):
        function(Headed(behind_a_keyword))
