"""The script that measures audits counts those of the one model, and makes none in the other."""

from __future__ import annotations

import pytest

from benchmarks import audit_cost


@pytest.mark.slow
@pytest.mark.parametrize("space", audit_cost.SPACES)
def test_audits_are_made_in_the_one_model(space: str, capsys: pytest.CaptureFixture[str]) -> None:
    cost = audit_cost.measure(space, 4, 2, 8, 5.0)
    assert cost.steps > 2
    assert cost.audits > 0
    assert cost.audited > 0 < cost.without
    audit_cost.main(["--space", space, "--C", "4", "--batch", "2", "--side", "8", "--minutes", "0.005"])
    assert space in capsys.readouterr().out
