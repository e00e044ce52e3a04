"""The files of the book: an index, a page for each chapter and each rule, one style and one script."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manual_bp.book import curves, measured
from manual_bp.book.chapters import Chapter, chapters
from manual_bp.book.displayed import rows_of
from manual_bp.book.docstring import Display, Paragraph, Terms, Text
from manual_bp.book.environment import code_style, coloured, environment, template_text
from manual_bp.book.failures import Failures
from manual_bp.book.mathml import formula
from manual_bp.book.page import Page
from manual_bp.book.prose import Code, inlines
from manual_bp.registry import RULES
from manual_bp.rule import Rule

if TYPE_CHECKING:
    from jinja2 import Environment

NOTATION = (
    "Write dy for the cotangent of y, the derivative of the cost by y; for every input x a page derives dx from it."
)
_STOPPED = re.compile(r"[(\[]?<math>(?:(?!</math>).)*</math>[.,;:)\]?!]+|[(\[]<math>(?:(?!</math>).)*</math>")
SHARED = ("style.css", "search.js")
"""Files that every page uses."""


@dataclass(frozen=True)
class Link:
    """Where a page is, from the root of the book."""

    path: str
    title: str
    summary: str = ""


def build(folder: Path, names: Iterable[str] | None = None) -> list[Path]:
    """Write the book, or these rules of it, into a folder that is made; returns the files, index.html first.

    Raises PageError for a docstring that cannot be read, ImportError, in words, without what it is made with.
    """
    book = Book.of({name: RULES[name] for name in (RULES if names is None else names)}, environment())
    return [write(folder, path, text) for path, text in book.files()]


def write(folder: Path, path: str, text: str) -> Path:
    """One file of the book."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    return target


