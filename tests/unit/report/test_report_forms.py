"""Other forms of the report, and what is printed of a simplified model."""

from __future__ import annotations

import io
import json
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_report import Chain, Pooled, image, report_on
from test_report_text import whole
from torch import Tensor, nn

import toponas_fx
from toponas_fx.report.text import WIDTH
from toponas_fx.testing import RandomSupernet, random_supernets


def test_repr_is_one_line() -> None:
    assert repr(report_on(Chain())) == ("<report on Chain, mode share: 2 edges, 8 candidate operations; print it>")


def test_json_is_that_of_the_dict() -> None:
    report = whole(Chain())
    plain = report.to_dict()
    assert json.loads(report.to_json()) == plain == report.as_dict()
    (kind,) = plain["kinds"]
    assert kind["after"] == "w₁·x + W·BN(conv(x; Σ₂,₃ pᵢ·K̂ᵢ)) + w₄·tanh x"
    assert plain["mixtures"][0]["key"][1] == 0
    assert report.edges is report.mixtures


def test_markdown() -> None:
    lines = whole(Chain()).to_markdown().splitlines()
    assert lines[0] == "**Chain, mode share: 2 edges, 8 candidate operations**"
    assert lines[2:4] == ["| | before | after | ratio |", "|---|---:|---:|---:|"]
    assert "  - after: `w₁·x + W·BN(conv(x; Σ₂,₃ pᵢ·K̂ᵢ)) + w₄·tanh x`" in lines
    assert "`avg_pool_3x3`" in whole(Pooled()).to_markdown()


class Angled(nn.Module):
    """Has names that HTML and Markdown would take for markup."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({"<b>1</b>": Pooled().edges[0]})
        self.alphas = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.edges["<b>1</b>"](x, self.alphas)  # type: ignore[no-any-return]


def test_notebooks_get_html_with_names_escaped() -> None:
    found = whole(Angled())._repr_html_()
    assert found.startswith("<div><p><b>Angled, mode share")
    assert "<b>1</b>" not in found
    assert "&lt;b&gt;1&lt;/b&gt;" in found
    assert found.count("<tr>") == found.count("</tr>") == 8


def test_rich_terminals_get_a_table() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=100, force_terminal=True)
    console.print(whole(Chain()))
    text = console.file.getvalue()
    assert "\x1b[" in text
    for part in ("convolutions", "before", "W·BN(conv(x; Σ₂,₃ pᵢ·K̂ᵢ))"):
        assert part in text


def test_rich_takes_names_for_no_markup() -> None:
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), width=100)
    console.print(report_on(Chain(), notes=["a [red]name[/red]"]))
    assert "a [red]name[/red]" in console.file.getvalue()


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(random_supernets())
def test_all_forms_of_random_supernets(model: RandomSupernet) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = toponas_fx.simplify(model, torch.randn(2, 2, 8, 8)).report
    for text in (str(report), report.details(), report.to_markdown(), report._repr_html_()):
        assert text.splitlines()[0]
    assert max(map(len, str(report).splitlines())) <= WIDTH
    assert sum(len(kind.edges) for kind in report.kinds) == len(report.edges)
    assert json.loads(report.to_json())["model"] == "RandomSupernet"


# -- printing -------------------------------------------------------------------------------------------------------


def test_what_is_printed_of_a_simplified_model() -> None:
    fast = toponas_fx.simplify(Chain(), image())
    first, second = str(fast).splitlines()[:2]
    assert first == (
        "# Chain, simplified in mode share; 2 modules are tied to others, `edges.0.ops.2.1` to `edges.0.ops.1.1`; "
        "print(model.report) says what was done"
    )
    assert second == "SimplifiedChain("
    assert str(fast.topology()).startswith("MultiDiGraph named '2 mixed operations of 6 terms' with 3 nodes")
    assert str(toponas_fx.topology(Chain(), image())).startswith("MultiDiGraph named '2 mixed operations of 8 terms'")


def test_readable_code_names_the_users_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fast = toponas_fx.simplify(Chain(), image())
    text = fast.print_readable()
    assert capsys.readouterr().out == text + "\n"
    assert "No stacktrace found" not in text
    assert "test_report.py" in text
    assert "in forward, code: return sum(w * op(x)" in text
    assert fast.print_readable(print_output=False) == text
    assert capsys.readouterr().out == ""
