"""A report as one self-contained HTML page: no script, and nothing that is fetched.

The page is report.html.jinja beside this file, its pictures are made by `manual_bp.oracle.reports.drawn`; the extra
manual-bp[report] has what both need.  Without matplotlib the page is made without pictures and says so.
"""

from __future__ import annotations

import html
import importlib.metadata
import inspect
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manual_bp.oracle.calling.surroundings import plain
from manual_bp.oracle.cases.declared import Declared
from manual_bp.oracle.functions import rule_of
from manual_bp.oracle.reports.drawn import pictures_of, worst_first
from manual_bp.oracle.reports.notebook import template
from manual_bp.oracle.reports.tables import row_of
from manual_bp.oracle.truth.evidence import Evidence
from manual_bp.rule import Rule, Vjp

if TYPE_CHECKING:
    from manual_bp.oracle.reports.report import Report

# More rows tell a reader nothing new; the JSON document holds all.
ROWS = 100
PAGE = "report.html.jinja"
META = "manual-bp-oracle"
PACKAGES = ("manual-bp", "torch", "numpy", "jaxtyping", "python-flint")


@plain()
def to_html(
    report: Report,
    rule: str | Rule | Callable[..., Any],
    candidate: Vjp | None = None,
    evidences: Iterable[Evidence | str] | None = None,
    *,
    title: str = "",
    options: Mapping[str, Any] | None = None,
) -> str:
    """The page of one report.

    candidate: is called a few times more, at what is wrong, for the pictures of its errors; without one there are
        pictures only of recorded cases. evidences: where to find that case; by default what `compare` judged by under
        `options`, its keywords (they are also part of "how to reproduce"). title: for the page's head, such as a test's
        id.
    Raises ImportError if jinja2 is not installed.
    """
    given = dict(options or {})
    rule = rule_of(rule, given.get("inputs"), given.get("hyper"), given.get("cases"))
    verdict = report.told
    pictures, without = pictures_of(report, rule, candidate, evidences, given)
    about = {
        "test": title,
        "rule": rule.name,
        "dtype": report.dtype,
        "word": verdict.word,
        "symbol": verdict.symbol,
        "tone": verdict.tone,
        "sentence": verdict.sentence,
    }
    return _clean(
        template(PAGE).render(
            index=None,
            meta=META,
            about=json.dumps(about),
            title=title,
            report=report,
            rule=rule,
            verdict=verdict,
            arguments=report.arguments,
            rows=[row_of(m) for m in report.mismatches[:ROWS]],
            more=max(len(report.mismatches) - ROWS, 0),
            pictures=pictures,
            without=without,
            page=inspect.cleandoc(rule.page.__doc__ or "").partition("\n")[2].strip("\n"),
            sources=[_source(getattr(rule.page, part)) for part in _parts(rule) if hasattr(rule.page, part)],
            versions=versions(),
            reproduce=_reproduce(report, rule, candidate, given),
        )
    )


def index_html(folder: Path) -> str:
    """The page that lists the verdicts of all pages of `to_html` in a folder, what failed first."""
    pages = [(path.name, about) for path in sorted(folder.glob("*.html")) if (about := about_page(path))]
    order = {"bad": 0, "warn": 1, "good": 2}
    pages.sort(key=lambda page: (order.get(page[1]["tone"], 0), page[1]["test"], page[0]))
    words = [about["word"] for _, about in pages]
    counts = ", ".join(f"{words.count(word)} {word.lower()}" for word in dict.fromkeys(words)) or "no page"
    return _clean(template(PAGE).render(index=pages, counts=counts, title="", meta=META, about=""))


def about_page(path: Path) -> dict[str, str] | None:
    """What the head of a page of `to_html` says about it, or None if the file is no such page."""
    with path.open(encoding="utf-8", errors="replace") as file:
        found = re.search(rf'<meta name="{META}" content="([^"]+)">', file.read(8192))  # the head is far shorter
    try:
        return dict(json.loads(html.unescape(found[1]))) if found else None
    except ValueError:
        return None


def versions() -> dict[str, str]:
    """What the report was made with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _clean(page: str) -> str:
    """The page without what UTF-8 cannot write: an exception's text may hold anything."""
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _parts(rule: Rule) -> tuple[str, ...]:
    """What of a page there is to read: of a function as reference that function."""
    return ("FUNCTION",) if hasattr(rule.page, "FUNCTION") else ("forward", "backward")


def _source(function: Any) -> str:
    own = inspect.unwrap(function)
    try:
        return inspect.getsource(getattr(type(own), "forward", own)).rstrip()
    except (OSError, TypeError):
        return f"# the source of {getattr(function, '__name__', function)} is not available"


def _reproduce(report: Report, rule: Rule, candidate: Vjp | None, options: dict[str, Any]) -> str:
    """A few lines of Python that judge again, and take out the worst case."""
    declared = Declared.from_options(rule, options)
    given = {"dtype": f"torch.{report.dtype}", "device": repr(report.device)}
    given |= {key: repr(value) for key, value in options.items() if key not in (*given, "cases")}
    given |= {"cases": "cases"} if options.get("cases") is not None else {}
    lines = ["import torch", "from manual_bp.oracle import compare"]
    name = "None" if candidate is None else _imported(candidate, "candidate", lines)
    function = inspect.unwrap(rule.page.FUNCTION) if hasattr(rule.page, "FUNCTION") else None
    against = f'"{rule.name}"' if function is None else _imported(function, "function", lines)
    if options.get("inputs") is not None and not all(map(_is_shape, options["inputs"].values())):
        given["inputs"] = "inputs"
    keywords = ", ".join(f"{key}={value}" for key, value in given.items())
    lines += ["", f"report = compare({name}, {against}, {keywords})", "print(report)"]
    worst = worst_first(report)[:1]
    if worst and "cases" not in given:
        said = "".join(f", {key}={given[key]}" for key in ("inputs", "hyper") if function and key in given)
        lines += [
            "",
            "from manual_bp.oracle.functions import rule_of",
            "from manual_bp.oracle.cases.generated import generated",
            *(["from manual_bp.oracle.cases.declared import Declared"] if declared else []),
            f"rule = rule_of({against}{said})",
            *([f"declared = {declared!r}"] if declared else []),
            f"found = generated({'declared.rule(rule)' if declared else 'rule'}, {given['dtype']}, {given['device']}"
            f"{', declared=declared' if declared else ''})",
            f"case = next((case for case in found if case.name == {worst[0].case!r}), None)",
        ]
    return "\n".join(lines)


def _imported(function: Any, otherwise: str, lines: list[str]) -> str:
    """The name under which a function can be imported, by a line that is added; or another name for it."""
    name = getattr(function, "__qualname__", "")
    module = str(getattr(function, "__module__", ""))
    if not all(part.isidentifier() for part in (name, *module.split("."))):
        return otherwise  # local, a lambda, a method, an object, or of a file that is no module
    lines.append(f"from {module} import {name}")
    return str(name)


def _is_shape(said: Any) -> bool:
    return isinstance(said, tuple) and all(isinstance(n, int) for n in said)
