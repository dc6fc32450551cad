"""Audits of every call, for tests of what they leave as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from toponas_fx.runtime import auditing


def audit_always(monkeypatch: Any, every: int = 1) -> list[Any]:
    """Audit each call that a program runs, or one in so many of a program; return a list of what the audits find."""
    found: list[Any] = []
    due, finding = auditing.Audits.due, auditing.finding

    def look(*args: Any) -> Any:
        found.append(finding(*args))
        return found[-1]

    def is_due(self: Any, program: Any, programs: Any) -> bool:
        due(self, program, programs)
        return self.is_on and program.calls % every == 0

    monkeypatch.setattr(auditing.Audits, "due", is_due)
    monkeypatch.setattr(auditing, "finding", look)
    return found


def repeat(model: Any, x: Any, count: int) -> None:
    """Call a model so many times."""
    for _ in range(count):
        model(x)


def assert_equal(found: Any, expected: Any) -> None:
    """Assert that two runs left the very same behind."""
    left, right = map(pytree.tree_leaves, (found, expected))
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
