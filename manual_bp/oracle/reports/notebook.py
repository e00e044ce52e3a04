"""Reports as a notebook shows them: a fragment of HTML without script, made of notebook.html.jinja beside this file.

Each report says itself what stands in its fragment.  Without jinja2 (manual-bp[report]) it is the report's text.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from manual_bp.foreign import readable

if TYPE_CHECKING:
    from jinja2 import Template

FRAGMENT = "notebook.html.jinja"
# More rows of one table tell a reader nothing new; the JSON document holds all.
ROWS = 20


@dataclass(frozen=True)
class Table:
    """rows: of words, as many as heads.  numbers: columns that are numbers.  fills: the colour behind a cell, by what
    stands in it.  is_open: whether it is shown without being asked for."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    fills: Mapping[str, str] = field(default_factory=dict)
    is_open: bool = False


def fragment(
    text: str,
    *,
    symbol: str,
    tone: str,
    headline: str,
    causes: Sequence[str],
    tables: Sequence[Table],
    lists: Mapping[str, Sequence[str]],
    legend: str = "",
) -> str:
    """The fragment.

    text: the whole report, which stands there if jinja2 is not installed. symbol, tone: of the verdict, the tone
    "good", "warn" or "bad". causes: shown at once. lists: texts by title, folded. legend: of colours, below all.
    """
    content = {"symbol": symbol, "tone": tone, "headline": headline, "causes": causes}
    try:
        made = template(FRAGMENT).render(content, tables=tables, lists=lists, legend=legend)
    except ImportError:
        made = f"<pre>{html.escape(text)}</pre>"
    return readable(made)


@cache
def template(name: str) -> Template:
    """The template of that name beside this file.  Raises ImportError if jinja2 is not installed."""
    try:
        import jinja2
    except ImportError:
        raise ImportError("the HTML page needs jinja2. Run: pip install 'manual-bp[report]'") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("manual_bp.oracle.reports").joinpath(name).read_text("utf-8"))
