"""The book: its files, built for a few rules."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import torch
from typer.testing import CliRunner

import manual_bp as bp
from manual_bp.book.chapters import chapters, in_order
from manual_bp.book.page import Page
from manual_bp.book.planes import plane_of, window_of
from manual_bp.cli import app

for needed in ("jinja2", "latex2mathml", "matplotlib", "pygments"):
    pytest.importorskip(needed, reason=f"the book needs {needed}: pip install 'manual-bp[book]'")

from manual_bp.book.site import SHARED, build  # noqa: E402 (behind what it needs)

DRAWN = min((r for r in bp.RULES.values() if r.elementwise and r.has_backward), key=lambda r: len(r.mistakes))
COUPLED = min((r for r in bp.RULES.values() if not r.elementwise and r.has_backward), key=lambda r: len(r.mistakes))
CHOSEN = [DRAWN.name, COUPLED.name]
VOID = {"meta", "link", "br", "img", "input", "wbr", "hr"}


class Seen(HTMLParser):
    """A page's links and anchors, and whether its tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("href", "src") and tag in ("a", "link", "script", "img"):
                self.links.append(value)
            if name == "id":
                self.anchors.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"nothing is open that </{tag}> could close"
        assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in build(folder, CHOSEN)}


def test_every_rule_and_chapter_has_a_file(book):
    assert set(book) == {
        "index.html",
        *SHARED,
        *(f"{bp.RULES[name].chapter}/{name}.html" for name in CHOSEN),
        *(f"{bp.RULES[name].chapter}/index.html" for name in CHOSEN),
    }


def test_pages_are_well_formed_and_links_lead_somewhere(book):
    seen = {path: Seen(text) for path, text in book.items() if path.endswith(".html")}
    for path, page in seen.items():
        assert page.open == [], path
        assert len(page.anchors) == len(set(page.anchors)), path
        for link in page.links:
            if link.startswith(("https://", "data:")):
                continue
            target, fragment = urldefrag(link)
            found = (Path(path).parent / unquote(target)).as_posix() if target else path
            parts: list[str] = []
            for part in found.split("/"):  # "a/../b", without asking a file system
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in book, f"{path}: {link}"
            assert not fragment or fragment in seen["/".join(parts)].anchors, f"{path}: {link}"


def test_nothing_is_fetched_from_a_network(book):
    for path, text in book.items():
        shown = re.sub(r'<a href="https://[^"]*"', "", text)
        assert not re.search(r'(?:src|href)="(?:https?:)?//|@import|url\(["\']?http|fetch\(', shown), path


@pytest.mark.parametrize("rule", CHOSEN)
def test_a_page_shows_all_that_it_says(book, rule):
    page, text = Page(bp.RULES[rule]), book[f"{bp.RULES[rule].chapter}/{rule}.html"]
    formulas = re.findall(r"<math.*?</math>", text)
    assert formulas
    for formula in formulas:
        root = ET.fromstring(formula)
        assert not [node for node in root.iter() if node.tag == "merror" or "\\" in (node.text or "")], formula
    assert text.count('<article class="mistake"') == len(page.wrong)
    assert text.count("<li><b>") == len(page.edges)
    for mistake in page.mistakes:
        assert mistake.seen is None or f'href="{mistake.seen}"' in text.replace("&amp;", "&")
    for part in ("def</span>", "backward", "Signature", "Source"):
        assert part in text


def test_every_mistake_is_pictured(book):
    """By a curve, or as numbers; or it is said that it shows in the shape alone."""
    for rule in CHOSEN:
        text = book[f"{bp.RULES[rule].chapter}/{rule}.html"]
        for article in text.split('<article class="mistake"')[1:]:
            assert "<figcaption>" in article.partition("</article>")[0], article[:200]
    drawn = book[f"{DRAWN.chapter}/{DRAWN.name}.html"]
    assert drawn.count("<svg") >= 2  # the function, and its error
    assert "derivative" in drawn
    assert re.search(r'<td class="(?:plus|minus|odd) wrong"', book[f"{COUPLED.chapter}/{COUPLED.name}.html"])


