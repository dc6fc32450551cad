"""What forward prints while it is audited is kept back, from its own thread alone."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from torch import Tensor, nn

import toponas_fx
from toponas_fx.runtime.auditing import _unprinted


class Talking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        print("computing", x.shape[1])
        print("with care", file=sys.stderr)
        return x * 2


def test_an_audit_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(2, 3)
    fast = toponas_fx.simplify(nn.Sequential(Talking()), x)
    capsys.readouterr()
    for _ in range(20):
        assert torch.equal(fast(x), 2 * x)
    assert fast._toponas.programs[0].audits > 0
    said = capsys.readouterr()
    assert "computing" not in said.out
    assert "with care" not in said.err


def test_other_threads_print_on(capsys: pytest.CaptureFixture[str]) -> None:
    with _unprinted():
        print("kept back")
        other = threading.Thread(target=lambda: print("printed"))
        other.start()
        other.join()
        assert sys.stdout.encoding
    print("after")
    assert capsys.readouterr().out == "printed\nafter\n"
