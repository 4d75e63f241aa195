"""The page of demo/web in Chromium: it writes what Python writes, and its states go to and fro.

Pictures of it are kept in build/web-pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

import stateport
from demo.web.build import build
from models import characters, data, words
from stateport import State
from tests.javascript.browser import PATIENCE, chromium, served

PICTURES: Final = Path(__file__).parents[2] / "build" / "web-pictures"
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 900}
PHONE: Final[ViewportSize] = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built."""
    folder = tmp_path_factory.mktemp("web") / "site"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of the page."""
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests here."""
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, which waits, because its reader does not want movement."""
    with_errors = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    page = with_errors.new_page()
    seen: list[str] = []
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.extend(elsewhere(request.url, address)))
    opened(page, address)
    yield page
    assert seen == []
    with_errors.close()


def elsewhere(url: str, address: str) -> list[str]:
    """The address of a request that leaves this machine."""
    return [] if url.startswith((address, "data:", "blob:")) else [url]


def opened(page: Page, address: str) -> None:
    """Opens the page, and waits until it can be used."""
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    page.goto(address)
    expect(page.locator("#write")).to_be_enabled()


def slide(page: Page, name: str, value: str) -> None:
    page.locator(f"#{name}").fill(value)


def text_of(page: Page) -> str:
    return page.locator("#text").text_content() or ""


def written(model: stateport.Model, count: int) -> str:
    """What Python writes after the page's beginning: always the likeliest character."""
    stream = model.stream()
    text = characters.PROMPT
    tokens = characters.encode(text)[None]
    for _ in range(count):
        last = int(stream(tokens)[0, -1].argmax())
        text += characters.decode([last])
        tokens = np.array([[last]], np.int64)
    return text


def test_it_writes_what_python_writes(page: Page, site: Path) -> None:
    slide(page, "daring", "0")
    for _ in range(25):
        page.locator("#step").click()
    expected = written(stateport.load(site / "text_generator.onnx"), 25)
    expect(page.locator("#text")).to_have_text(expected, use_inner_text=False)
    assert page.locator("#said").text_content() == expected[-1].replace(" ", "space")
    assert page.locator("#next li").count() == 6
    expect(page.locator("#h")).to_have_attribute(
        "aria-label", re.compile(r"320 numbers of h after \d+ characters")
    )


def test_a_saved_state_goes_on_alike_here_in_another_tab_and_in_python(
    page: Page, address: str, site: Path, tmp_path: Path
) -> None:
    slide(page, "daring", "0")
    for _ in range(5):
        page.locator("#step").click()
    page.locator("#save").click()
    begun = text_of(page)
    for _ in range(10):
        page.locator("#step").click()
    expected = written(stateport.load(site / "text_generator.onnx"), 15)
    expect(page.locator("#text")).to_have_text(expected, use_inner_text=False)

    other = page.context.new_page()
    opened(other, address)
    slide(other, "daring", "0")
    for tab in (page, other):
        tab.get_by_role("button", name="Go on from here").click()
        expect(tab.locator("#text")).to_have_text(begun, use_inner_text=False)
        for _ in range(10):
            tab.locator("#step").click()
        expect(tab.locator("#text")).to_have_text(expected, use_inner_text=False)

    with page.expect_download() as download:
        page.get_by_role("link", name="Download as a file").click()
    path = tmp_path / "here.safetensors"
    download.value.save_as(path)
    stream = stateport.load(site / "text_generator.onnx").stream()
    stream.restore(State.load(path))
    scores = stream(characters.encode(begun[-1])[None])
    assert characters.decode([int(scores[0, -1].argmax())]) == expected[len(begun)]

    other.get_by_role("button", name="Remove").click()
    expect(page.locator("#none")).to_be_visible()
    other.locator("#open").set_input_files(path)
    other.locator("#step").click()
    expect(other.locator("#said")).not_to_have_text(re.compile("goes on"))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    other.locator("#open").set_input_files(bad)
    expect(other.get_by_role("alert")).to_be_visible()