def test_a_second_build_changes_no_byte(book, tmp_path):
    again = {path.relative_to(tmp_path).as_posix(): path.read_text("utf-8") for path in build(tmp_path, [COUPLED.name])}
    path = f"{COUPLED.chapter}/{COUPLED.name}.html"

    def body(text):  # other pages are listed around it
        return re.sub(r"<nav.*?</nav>|<footer>.*?</footer>", "", text, flags=re.DOTALL)

    assert body(again[path]) == body(book[path])


def test_command(tmp_path):
    done = CliRunner().invoke(app, ["book", COUPLED.name, "--out", str(tmp_path / "made" / "here")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "made" / "here" / "index.html").exists()
    assert "1 pages in 1 chapters" in done.output


@pytest.mark.parametrize("arguments", [("--out", __file__), (COUPLED.name[:-1],)])
def test_bad_usage(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["book", *arguments])
    assert done.exit_code == 2, done.output
    assert "error: " in done.output
    assert not list(tmp_path.iterdir())


def test_chapters_come_in_their_order():
    assert in_order("abcd", {"a": "c", "c": "", "b": None, "d": "a"}) == ["c", "a", "d", "b"]
    assert in_order("abcd", {"a": "b", "c": None, "d": "nothing"}) == ["b", "a", "c", "d"]
    with pytest.raises(ValueError, match="circle of a, b"):
        in_order("abc", {"a": "b", "b": "a"})


def test_every_chapter_introduces_itself():
    """In the docstring of its package: what it is about, before its pages."""
    found = chapters(Page(rule) for rule in bp.RULES.values())
    assert {chapter.name for chapter in found} == {rule.chapter for rule in bp.RULES.values()}
    assert all(chapter.text.summary.endswith(".") for chapter in found)


def test_numbers_of_a_plane():
    due = torch.arange(120.0).reshape(2, 60)
    wrong = torch.zeros(2, 60, dtype=torch.bool)
    wrong[1, 40] = True
    window, said = window_of(due, wrong)
    assert said == "[:, 37:43] of shape (2, 60)"
    plane = plane_of("due", due[window], wrong[window], 3)
    assert [cell.text for cell in plane.rows[1]] == ["97", "98", "99", "100", "101", "102"]
    assert [cell.wrong for cell in plane.rows[1]] == [False, False, False, True, False, False]
    odd = plane_of("due", torch.tensor([math.nan, math.inf, -math.inf, -1e-9]), torch.zeros(4, dtype=torch.bool), 3)
    assert [(cell.text, cell.share) for cell in odd.rows[0]] == [
        ("NaN", None),
        ("∞", None),
        ("−∞", None),
        ("−1e-9".replace("-", "−"), -1.0),
    ]


def test_what_a_wrong_formula_is_made_of_is_shown(rule):
    """Every function or class of the page, or of a helper of its chapter, that a wrong formula names."""
    page = Page(rule)
    shown = f"{page.code}\n{page.parts_of_wrong}"
    chapter = rule.page.__name__.rpartition(".")[0]
    for word in set(re.findall(r"\w+", " ".join(page.formulas.values()))):
        made = getattr(rule.page, word, None)
        if str(getattr(made, "__module__", "")).startswith(chapter) and callable(made):
            assert re.search(rf"\b(def|class) {word}\b|^{word} =", shown, re.MULTILINE) or word in page.code, word


def test_the_terminal_shows_chapters_and_wrong_formulas():
    rule = next(rule for rule in bp.RULES.values() if Page(rule).parts_of_wrong)
    result = CliRunner().invoke(app, ["rules", rule.name, "--formulas"])
    assert all(formula.split("\n")[0] in result.output for formula in Page(rule).formulas.values())
    assert "where" in result.output.split("\n")
    chapter = CliRunner().invoke(app, ["rules", rule.chapter])
    assert chapter.exit_code == 0, chapter.output
    assert all(name in chapter.output for name, other in bp.RULES.items() if other.chapter == rule.chapter)
