"""The HTML page in a real browser: it loads nothing, fits a phone, and can be read in the dark."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from stateport.parity.matrix import Matrix
from stateport.parity.reports import write

Open = Callable[..., Page]
Colour = tuple[float, float, float]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_EXECUTABLE = next(filter(None, map(shutil.which, _NAMES)), None)
pytestmark = pytest.mark.skipif(
    _EXECUTABLE is None, reason=f"none of {', '.join(_NAMES)} is installed"
)

#: Every text on the page: what it is, its colour, and the nearest background that is not clear.
_TEXTS = """() => {
  const clear = 'rgba(0, 0, 0, 0)', found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), parent = walker.currentNode.parentElement;
    if (!text || !parent.getClientRects().length) continue;
    const style = getComputedStyle(parent);
    const drawn = parent.namespaceURI.endsWith('svg');
    let ground = parent;
    while (getComputedStyle(ground).backgroundColor === clear) ground = ground.parentElement;
    found.push([text, drawn ? style.fill : style.color, getComputedStyle(ground).backgroundColor]);
  }
  return found;
}"""
_LINES = """() => [...document.querySelectorAll('figure .line')].map(
  line => getComputedStyle(line).stroke)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=_EXECUTABLE, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def path(matrix: Matrix, tmp_path: Path) -> Path:
    place = tmp_path / "report.html"
    write(matrix, place)
    return place


@pytest.fixture
def opened(browser: Browser, path: Path) -> Iterator[Open]:
    """Opens the page, and checks that it asked for no other file and that nothing went wrong."""
    wrong: list[str] = []
    asked: list[str] = []
    pages: list[Page] = []

    def load(*, width: int = 1200, scheme: str = "light") -> Page:
        page = browser.new_page(
            viewport={"width": width, "height": 740},
            color_scheme="dark" if scheme == "dark" else "light",
        )
        pages.append(page)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        for details in page.locator("summary").all():
            details.click()
        return page

    yield load
    for page in pages:
        page.close()
    assert wrong == []
    assert set(asked) == {path.as_uri()}


def colour(text: str) -> Colour:
    found = re.fullmatch(r"rgb\((\d+), (\d+), (\d+)\)", text)
    assert found is not None, text
    red, green, blue = (int(part) / 255 for part in found.groups())
    return red, green, blue


def luminance(text: str) -> float:
    """As WCAG 2 defines it."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour(text)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)


def test_the_page_loads_without_a_word_and_without_a_script(opened: Open) -> None:
    page = opened()
    assert page.title().startswith(("PASS: ", "FAIL: "))
    assert page.locator("h1").count() == 1
    assert page.locator("script, link, img, iframe, object").count() == 0
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.compatMode") == "CSS1Compat"


def test_it_allows_neither_scripts_nor_other_files(browser: Browser, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    evil = '<script>document.title = "run"</script><img src="https://example.org/a.png">'
    path.write_text(text.replace("<main>", f"<main>{evil}", 1), encoding="utf-8")
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert page.title() != "run"
    assert sum("Content Security Policy" in text for text in said) == 2
    page.close()


@pytest.mark.parametrize("width", [360, 800, 1200])
def test_it_never_scrolls_sideways(opened: Open, width: int) -> None:
    page = opened(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:  # what does not fit scrolls within itself
        wider = "table => table.scrollWidth > table.clientWidth"
        assert page.locator(".wide").first.evaluate(wider)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_background(opened: Open, scheme: str) -> None:
    page = opened(scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert luminance(ground) < 0.05 if scheme == "dark" else luminance(ground) > 0.9
    texts = page.evaluate(_TEXTS)
    assert len(texts) > 100
    assert [text for text in texts if contrast(text[1], text[2]) < 4.5] == []
    # Graphics need less: WCAG 2.2, 1.4.11.
    assert all(contrast(line, ground) >= 3 for line in page.evaluate(_LINES))


def test_colour_is_not_the_only_sign(opened: Open) -> None:
    page = opened()
    for style, signs in (("td.good", "✓"), ("td.bad", "✗!"), ("td.off", "○")):
        for text in page.locator(style).all_inner_texts():
            assert text.strip()[0] in signs