def test_it_is_used_with_the_keyboard(page: Page) -> None:
    page.locator("#text").focus()
    begun = text_of(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "n => document.getElementById('text').textContent.length > n", arg=len(begun)
    )
    page.keyboard.press("s")
    expect(page.locator("#states li")).to_have_count(1)
    page.keyboard.press(" ")
    expect(page.locator("#write .word")).to_have_text("Pause")
    page.wait_for_function(
        "n => document.getElementById('text').textContent.length > n", arg=len(begun) + 8
    )
    page.keyboard.press(" ")
    expect(page.locator("#said")).to_have_text(re.compile("^Paused after"))
    stopped = text_of(page)
    page.locator("#prompt").fill("The king")
    page.keyboard.press("Enter")
    expect(page.locator("#text")).to_have_text("The king", use_inner_text=False)
    assert stopped.startswith(begun)

    reached = set()
    page.locator("body").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"theme", "text", "write", "step", "save", "again", "speed", "daring", "open"} <= reached
    names = page.evaluate(NAMELESS)
    assert names == []


#: What can be used and has no name for a screen reader, or is less than 24 pixels high.
NAMELESS: Final = """() => [...document.querySelectorAll("button, input, textarea, a, canvas")]
  .filter((element) => !element.closest("[aria-hidden=true]"))
  .filter((element) => {
    const name = element.getAttribute("aria-label") || element.textContent.trim() ||
      [...(element.labels ?? [])].map((label) => label.textContent.trim()).join("");
    return !name || element.getBoundingClientRect().height < 24 && !element.matches(".skip");
  })
  .map((element) => element.outerHTML)"""


def test_it_writes_by_itself_and_says_how_fast_it_is(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport=DESKTOP)
    opened(page, address)
    expect(page.locator("#write .word")).to_have_text("Pause")
    slide(page, "speed", "6")
    page.wait_for_function("() => document.getElementById('text').textContent.length > 300")
    page.locator("#measure").click()
    expect(page.locator("#measure")).to_be_enabled()
    rates = page.locator("#rates dd").all_text_contents()
    assert len(rates) == 2
    assert all(int(rate.replace(",", "")) > 0 for rate in rates)
    expect(page.locator("#write .word")).to_have_text("Pause")
    page.close()


def test_sentences_are_read_as_in_python(page: Page, site: Path) -> None:
    sentences = [sentence for sentence, _ in data.heldout()][:300]
    sentences += [
        "Sooooo GOOD :) ... @you www.x.y 3.5% don't well-made <3 ^_^ :-( !?",
        "\N{RIGHT SINGLE QUOTATION MARK}tis",
        "",
    ]
    got = page.evaluate(TOKENS, sentences)
    assert got == [words.tokenize(sentence) for sentence in sentences]

    model = stateport.load(site / "sentiment.onnx")
    for sentence in ("Not bad at all!", "The food was not good."):
        page.locator("#sentence").fill(sentence)
        logits, _ = model(words.encode(sentence)[None])
        chances = np.exp(logits[0]) / np.exp(logits[0]).sum()
        word = ("Negative", "Positive")[int(chances.argmax())]
        expect(page.locator("#verdict")).to_have_text(
            f"{word}, {round(100 * float(chances.max()))} % sure"
        )
    assert page.locator("#words span").all_text_contents() == ["the", "food", "was", "not", "good"]


TOKENS: Final = """async (sentences) => {
  const { tokenize } = await import("./words.js");
  return sentences.map((sentence) => tokenize(sentence).map(([token]) => token));
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_its_pictures(browser: Browser, address: str, theme: Any, size: Any) -> None:
    context = browser.new_context(
        viewport=size, reduced_motion="reduce", color_scheme=theme, device_scale_factor=2
    )
    page = context.new_page()
    opened(page, address)
    slide(page, "daring", "0")
    slide(page, "speed", "6")
    page.locator("#write").click()
    page.wait_for_function("() => document.getElementById('text').textContent.length > 240")
    page.locator("#write").click()
    page.locator("#save").click()
    expect(page.locator("#states li")).to_have_count(1)
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= size["width"]
    painted = page.evaluate(PAINTED)
    assert all(colours > 20 for colours in painted.values()), json.dumps(painted)

    PICTURES.mkdir(parents=True, exist_ok=True)
    name = f"{'phone' if size is PHONE else 'desktop'}-{theme}"
    page.screenshot(path=PICTURES / f"{name}.png")
    page.screenshot(path=PICTURES / f"{name}-whole.png", full_page=True)
    context.close()


#: How many colours each picture of the state has.
PAINTED: Final = """() => Object.fromEntries(["h", "c", "past"].map((name) => {
  const canvas = document.getElementById(name);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [name, new Set(new Uint32Array(data.buffer)).size];
}))"""
