"""The Python in README and docs runs: a page's blocks in order, in one namespace, after the stand-ins that it declares.

A page declares stand-ins for what its readers have of their own in a block inside an HTML comment, which pages do not
show. A block that must not run has ``<!-- not run: why -->`` on the line above it. A block of text with
``<!-- printed -->`` above it is what the code prints.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_BY_OTHERS = {"docs/writing_a_pass.md": "tests/project/test_writing_a_pass.py"}
BLOCK = re.compile(r"(?P<excuse><!-- not run: (?P<reason>[^\n]+) -->\n)?^```python\n(?P<code>.*?)^```$", re.M | re.S)
PRINTED = re.compile(r"^<!-- printed -->\n```text\n(?P<text>.*?)^```$", re.M | re.S)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name


def code_of(page: Path) -> str:
    """Return all blocks of a page that run, each on the line that it has there."""
    if name(page) in RUN_BY_OTHERS:
        return ""
    text = page.read_text(encoding="utf-8")
    lines = [""] * len(text.splitlines())
    for block in BLOCK.finditer(text):
        if block["excuse"]:
            continue
        first = text[: block.start("code")].count("\n")
        code = block["code"].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()], ids=name)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(
    page: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.undo()  # what makes small models behave as large ones in all tests: readers do not have that
    monkeypatch.chdir(tmp_path)  # for the files that pages write
    torch.manual_seed(0)
    code = compile(code_of(page), str(page), "exec", dont_inherit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, {"__name__": "page"})
    printed = capsys.readouterr().out
    for block in PRINTED.finditer(page.read_text(encoding="utf-8")):
        assert block["text"] in printed


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_block_that_does_not_run_says_why(page: Path) -> None:
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        assert block["excuse"] is None or len(block["reason"].split()) > 2, block["code"]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_python_hides_in_a_block_of_another_kind(page: Path) -> None:
    """Every fence says what it holds; what is a command or a directive is no Python."""
    fences = re.findall(r"^```(.*)\n", page.read_text(encoding="utf-8"), re.M)
    kinds = {fence.split()[0] if fence else "" for fence in fences}
    assert kinds <= {"", "python", "shell", "console", "text"} | {kind for kind in kinds if kind.startswith("{")}
    assert len(fences) % 2 == 0
    assert all(not fence for fence in fences[1::2]), "an opening fence without a kind"
    assert all(fences[::2])


def test_blocks_keep_their_lines_and_excused_ones_are_left_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "text\n<!-- not run: it is an example of an error -->\n```python\n1 / 0\n```\n\n```python\na = 1\n```\n"
    )
    assert code_of(page).splitlines() == [*[""] * 7, "a = 1"]


def test_what_others_run_is_there_and_run() -> None:
    for page, test in RUN_BY_OTHERS.items():
        assert test in (ROOT / page).read_text(encoding="utf-8")
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")
