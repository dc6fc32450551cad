"""The page that ``toponas_fx.draw`` writes, in a real browser: Chromium, without a window, driven by Playwright.

``TOPONAS_SCREENSHOTS=1 pytest -m browser`` writes the pictures of README and docs anew.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import toponas_fx
from draw_models import HOSTILE, OwnSupernet
from supernets.darts import DARTSSupernet
from supernets.nasbench201 import NASBench201Supernet

playwright = pytest.importorskip("playwright.sync_api", reason='needs Playwright: pip install "toponas_fx[browser]"')
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the path: apt-get install chromium"),
]
STATIC = Path(__file__).parents[3] / "docs" / "_static"
WIDE, TALL = 1440, 900
FIRST_PAINT = 2000.0
"""Milliseconds; the page of eight DARTS cells takes a few hundred."""
LARGEST, LARGEST_PICTURE = 2_000_000, 150_000
EDGE = '.pair:not([hidden]) .before .face[data-edge="{}"]'


def nasbench() -> nn.Module:
    model = NASBench201Supernet(C=16)
    with torch.no_grad():
        model.alphas.copy_(torch.randn(model.alphas.shape))
    return model


def darts() -> nn.Module:
    model = DARTSSupernet(C=16, layers=8)
    for alphas in model.arch_parameters():
        alphas.data.copy_(torch.randn(alphas.shape))
    return model


MODELS = {"nasbench201": (nasbench, 6, 5), "darts": (darts, 14, 8), "own": (OwnSupernet, 3, 3)}
"""For each page: what makes its model, how many edges a cell has, and how many candidates an edge."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, (make, *_) in MODELS.items():
        torch.manual_seed(0)
        found[name] = toponas_fx.draw(make(), folder / f"{name}.html", torch.randn(4, 3, 32, 32))
        assert found[name].stat().st_size < LARGEST
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Open pages; at the end, none of them has complained or asked anybody for anything."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(name: str, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": WIDE, "height": TALL}, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition(":")[0] for url in asked} <= {"file"}
    assert len(asked) == len(contexts)


def screenshot(page: Any, name: str, **options: Any) -> None:
    """Write a picture for the docs where that is asked for: tests leave the tree as it was."""
    if os.environ.get("TOPONAS_SCREENSHOTS"):
        STATIC.mkdir(exist_ok=True)
        picture = Image.open(io.BytesIO(page.screenshot(**options)))
        few = picture.convert("RGB").quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(STATIC / f"draw_{name}.png", optimize=True)
        assert (STATIC / f"draw_{name}.png").stat().st_size < LARGEST_PICTURE


@pytest.mark.parametrize("name", MODELS)
def test_a_page_is_painted_at_once(opened: Any, name: str) -> None:
    page = opened(name)
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    deadline = time.monotonic() + 10
    while page.evaluate(paint) is None and time.monotonic() < deadline:  # the page allows no code made from text
        page.wait_for_timeout(20)
    assert page.evaluate(paint) < FIRST_PAINT
    assert page.locator(".pair:not([hidden]) .before .face").count() == MODELS[name][1]
    assert page.locator("#panel").is_hidden()
    screenshot(page, name, full_page=True)


@pytest.mark.parametrize("name", MODELS)
def test_an_edge_opens_by_click(opened: Any, name: str) -> None:
    page = opened(name)
    page.locator(EDGE.format(1) + " .card").click()
    panel = page.locator("#panel")
    assert panel.is_visible()
    assert panel.locator(".weights tr").count() == MODELS[name][2]
    assert panel.locator(".weights .number").first.inner_text().startswith("0.")
    assert "share-modules" in panel.locator(".deeds").first.inner_text()
    assert panel.locator(".price").inner_text().startswith("convolutions")
    assert page.locator(".face.chosen").count() == 2  # before and after
    if name == "darts":
        screenshot(page, "darts_edge")
    panel.locator(".close").click()
    assert panel.is_hidden()


def test_an_edge_opens_under_the_pointer(opened: Any) -> None:
    page = opened("nasbench201")
    page.locator(EDGE.format(3) + " .card").hover()
    page.locator("#panel").wait_for(state="visible")
    assert page.locator("#panel h2").inner_text() == "Edge in \N{RIGHTWARDS ARROW} 2"


def test_an_edge_opens_by_keyboard(opened: Any) -> None:
    page = opened("nasbench201")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('face')"):
            break
    assert page.evaluate("document.activeElement.dataset.edge") == "0"
    assert page.locator("#panel h2").inner_text() == "Edge in \N{RIGHTWARDS ARROW} 0"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#panel h2").inner_text() == "Edge in \N{RIGHTWARDS ARROW} 1"
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


