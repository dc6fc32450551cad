"""The page on writing a pass: its code runs as it stands there, and says what it is said to say."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import textwrap
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from toponas_fx.passes import DetectMixedOps
from toponas_fx.testing import graph_of
from toponas_fx.testing.__main__ import main

PAGE = (Path(__file__).parents[2] / "docs" / "writing_a_pass.md").read_text()
PASS, HANDOVER, TESTS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write the page's pass to a file, where the page's other code imports it from."""
    (tmp_path / "drop_repeated_relu.py").write_text(PASS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("drop_repeated_relu", None)


def executed(code: str) -> tuple[ModuleType, str]:
    module = ModuleType("page")
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(code, "writing_a_pass.md", "exec"), vars(module))
    return module, out.getvalue()


def test_the_normal_form_is_what_the_reference_shows() -> None:
    reference = (Path(__file__).parents[2] / "docs" / "api.rst").read_text()
    code, text = re.findall(r"(    class Node.*?)\n\nis\n.*?text\n\n(.*?)\n\n\*", reference, re.DOTALL)[0]
    call = textwrap.dedent(code).replace("graph_of(", "found = graph_of(")
    names: dict[str, Any] = {"x": torch.rand(2, 4, 3, 3), "y": torch.rand(2, 4, 3, 3)}
    exec(call, vars(torch) | {"torch": torch, "nn": nn, "graph_of": graph_of, "DetectMixedOps": DetectMixedOps}, names)
    assert names["found"] == textwrap.dedent(text)


def test_the_pass_is_short() -> None:
    assert len([line for line in PASS.splitlines() if line.strip()]) <= 40


@pytest.mark.usefixtures("page")
def test_the_report_says_what_the_page_says() -> None:
    module, printed = executed(HANDOVER)
    assert f"prints `{printed.strip()}`" in PAGE
    assert "ReLU[ops." not in module.fast.code
    assert module.fast.report.after.activations == 1


@pytest.mark.usefixtures("page")
def test_the_tests_on_the_page_pass() -> None:
    module, _ = executed(TESTS)
    tests = [value for name, value in vars(module).items() if name.startswith("test_")]
    assert len(tests) == 3
    for test in tests:
        test()


@pytest.mark.usefixtures("page")
def test_the_tests_on_the_page_can_fail(tmp_path: Path) -> None:
    (tmp_path / "drop_repeated_relu.py").write_text(PASS.replace("not memory.is_written(relu)", "True").replace(
        "is_pure(gm, relu)", "True"
    ))  # fmt: skip
    module, _ = executed(TESTS)
    with pytest.raises(AssertionError, match="drop-repeated-relu would change what it must keep"):
        module.test_keeps_a_relu_in_place()


def test_the_command_on_the_page(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"\$ python -m toponas_fx.testing (.*)", PAGE)
    assert main([*command.split(), "--examples", "5"]) == 0
    assert "verdict: PASS: drop-repeated-relu keeps its promises" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_runs_as_a_module(page: Path) -> None:
    command = [sys.executable, "-m", "toponas_fx.testing", "drop_repeated_relu.py:DropRepeatedRelu", "--examples", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=page, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("verdict: PASS")
