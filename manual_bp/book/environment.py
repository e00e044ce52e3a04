"""What the templates need: numbers and addresses as they are read, and the colours of code."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from manual_bp.book import measured
from manual_bp.book.planes import Cell

if TYPE_CHECKING:
    from jinja2 import Environment

NEEDED = "manual-bp[book]"


def template_text(name: str) -> str:
    """A file that lies among the templates."""
    return files("manual_bp.book").joinpath("templates", name).read_text("utf-8")


@cache
def environment() -> Environment:
    """The templates.  Raises ImportError, in words, without what a book is made with."""
    try:
        import jinja2
        import latex2mathml  # noqa: F401 (whether they are there, before work begins)
        import matplotlib  # noqa: F401
        import pygments  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the book needs {error.name}. Run: pip install '{NEEDED}'") from None
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(template_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ulps": _ulps,
        "number": _number,
        "address": _address,
        "tone": _tone,
        "device": measured.DEVICES.__getitem__,
        "power": lambda elements: elements.bit_length() - 1,
        "ratio": _ratio,
    }
    return made


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _ulps(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2g}" if value < 100 else f"{value:.1e}".replace("e+0", "e").replace("e+", "e")


def _ratio(row: measured.Speed) -> str:
    if row.torch is None:
        return "–"
    return f"{row.torch:.2f} ({row.low:.2f}–{row.high:.2f})"


def _address(address: str) -> str:
    """An address as it is read: without what every one has."""
    short = re.sub(r"^https?://(www\.)?(github\.com/)?", "", address)
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", short)


def _tone(cell: Cell) -> str:
    tone = "odd" if cell.share is None else "plus" if cell.share > 0 else "minus" if cell.share < 0 else ""
    return f"{tone} wrong".strip() if cell.wrong else tone


def coloured(code: str) -> Any:
    """Python as HTML."""
    from markupsafe import Markup
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return Markup(highlight(code, PythonLexer(), HtmlFormatter(nowrap=False, cssclass="python")))


def code_style() -> str:
    """Colours of code, for light and for dark; the background is the page's."""
    from pygments.formatters import HtmlFormatter

    def rules(style: str) -> str:
        found = HtmlFormatter(style=style, cssclass="python").get_style_defs(".python").split("\n")
        return "\n".join(rule for rule in found if rule.startswith(".python ."))

    return f"{rules('xcode')}\n@media screen and (prefers-color-scheme: dark) {{\n{rules('github-dark')}\n}}\n"
