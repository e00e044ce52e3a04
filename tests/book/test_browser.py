"""The book in a browser: Debian's chromium, driven by playwright; skipped in words where either is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

import manual_bp as bp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("the book is not looked at: there is no chromium (apt install chromium)", allow_module_level=True)
for needed, extra in (("playwright", "browser"), ("jinja2", "book"), ("latex2mathml", "book"), ("pygments", "book")):
    pytest.importorskip(needed, reason=f"the book is not looked at: pip install 'manual-bp[{extra}]'")
pytest.importorskip("matplotlib", reason="the book is not looked at: pip install 'manual-bp[book]'")

from playwright.sync_api import sync_playwright  # noqa: E402 (behind what it needs)

from manual_bp.book.site import build  # noqa: E402

DRAWN = min((r for r in bp.RULES.values() if r.elementwise and r.has_backward), key=lambda r: len(r.mistakes))
LONGEST = max(  # a long page beside a short one, but not the longest, which takes seconds to build
    (r for r in bp.RULES.values() if not r.elementwise and len(r.mistakes) <= 2 * len(DRAWN.mistakes)),
    key=lambda r: len(r.page.__doc__ or ""),
)
PHONE, DESKTOP = {"width": 380, "height": 800}, {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def opened():
    """Opens a file in a window; what the console says, and what is not found, is an error of the test."""
    said: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        window = browser.new_context(offline=True).new_page()
        window.on("console", lambda message: said.append(message.text))
        window.on("pageerror", lambda error: said.append(str(error)))
        window.on("requestfailed", lambda request: said.append(request.url))

        def open_(file, size=DESKTOP, **media):
            window.set_viewport_size(size)
            window.emulate_media(**{"color_scheme": "light", "media": "screen", **media})
            window.goto(file.as_uri())
            assert said == [], file
            return window

        yield open_
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    build(folder, [DRAWN.name, LONGEST.name])
    return folder


def pages(folder):
    return sorted(folder.rglob("*.html"))


def check_width(window):
    assert window.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], window.url


def test_no_page_is_wider_than_a_phone(folder, opened):
    for file in pages(folder):
        check_width(opened(file, PHONE))


@pytest.mark.exhaustive
def test_the_whole_book(opened, tmp_path):
    """Every page on a phone: no error, nothing wider than it, every formula drawn, every local link alive."""
    build(tmp_path)
    flat = (
        "[...document.querySelectorAll('math')].filter((m) => m.closest('details:not([open])') === null"
        " && m.getBoundingClientRect().height < 4).map((m) => m.textContent)"
    )
    for file in pages(tmp_path):
        window = opened(file, PHONE)
        check_width(window)
        assert window.evaluate(flat) == [], file
        addresses = window.evaluate("[...document.querySelectorAll('a')].map((a) => a.href)")
        for address in {address.partition("#")[0] for address in addresses if address.startswith("file:")}:
            assert Path(unquote(address.removeprefix("file://"))).exists(), address


def test_mathematics_is_drawn(folder, opened):
    for rule in (DRAWN, LONGEST):
        window = opened(folder / rule.chapter / f"{rule.name}.html")
        sizes = window.evaluate(
            "[...document.querySelectorAll('.mathematics math')].map((m) => [m.getBoundingClientRect().width,"
            " m.getBoundingClientRect().height, getComputedStyle(m).display])"
        )
        assert len(sizes) > 5
        assert all(width > 2 and height > 5 and "math" in display for width, height, display in sizes)
        # A fraction is drawn as one: its parts lie above each other.
        stacked = window.evaluate(
            "[...document.querySelectorAll('.display mfrac')].map((f) => f.children[1].getBoundingClientRect().top -"
            " f.children[0].getBoundingClientRect().top)"
        )
        assert all(below > 0 for below in stacked)


def test_code_stands_beside_the_mathematics_and_pictures_have_a_size(folder, opened):
    window = opened(folder / DRAWN.chapter / f"{DRAWN.name}.html")
    places = "['.mathematics', '.code'].map((c) => document.querySelector(c).getBoundingClientRect().left)"
    mathematics, code = window.evaluate(places)
    assert code > mathematics + 300
    pictures = "[...document.querySelectorAll('figure svg')].map((s) => s.getBoundingClientRect().height)"
    heights = window.evaluate(pictures)
    assert len(heights) > 2
    assert all(80 < height < 600 for height in heights)


def test_dark_and_print(folder, opened):
    file = folder / DRAWN.chapter / f"{DRAWN.name}.html"
    paper = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert min(opened(file).evaluate(paper)) > 200
    assert max(opened(file, color_scheme="dark").evaluate(paper)) < 80
    printed = opened(file, color_scheme="dark", media="print")
    assert min(printed.evaluate(paper)) == 255
    assert printed.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_search_finds_pages_and_mistakes(folder, opened):
    mistake = DRAWN.mistakes[0]
    window = opened(folder / "index.html")
    window.keyboard.press("/")
    window.keyboard.type(DRAWN.name)
    assert window.locator(".search li a").first.get_attribute("href") == f"{DRAWN.chapter}/{DRAWN.name}.html"
    window.fill(".search input", f"{DRAWN.name} {mistake.name}")
    window.keyboard.press("Enter")
    window.wait_for_url("**#mistake-*")
    target = window.evaluate("document.querySelector(':target h3').textContent")
    assert mistake.name in target
    window.fill(".search input", "no such thing anywhere")
    assert window.inner_text(".search li") == "Nothing is called so."
