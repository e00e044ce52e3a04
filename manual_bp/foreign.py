"""Words that come from a candidate, made fit to be read: short, and without what a terminal would obey."""

from __future__ import annotations

import signal
import unicodedata
from typing import Any

# Of a longer text the beginning and the end are shown: a report is read by people.
LONGEST = 4000
LONGEST_NAME = 200
# Controls (an escape sequence may clear a screen), what reverses the direction of writing, halves of characters.
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def shortened(text: str, longest: int = LONGEST) -> str:
    """A text of at most about `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest // 2]} ... {text[-(longest // 2) :]}"


def readable(text: str) -> str:
    """A text in which every character is seen; lines and tabs stay, others that control something are spelt out."""
    if text.isprintable():
        return text
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in UNSEEN else c.encode("unicode_escape").decode() for c in text
    )


def quoted(text: str) -> str:
    """A text of several lines, each marked as somebody's words: none looks like a line of a report."""
    return "\n".join(f"| {line}" for line in readable(text).split("\n"))


def named(value: Any) -> str:
    """The name of a value's type.  A metaclass may compute it, so that is not asked."""
    return shortened(str(type.__dict__["__name__"].__get__(type(value))), LONGEST_NAME)


def signal_name(number: int) -> str:
    """The name of a signal; those that are free for any use have none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
