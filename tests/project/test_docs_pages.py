"""README leads to what is there, figures are what their script draws, and each pass has a page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from toponas_fx import passes

ROOT = Path(__file__).parents[2]
LINKS = re.findall(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)", (ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("target", "anchor"), LINKS, ids=lambda part: part or "top")
def test_readme_leads_to_what_is_there(target: str, anchor: str) -> None:
    if target.startswith("https://"):
        return
    page = ROOT / target
    assert page.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_readme_has_links() -> None:
    assert len(LINKS) > 10
    assert any(anchor for _, anchor in LINKS)


def test_figures_are_what_their_script_draws(tmp_path: Path) -> None:
    script = ROOT / "docs" / "edge_figure.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {"edge.svg", "floating.svg"}
    for name, text in drawn.items():
        ElementTree.fromstring(text)
        committed = (ROOT / "docs" / "_static" / name).read_text(encoding="utf-8")
        assert committed == text, "run python docs/edge_figure.py docs/_static"


def test_every_pass_has_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from pass_pages import write_pages

    write_pages(tmp_path / "generated")
    pages = {page.stem: page.read_text(encoding="utf-8") for page in (tmp_path / "generated").iterdir()}
    index = pages.pop("index")
    classes = [value for value in vars(passes).values() if isinstance(value, type) and hasattr(value, "name")]
    assert set(pages) == {class_.name for class_ in classes}
    listed = re.findall(r"^   ([a-z-]+)$", index, re.M)
    assert sorted(listed) == sorted(pages)
    assert listed.index("detect-mixed-ops") < listed.index("share-modules") < listed.index("merge-kernels")
    assert "*Promise*: shares" in pages["share-modules"]
    assert "in turn with others" in pages["share-modules"]
    assert "only where an option asks for it" in pages["recompute"]
    assert all(f".. automodule:: toponas_fx.passes.{name.replace('-', '_')}\n" in text for name, text in pages.items())


def test_pages_that_have_not_changed_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from pass_pages import write_pages

    write_pages(tmp_path)
    before = {page: page.stat().st_mtime_ns for page in tmp_path.iterdir()}
    write_pages(tmp_path)
    assert {page: page.stat().st_mtime_ns for page in tmp_path.iterdir()} == before
