"""The text of a tensor tells its values: forward that goes on with it is not held to the text of the recorded run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from exactness import assert_runs_like, image


class Supernet(nn.Module):
    """Scaled by the length of a text, or by the table that has the text as its key."""

    def __init__(self, read: Callable[[Any, Tensor], str]) -> None:
        super().__init__()
        self.read = read
        self.ops = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, bias=False) for _ in range(3))
        self.alphas = nn.Parameter(torch.tensor([1.5, 0.25, -0.5]))
        self.register_buffer("step", torch.tensor(2.0))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        """Mix."""
        text = self.read(self, x)
        weights = torch.softmax(self.alphas, 0)
        mixed = sum(w * op(x) for w, op in zip(weights, self.ops, strict=True))
        return mixed * (1 + sum(map(ord, text)) % 97)  # type: ignore[return-value]


def printed(m: Any, x: Tensor) -> str:
    print("alphas", m.alphas)
    return ""


TEXTS: dict[str, Callable[[Any, Tensor], str]] = {
    "a number with two digits": lambda m, x: f"{m.alphas[0]:.2f}",
    "a number": lambda m, x: f"{m.alphas.sum()}",
    "a buffer": lambda m, x: f"{m.step}",
    "a parameter": lambda m, x: f"{m.alphas}",
    "str": lambda m, x: str(m.alphas),
    "repr": lambda m, x: repr(m.alphas.data),
    "ascii": lambda m, x: ascii(m.alphas),
    "conversion": lambda m, x: f"{m.alphas!r:>80}",
    "percent": lambda m, x: "%s" % m.alphas,  # noqa: UP031
    "percent of a number": lambda m, x: "%.2f" % m.alphas[1],  # noqa: UP031
    "format": lambda m, x: "{:.1f} {}".format(m.alphas[0], "a"),
    "of a list": lambda m, x: str([m.alphas[0], m.alphas[1]]),
    "of a dict": lambda m, x: repr({"a": m.alphas}),
    "joined": lambda m, x: " ".join(map(str, m.alphas)),
    "of a list of numbers": lambda m, x: str(m.alphas.tolist()),
    "the input": lambda m, x: f"{x.mean():.4f}",
    "the whole input": lambda m, x: str(x),
    "of what is computed": lambda m, x: str(torch.softmax(m.alphas, 0)),
    "by the class": lambda m, x: Tensor.__repr__(m.alphas),
    "by format()": lambda m, x: format(m.alphas[2], ".3f"),
}


@pytest.mark.parametrize("way", TEXTS)
@pytest.mark.filterwarnings("ignore:Supernet runs as its user wrote it:UserWarning")
def test_a_text_is_that_of_the_values_now(way: str) -> None:
    torch.manual_seed(1)
    model = Supernet(TEXTS[way])
    fast = toponas_fx.simplify(model, image(channels=3), mode="exact")
    seen = []
    for value in (1.5, 0.75, 0.75, -3.25, 8.0):
        for each in (model, fast):
            each.alphas.data.mul_(value)
            each.step.fill_(value)
        x = image(channels=3, seed=3 + int(value * 4) % 7)
        assert_runs_like(fast, model, x)
        seen.append(TEXTS[way](model, x))
    assert len(set(seen)) > 2, "a case must tell values apart"


def test_a_number_s_text_is_held_and_a_tensor_s_runs_as_written() -> None:
    fast = toponas_fx.simplify(Supernet(TEXTS["a number with two digits"]), image(channels=3), mode="exact")
    assert fast._toponas.programs
    with pytest.warns(UserWarning, match=r"test_texts.py:\d+: the text of a tensor is read"):
        fast = toponas_fx.simplify(Supernet(TEXTS["str"]), image(channels=3), mode="exact")
    assert not fast._toponas.programs


def test_what_forward_prints_of_a_tensor_is_printed_at_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="the text of a tensor"):
        fast = toponas_fx.simplify(Supernet(printed), image(channels=3), mode="exact")
    capsys.readouterr()
    fast(image(channels=3))
    fast.alphas.data.fill_(7.0)
    fast(image(channels=3))
    out = capsys.readouterr().out
    assert out.count("alphas") == 2
    assert out.count("7.") == 3


def test_a_text_that_tells_no_values_is_compiled() -> None:
    fast = toponas_fx.simplify(
        Supernet(lambda m, x: f"{x.dtype} {x.device} {tuple(x.shape)[1:]} {m.alphas.requires_grad}"),
        image(channels=3),
        mode="exact",
    )
    assert fast._toponas.programs