class Book:
    """Pages in chapters, and the texts of their files."""

    def __init__(self, pages: Mapping[str, Page], environment: Environment) -> None:
        self.pages = pages
        self.environment = environment
        self.chapters = chapters(pages.values())
        self.links = {
            page.name: Link(f"{chapter.name}/{page.name}.html", page.name, page.summary)
            for chapter in self.chapters
            for page in chapter.pages
        }
        self.order = [Link("index.html", "Contents")]
        for chapter in self.chapters:
            self.order.append(Link(f"{chapter.name}/index.html", chapter.title))
            self.order += [self.links[page.name] for page in chapter.pages]

    @classmethod
    def of(cls, rules: Mapping[str, Rule], environment: Environment) -> Book:
        """Raises PageError for a docstring that cannot be read."""
        return cls({name: Page(rule) for name, rule in rules.items()}, environment)

    @property
    def length(self) -> int:
        """How many files there are."""
        return len(self.order) + len(SHARED)

    def files(self) -> Iterator[tuple[str, str]]:
        """Path and text of every file, the first to be read first."""
        yield "index.html", self._index_page()
        index = json.dumps(list(self._index()), ensure_ascii=False)
        texts = (
            f"{template_text('style.css')}\n{code_style()}",
            f"const INDEX = {index};\n{template_text('search.js')}",
        )
        yield from zip(SHARED, texts, strict=True)
        for number, chapter in enumerate(self.chapters, 1):
            yield f"{chapter.name}/index.html", self._chapter_page(number, chapter)
            for page in chapter.pages:
                yield self.links[page.name].path, self._page(chapter, page)

    def _render(self, template: str, path: str, **given: Any) -> str:
        at = next(k for k, link in enumerate(self.order) if link.path == path)
        return self.environment.get_template(template).render(
            root="../" * path.count("/"),
            chapters=self.chapters,
            before=self.order[at - 1] if at else None,
            after=self.order[at + 1] if at + 1 < len(self.order) else None,
            **{"here_chapter": "", "here_page": "", **given},
        )

    def _index_page(self) -> str:
        return self._render(
            "index.html.jinja",
            "index.html",
            pages=len(self.pages),
            notation=self._prose(NOTATION, (), ""),
            mistakes=sum(len(page.mistakes) for page in self.pages.values()),
            summaries={chapter.name: self._prose(chapter.summary, chapter.text.names, "") for chapter in self.chapters},
        )

    def _chapter_page(self, number: int, chapter: Chapter) -> str:
        text = chapter.text
        cards = [
            {
                "name": page.name,
                "summary": self._prose(page.summary, page.text.names, "../"),
                "mistakes": len(page.mistakes),
                "edges": len(page.edges),
            }
            for page in chapter.pages
        ]
        return self._render(
            "chapter.html.jinja",
            f"{chapter.name}/index.html",
            chapter=chapter,
            number=number,
            here_chapter=chapter.name,
            pages=cards,
            **{**self._text(text), "summary": self._prose(chapter.summary, text.names, "../")},
        )

    def _page(self, chapter: Chapter, page: Page) -> str:
        rule = page.rule
        drawn = curves.is_drawn(rule)
        speed = measured.speed(rule.name)
        machines = {row.device: measured.machine(row.device) for row in speed}
        return self._render(
            "page.html.jinja",
            self.links[page.name].path,
            chapter=chapter,
            here_chapter=chapter.name,
            here_page=page.name,
            page=page,
            code=coloured(page.code),
            parts_of_wrong=coloured(page.parts_of_wrong) if page.parts_of_wrong else "",
            promises=[(name, self._prose(why, page.text.names, "../")) for name, why in page.promises],
            graphs=_safe_pictures(curves.graphs(rule)) if drawn else [],
            errors=_safe_pictures(curves.errors(rule)) if drawn else [],
            accuracy=measured.accuracy(rule.name),
            failures=list(self._failures(page)),
            speed=speed,
            machines=[f"{measured.DEVICES[device]}: {what}." for device, what in machines.items() if what],
            related=[self.links[name] for name in page.related if name in self.links],
            **self._text(page.text),
        )

    def _failures(self, page: Page) -> Iterator[dict[str, Any]]:
        """What a page's template needs of each mistake."""
        found = Failures(page.rule)
        sources = page.formulas
        for mistake in page.wrong:
            failure = found.of(mistake)
            if failure is not None and failure.curve is not None:
                (picture,) = _safe_pictures([failure.curve])
                failure = replace(failure, curve=picture)
            source = sources.get(mistake.name, "")
            yield {
                "mistake": mistake,
                "anchor": anchor(mistake.name),
                "forgets": self._prose(mistake.forgets, page.text.names, "../"),
                "shows": self._prose(mistake.shows, page.text.names, "../"),
                "loses_digits": getattr(mistake, "loses_digits", True),
                "of_value": hasattr(mistake, "forward"),
                "failure": failure,
                "code": coloured(source) if source else "",
            }

    # ---------------------------------------------------------------------------------------------------------- text

    def _text(self, text: Text) -> dict[str, Any]:
        """A docstring for its template."""
        sections = [
            {"title": section.title, "blocks": [self._block(block, text.names) for block in section.blocks]}
            for section in text.sections
        ]
        return {
            "summary": self._prose(text.summary, text.names, "../"),
            "sections": sections,
            "source": self._prose(text.source, (), "../") if text.source else "",
        }

    def _block(self, block: Paragraph | Display | Terms, names: Collection[str]) -> dict[str, Any]:
        if isinstance(block, Paragraph):
            return {"html": self._prose(block.text, names, "../")}
        if isinstance(block, Terms):
            return {"terms": [[self._prose(part, names, "../") for part in item] for item in block.items]}
        return rows_of(block)

    def _prose(self, text: str, names: Collection[str], root: str) -> Any:
        """A sentence as HTML; a rule in backticks is a link."""
        from markupsafe import Markup, escape

        parts = []
        for part in inlines(text, names):
            if isinstance(part, str):
                parts.append(str(escape(part)))
            elif isinstance(part, Code):
                code = f"<code>{escape(part.text)}</code>"
                link = self.links.get(part.text)
                parts.append(f'<a href="{root}{link.path}">{code}</a>' if link else code)
            else:
                parts.append(formula(part.tree))
        return Markup(_kept_together("".join(parts)))

    def _index(self) -> Iterator[dict[str, Any]]:
        """What the search knows: chapters, pages, and their mistakes."""
        for chapter in self.chapters:
            yield _entry(f"{chapter.name}/index.html", chapter.title, f"chapter: {chapter.summary}", chapter.summary, 2)
            for page in chapter.pages:
                path = self.links[page.name].path
                yield _entry(path, page.name, f"{chapter.title}: {page.summary}", page.summary, 3)
                for mistake in page.wrong:
                    where = f"{page.name}: forgets {mistake.forgets}"
                    yield _entry(
                        f"{path}#{anchor(mistake.name)}", mistake.name, where, f"{page.name} {mistake.forgets}", 0
                    )


def _kept_together(html: str) -> str:
    """A formula with the bracket before it and the stop behind it, so that no line begins with a stop."""
    return _STOPPED.sub(r'<span class="whole">\g<0></span>', html)


def anchor(name: str) -> str:
    """A mistake's place on its page."""
    return "mistake-" + re.sub(r"[^\w]+", "-", name).strip("-").lower()


def _entry(path: str, title: str, where: str, text: str, weight: int) -> dict[str, Any]:
    text = f"{title} {text}".lower().replace("_", " ")
    return {"path": path, "title": title, "where": where, "text": text, "weight": weight}


def _safe_pictures(pictures: Iterable[curves.Picture]) -> list[curves.Picture]:
    """matplotlib escapes, and none of a picture's text is a stranger's."""
    from markupsafe import Markup

    return [curves.Picture(Markup(picture.svg), picture.caption, picture.label) for picture in pictures]
