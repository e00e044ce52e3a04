"""Numbers and lists in words: as many digits as say what is meant, "1 case" and "2 cases", the first of many names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from manual_bp.rule import Rule

# Nine digits tell every float32 from its neighbours, seventeen every float64.
PLAIN, ALL = 9, 17


def whose(rule: Rule) -> str:
    """What a reference is called."""
    return "the function" if hasattr(rule.page, "FUNCTION") else "the rule"


def told_apart(a: float, b: float, least: int = PLAIN) -> tuple[str, str]:
    """Both numbers, with as many digits as tell them apart, and so many at least; with all if nothing does."""
    for digits in range(least, ALL):
        written = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if written[0] != written[1] or a == b or a != a:
            return written
    return f"{a:.{ALL}g}", f"{b:.{ALL}g}"


def beside_one(factor: float, digits: int = 4) -> str:
    """A factor that is not 1, with so many digits; where these would make it 1, as its difference from 1."""
    if not math.isfinite(factor) or float(f"{factor:.{digits}g}") != 1 or factor == 1:
        return f"{factor:.{digits}g}"
    return f"1 {'+' if factor > 1 else '-'} {abs(factor - 1):.2g}"


def counted(number: int, noun: str) -> str:
    """As in "1 case", "2 cases"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """As in "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def some(words: Iterable[str], most: int) -> str:
    """The first so many, each once, and how many more there are: "a, b and 3 more"."""
    each = list(dict.fromkeys(words))
    more = len(each) - most
    return f"{', '.join(each[:most])} and {more} more" if more > 0 else listed(each)


def of_cases(names: Sequence[str], most: int) -> str:
    """As in "case 'a'", "cases 'a' and 'b'"."""
    return f"{'cases' if len(set(names)) > 1 else 'case'} {some(map(repr, names), most)}"


# What is said, after the case or the argument of which it is said.
ABOUT = re.compile(r"(?s)(?:case (?P<case>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<argument>y|d\w+)): (?P<said>.*)")


def grouped(texts: Sequence[str], most: int) -> list[str]:
    """What is said of several cases or arguments is said once, of all of them.  most: so many cases are named."""
    groups: dict[tuple[str, str], list[str]] = {}
    for text in texts:
        found = ABOUT.fullmatch(text)
        kind = "" if found is None else "case" if found["case"] else "argument"
        said, name = (text, "") if found is None else (found["said"], found[kind])
        groups.setdefault((kind, said), []).append(name)
    return [_of_group(kind, names, said, most) for (kind, said), names in groups.items()]


def _of_group(kind: str, names: list[str], said: str, most: int) -> str:
    if kind == "case":
        return f"case {names[0]}: {said}" if len(names) == 1 else f"{len(names)} cases ({some(names, most)}): {said}"
    return f"{listed(names)}: {said}" if kind else said


def without_frames(text: str) -> str:
    """Of a traceback the exception, and the line that raised it."""
    head, begin, trace = text.partition("Traceback (most recent call last):")
    lines = trace.splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith("  File ")]
    if not begin or not frames:
        return text
    said = next((line for line in lines[frames[-1] :] if line and not line.startswith(" ")), "")
    return f"{head}{said}; {lines[frames[-1]].strip()}"


def cut(text: str, most: int) -> str:
    """A text as one line of so many characters at most, but for the dots."""
    line = " ".join(text[: 2 * most].split())  # which may be of any length
    return line if len(text) <= most else f"{line[:most]} ..."


def number(value: float | None) -> str:
    """Three digits."""
    return "" if value is None else f"{value:.3g}"
