"""The book: it builds without a warning, every link leads somewhere, and it works in a browser without a network."""

import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(NOTEBOOKS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_page_is_there_and_every_link_leads_somewhere(site):
    pages = {page: page.read_text("utf-8") for page in site.rglob("*.html") if "_static" not in page.parts}
    assert {site / f"{notebook.stem}.html" for notebook in NOTEBOOKS.glob("*.ipynb")} <= set(pages)
    broken = []
    for page, text in pages.items():
        for link in re.findall(r'\s(?:href|src)="([^"]+)"', text):
            parts = urlsplit(unescape(link))
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchor = f'id="{unquote(parts.fragment)}"' if parts.fragment else ""
            if not target.exists() or anchor not in pages.get(target, anchor):
                broken.append(f"{page.name}: {link}")
    assert not broken
    page = pages[site / "api" / "emerdiff_lib.pipeline.html"]  # functions name the notebooks that use them
    name = re.escape("emerdiff_lib.pipeline.EmerDiffPipeline.probe")
    (links,) = re.findall(rf'id="{name}".*?Used in(.*?)</p>', page, re.DOTALL)
    assert "10_pixel_features.html" in links


@pytest.fixture
def tab(browser):
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 900})
    tab, errors = context.new_page(), []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    yield tab
    context.close()
    assert not errors


def test_it_is_read_in_the_dark_on_phones_and_without_a_network(site, tab):
    page = (site / "03_difference_maps.html").as_uri()
    tab.goto(page)
    formulas = "[...document.querySelectorAll('mjx-container')].filter(f => f.offsetWidth > 100).length"
    tab.wait_for_function(formulas + " > 1")
    paper = lambda: tab.evaluate("getComputedStyle(document.body).backgroundColor")
    light = paper()
    tab.locator("button.theme-switch-button").first.click()
    tab.locator(".theme-change-button[data-mode=dark]").first.click()
    assert light == "rgb(255, 255, 255)" and sum(map(int, re.findall(r"\d+", paper()))) < 120
    for name in ("index", "03_difference_maps", "10_pixel_features", "api/emerdiff_lib.responses"):
        tab.set_viewport_size({"width": 390, "height": 800})
        tab.goto((site / f"{name}.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_the_explorer_answers_a_click_inside_the_book(site, tab):
    tab.goto((site / "10_pixel_features.html").as_uri(), wait_until="domcontentloaded")
    frame = tab.frame_locator("iframe[title='EmerDiff explorer']")
    frame.locator("[data-drawn]").wait_for()
    canvas = frame.locator("canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] / 10, "y": box["height"] / 5})
    frame.get_by_text(re.compile(r"segment \d+ of \d+", re.IGNORECASE)).wait_for()