def test_a_screen_reader_is_told_what_is_seen(opened: Any) -> None:
    page = opened("nasbench201")
    names = "none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3"
    told = f"edge from in to 2: candidate operations {names}"
    assert page.get_by_role("button", name=told).count() == 1
    assert page.get_by_role("button", name="edge from in to 2: computed as 3 terms").count() == 1
    assert page.get_by_role("group", name="cell A before simplification").count() == 1
    assert page.get_by_role("button", name="next pass").count() == 1
    assert page.locator("#told").get_attribute("aria-live") == "polite"
    page.locator(".as-table summary").first.click()
    assert page.get_by_role("rowheader", name="edge from in to 2").count() == 1
    assert "nor_conv_1x1 + nor_conv_3x3 (modules shared, kernels merged)" in page.locator(".as-table").inner_text()


def test_nothing_moves_for_who_asked_for_that(opened: Any, browser: Any, pages: dict[str, Path]) -> None:
    duration = "element => getComputedStyle(element).transitionDuration"
    assert opened("nasbench201").locator(".face").first.evaluate(duration) == "0s"
    page = browser.new_page()
    page.goto(pages["nasbench201"].as_uri())
    assert page.locator(".face").first.evaluate(duration) != "0s"
    page.close()


def test_the_walk_moves_by_buttons_and_keys(opened: Any) -> None:
    page = opened("darts")
    told, steps = page.locator("#told"), page.locator("#passes button")
    assert page.locator("#back").is_disabled()
    page.locator("#next").click()
    assert "detect-mixed-ops" in told.inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "deduplicate" in told.inner_text()
    assert "computed once instead of" in told.inner_text()
    assert page.locator(".pair:not([hidden]) .before .face.changed").count() == 14
    page.evaluate("document.activeElement.blur()")
    screenshot(page, "darts_walk", full_page=True)
    page.keyboard.press("ArrowLeft")
    assert "drop-zero-candidates" in told.inner_text()
    steps.last.click()
    assert page.locator("#next").is_disabled()
    steps.first.click()
    assert page.locator(".changed").count() == 0


def test_a_cell_expands_with_its_own_weights(opened: Any) -> None:
    page = opened("darts")
    kinds = page.locator(".kinds button")
    assert kinds.count() == 2
    assert "\N{MULTIPLICATION SIGN}6" in kinds.first.inner_text()
    assert "cells.0, cells.1, cells.3" in kinds.first.inner_text()
    bar = page.locator(EDGE.format(0) + " .bar").nth(1)
    first = bar.get_attribute("width")
    kinds.nth(1).click()
    assert page.locator(".where:visible").first.inner_text() == "cells.2"
    assert page.locator(EDGE.format(0) + " .bar").nth(1).get_attribute("width") != first
    page.locator('.strip .part[data-cell="7"]').click()
    assert page.locator(".where:visible").first.inner_text() == "cells.7"
    page.locator(EDGE.format(0)).focus()
    assert page.locator('.strip .part[aria-pressed="true"]').get_attribute("data-cell") == "7"


def test_names_of_the_user_run_nothing(opened: Any) -> None:
    page = opened("own")
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator(EDGE.format(0)).get_attribute("aria-label")
    page.locator(EDGE.format(0) + " .card").click()
    assert HOSTILE in page.locator("#panel").inner_text()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    assert page.locator("img").count() == 0


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(opened: Any, scheme: str) -> None:
    page = opened("nasbench201", color_scheme=scheme)
    paper = page.locator("body").evaluate("element => getComputedStyle(element).backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")
    for selector in ("h1", ".told", "#told p", ".legend", ".kinds .paths", ".costs dt", ".costs .ratio"):
        ink = page.locator(selector).first.evaluate("element => getComputedStyle(element).color")
        assert contrast(ink, paper) >= 4.5, selector
    for fate in ("shared", "kept"):
        line = page.locator(f".strand.{fate}").first.evaluate("element => getComputedStyle(element).stroke")
        assert contrast(line, paper) >= 3, fate
    page.locator(EDGE.format(3) + " .card").click()
    if scheme == "dark":
        screenshot(page, "nasbench201_dark")


def test_a_narrow_window_shows_one_picture_below_the_other(opened: Any) -> None:
    page = opened("nasbench201")
    page.set_viewport_size({"width": 600, "height": 900})
    before, after = (page.locator(f".pair:not([hidden]) figure.{side}").bounding_box() for side in ("before", "after"))
    assert after["y"] >= before["y"] + before["height"]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_picture_alone_opens(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = toponas_fx.draw(nasbench(), tmp_path / "picture.svg", torch.randn(4, 3, 32, 32))
    page = browser.new_page(viewport={"width": 1100, "height": 520})
    page.goto(path.as_uri())
    assert page.locator("svg.cell").count() == 2
    screenshot(page, "nasbench201_picture")
    page.close()
