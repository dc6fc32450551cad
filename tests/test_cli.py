"""The command ``toponas-fx check``: its output, its exit codes, its errors."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from toponas_fx.cli import main
from wrong_passes import SwapWeights, add_pass

ROOT = Path(__file__).parent.parent


def run(*arguments: str, cwd: Path = ROOT / "tests") -> subprocess.CompletedProcess[str]:
    script = Path(sysconfig.get_path("scripts")) / "toponas-fx"
    command = [str(script)] if script.exists() else [sys.executable, "-m", "toponas_fx"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.run([*command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_command_in_a_process_of_its_own() -> None:
    found = run("check", "check_models:Names.make", "--input", "2,4,6,6", "--json")
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    verdict = json.loads(found.stdout)
    assert (verdict["verdict"], verdict["complete"], verdict["inputs"]) == ("pass", True, ["float64[2, 4, 6, 6]"])
    assert verdict["report"]["before"]["convolutions"] > verdict["report"]["after"]["convolutions"]
    assert all(check["passed"] and check["error"] <= check["tolerance"] for check in verdict["checks"])


def test_the_command_writes_report_checks_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "check_models:Names.ready", "--input", "2,4,6,6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Supernet, mode share: 2 mixtures, 8 candidates"
    assert "vertices: 2 of 2 mixtures were put at each of their candidates, in 8 rounds" in lines
    assert lines[-1] == "verdict: PASS: Supernet, simplified, computes what it did"


def test_the_command_fails_for_a_wrong_compiler(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_pass(monkeypatch, SwapWeights())
    assert main(["check", "check_models:Supernet", "--input", "2,4,6,6"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("verdict: FAIL: exact, outputs at its own weights")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere:make"], "there is no module 'nowhere'"),
        (["check_models"], "write package.module:factory"),
        (["check_models:Nobody"], "check_models has no attribute 'Nobody'"),
        (["check_models:Names.number"], "is of type int: neither a torch.nn.Module nor callable"),
        (["check_models:needs"], "needs channels: name a function without arguments"),
        (["check_models:breaks"], "OSError: no such checkpoint"),
        (["check_models:Zero"], "tells no input shape"),
        (["check_models:Reserved", "--input", "2,4,6,6"], "has an attribute `graph`"),
        (["check_models:Supernet", "--input", "2,5,6,6"], "forward fails on inputs of shape (2, 5, 6, 6)"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("toponas-fx: error: ")
    assert text in found.err
    assert len(found.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["check"], ["check", "check_models:Supernet", "--input", "3x3"]])
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "usage: toponas-fx" in capsys.readouterr().err
