"""The command ``toponas-fx inspect``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from toponas_fx.command.cli import main
from toponas_fx.command.options import Subject, forward_errors_told
from toponas_fx.errors import InputError

INPUT = ["--input", "2,4,6,6"]


def test_the_command_prints_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "check_models:Supernet", *INPUT]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0] == "Supernet, mode share: 2 edges, 8 candidate operations"
    assert any(line.startswith("    after   ") for line in lines)
    assert any(line.startswith("bytes saved for backward") for line in lines)


def test_the_command_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "check_models:Supernet", *INPUT, "--json", "--mode", "exact"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["mode"]) == ("Supernet", "exact")
    assert sum(len(kind["edges"]) for kind in found["kinds"]) == 2


def test_the_command_lists_details(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "check_models:Supernet", *INPUT, "--details"]) == 0
    assert "share-modules (SHARES): " in capsys.readouterr().out


def test_a_terminal_gets_a_table_of_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("toponas_fx.command.inspect.is_terminal", lambda: True)
    assert main(["inspect", "check_models:Supernet", *INPUT]) == 0
    assert "─" in capsys.readouterr().out


def test_a_terminal_without_rich_gets_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("toponas_fx.command.inspect.is_terminal", lambda: True)
    monkeypatch.setattr("toponas_fx.command.inspect.find_spec", lambda name: None)
    assert main(["inspect", "check_models:Supernet", *INPUT]) == 0
    assert "─" not in capsys.readouterr().out


def test_the_command_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "picture.html"
    assert main(["inspect", "check_models:Supernet", *INPUT, "--html", str(page)]) == 0
    assert "<html" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("Supernet, mode share")


def test_where_no_page_can_be_written_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    page = str(Path("nowhere") / "picture.html")
    assert main(["inspect", "check_models:Supernet", *INPUT, "--html", page]) == 2
    assert capsys.readouterr().err == "toponas-fx: error: there is no folder nowhere to write picture.html to\n"


@pytest.mark.parametrize("command", ["inspect", "bench"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["check_models"], "write package.module:factory or path/to/file.py:factory, not 'check_models'"),
        (["check_models:Nobody"], "check_models has no attribute 'Nobody'"),
        (["check_models:Zero"], "tells no input shape"),
        (
            ["check_models:Supernet", "--input", "2,5,6,6"],
            "forward fails on inputs of shape (2, 5, 6, 6): RuntimeError: ",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    command: str, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("toponas-fx: error: ")
    assert text in found.err
    assert len(found.err.splitlines()) == 1


def test_an_error_of_several_lines_is_one_sentence() -> None:
    subject = Subject(nn.Identity(), (torch.ones(2, 3),), {})
    with pytest.raises(InputError, match=r"^forward fails on inputs of shape \(2, 3\): ValueError: one two$"):
        with forward_errors_told(subject):
            raise ValueError("one\n  two")


@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_an_interrupt_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "check_models:interrupts", *INPUT]) == 130
    assert capsys.readouterr().err == "toponas-fx: interrupted\n"


def test_nothing_is_said_of_progress_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    assert main(["inspect", "check_models:Supernet", *INPUT]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "examples"),
    [
        ("inspect", ("--html picture.html", "--json > report.json", "--seed 1")),
        ("bench", ("--rounds 30", "64,3,32,32")),
    ],
)
def test_help_has_examples_and_exit_codes(
    command: str, examples: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in (*examples, "exit codes: 0", "2 nothing was", "130 interrupted", f"toponas-fx {command} "):
        assert part in text
