"""The page and the picture that ``toponas_fx.draw`` writes, without a browser: names stay text, and nobody is asked."""

from __future__ import annotations

import copy
import json
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import toponas_fx
from draw_models import HOSTILE, OwnSupernet, Plain, Sampled
from supernets.nasbench201 import NASBench201Supernet
from toponas_fx.draw.collecting import collect
from toponas_fx.draw.drawing import Drawing
from toponas_fx.draw.page import page
from toponas_fx.draw.picture import draw_cell
from toponas_fx.draw.sheet import sheet
from toponas_fx.errors import ArgumentError


def image(size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def simplified(model: nn.Module, **options: object) -> nn.Module:
    return toponas_fx.simplify(model, image(), **options)


@pytest.fixture(scope="module")
def bench() -> Drawing:
    torch.manual_seed(0)
    return collect(simplified(NASBench201Supernet(C=4, N=1)))


@pytest.fixture(scope="module")
def own() -> Drawing:
    torch.manual_seed(0)
    return collect(simplified(OwnSupernet()))


class Elements(HTMLParser):
    """What a browser would make of a page: its tags, the text of its scripts and of everything else."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names = {name for name, _ in attrs} | getattr(self, "names", set())
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text += data


def test_names_of_the_user_stay_text(own: Drawing) -> None:
    html = page(own)
    found = Elements(html)
    assert "img" not in found.tags
    assert "b" not in found.tags
    assert len(found.scripts) == 2
    assert found.tags.count("script") == 2
    assert not any(name.startswith("on") for name in found.names)
    data = json.loads(found.scripts[0])
    assert HOSTILE in data["texts"]
    assert data["cells"][0]["path"] == "body.<b>early</b>"
    assert HOSTILE in found.text  # in the table
    assert "wide" in found.text


def test_a_page_asks_nobody_for_anything(own: Drawing) -> None:
    html = page(own)
    for address in re.findall(r"https?://[^\"'\s<)]+", html):
        assert address == "http://www.w3.org/2000/svg"
    assert not re.search(r"@import|url\(|\bsrc=|<link|fetch\(|innerHTML", html.replace("src=x", ""))
    assert "default-src 'none'" in html
    assert "<!-- fill" not in html


def test_every_edge_can_be_reached_and_is_called_something(own: Drawing) -> None:
    root = draw_cell(own.cells[0], False, "a cell", 0)
    faces = [part for part in root.iter() if part.get("role") == "button"]
    assert len(faces) == 3
    assert {part.get("tabindex") for part in faces} == {"0"}
    assert faces[0].get("aria-label") == f"edge from in to 0: candidate operations wide, {HOSTILE}, pass & go"


def test_the_picture_alone_is_well_formed(own: Drawing) -> None:
    for drawing in (own, collect(simplified(NASBench201Supernet(C=4, N=1)))):
        root = ElementTree.fromstring(sheet(drawing))
        pictures = [part for part in root.iter() if "cell" in part.get("class", "").split()]
        assert len(pictures) == 2 * len(drawing.kinds)
        assert not any(part.get("tabindex") for part in root.iter())
    assert HOSTILE in "".join(part.text or "" for part in ElementTree.fromstring(sheet(own)).iter())


@pytest.mark.filterwarnings("ignore:.*runs as its user wrote it:UserWarning")
@pytest.mark.parametrize(
    ("model", "reason"), [(Sampled(), "each run samples another path there"), (Plain(), "no mixed operation was found")]
)
def test_without_mixed_operations_the_page_says_why(model: nn.Module, reason: str, tmp_path: Path) -> None:
    html = toponas_fx.draw(model, tmp_path / "page.html", image()).read_text()
    assert "Nothing to draw" in html
    assert reason in html
    assert reason in toponas_fx.draw(model, tmp_path / "page.svg", image()).read_text()


def test_a_plain_model_is_simplified_first_and_not_changed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = OwnSupernet()
    before = pickle.dumps(model)
    path = toponas_fx.draw(model, str(tmp_path / "page.html"), image())
    assert path == tmp_path / "page.html"
    assert pickle.dumps(model) == before
    assert type(model) is OwnSupernet
    assert "body.late" in path.read_text()


def test_a_simplified_model_is_drawn_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fast = simplified(OwnSupernet())
    first = toponas_fx.draw(fast, tmp_path / "one.html").read_text()
    assert first == toponas_fx.draw(fast, tmp_path / "two.HTML").read_text()


def test_a_copy_is_drawn_like_its_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fast = simplified(OwnSupernet())
    first = toponas_fx.draw(fast, tmp_path / "one.html").read_text()
    assert first == toponas_fx.draw(copy.deepcopy(fast), tmp_path / "two.html").read_text()


def test_a_model_whose_modules_were_replaced_is_not_drawn_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    fast = simplified(OwnSupernet())
    assert fast.report.mixtures  # measured before
    fast.stem = nn.Conv2d(3, 4, 1)
    html = toponas_fx.draw(fast, tmp_path / "page.html").read_text()
    assert "there is no graph in training mode: it has not run in this mode yet" in html
    fast(image())
    assert "there is no graph" not in toponas_fx.draw(fast, tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("model", "path", "sentence"),
    [
        (Plain(), "picture.png", "draw writes .html or .svg, not '.png': picture.png"),
        (Plain(), "picture", "draw writes .html or .svg, not 'a name without a suffix': picture"),
        (Plain(), "no/such/folder/page.html", "there is no folder no/such/folder to write page.html to"),
        (Plain, "page.html", "draw takes a torch.nn.Module, not type"),
        ("model", "page.html", "draw takes a torch.nn.Module, not str"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_sentence(model: object, path: str, sentence: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{re.escape(sentence)}$"):
        toponas_fx.draw(model, path)
    assert not Path(path).exists()
