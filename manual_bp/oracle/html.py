"""A report as one self-contained HTML page: no script, and nothing that is fetched.

The page is report.html.jinja beside this file, the picture an inline SVG by matplotlib; the extra manual-bp[report] has
what both need.  Without matplotlib the page is made without the picture and says so.
"""

from __future__ import annotations

import html
import importlib.metadata
import inspect
import io
import json
import math
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.calling import call, variants
from manual_bp.oracle.cases import Case
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.errors import errors
from manual_bp.oracle.evidence import Evidence, evidence, generated_evidence
from manual_bp.oracle.report import Mismatch, Report
from manual_bp.rule import RULES, Rule, Vjp

if TYPE_CHECKING:
    from jinja2 import Template

# More rows tell a reader nothing new; the JSON document holds all.
ROWS = 100
# A finer picture is smaller than what a phone resolves.
CELLS = 64
# As many cells can carry their numbers legibly.
NUMBERED = 48
# Errors below a hundredth of the allowance are all of one colour: they are right.
FLOOR = 1e-2
# Stands for the colour of the page's text, which the picture takes over by being inline.
INK = "#010203"
# Which kind of several names an argument's verdict; the others lie between.
SERIOUS = {"wrong": 2, "convention": 0}
META = "manual-bp-oracle"
PACKAGES = ("manual-bp", "torch", "numpy", "jaxtyping", "python-flint")


def to_html(
    report: Report,
    rule: str | Rule,
    candidate: Vjp | None = None,
    evidences: Iterable[Evidence | str] | None = None,
    *,
    title: str = "",
    options: Mapping[str, Any] | None = None,
) -> str:
    """The page of one report.

    candidate: is called once or twice more, at the worst case, for the picture of its errors; without one there is a
        picture only of recorded cases. evidences: where to find that case; by default what `compare` judged by under
        `options`, its keywords (they are also part of "how to reproduce"). title: for the page's head, such as a test's
        id.
    Raises ImportError if jinja2 is not installed.
    """
    rule = RULES[rule] if isinstance(rule, str) else rule
    template = _template()
    verdict = verdict_of(report)
    pictures, without = _pictures(report, rule, candidate, evidences, dict(options or {}))
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
        template.render(
            index=None,
            meta=META,
            about=json.dumps(about),
            title=title,
            report=report,
            rule=rule,
            verdict=verdict,
            arguments=_arguments(report),
            rows=[_row(m) for m in report.mismatches[:ROWS]],
            more=max(len(report.mismatches) - ROWS, 0),
            pictures=pictures,
            without=without,
            page=inspect.cleandoc(rule.page.__doc__ or "").partition("\n")[2].strip("\n"),
            sources=[_source(rule.page.forward), _source(rule.page.backward)],
            versions=versions(),
            reproduce=_reproduce(report, rule, candidate, dict(options or {})),
        )
    )


def index_html(folder: Path) -> str:
    """The page that lists the verdicts of all pages of `to_html` in a folder, what failed first."""
    pages = [(path.name, about) for path in sorted(folder.glob("*.html")) if (about := about_page(path))]
    order = {"bad": 0, "warn": 1, "good": 2}
    pages.sort(key=lambda page: (order.get(page[1]["tone"], 0), page[1]["test"], page[0]))
    words = [about["word"] for _, about in pages]
    counts = ", ".join(f"{words.count(word)} {word.lower()}" for word in dict.fromkeys(words)) or "no page"
    return _clean(_template().render(index=pages, counts=counts, title="", meta=META, about=""))


def about_page(path: Path) -> dict[str, str] | None:
    """What the head of a page of `to_html` says about it, or None if the file is no such page."""
    with path.open(encoding="utf-8", errors="replace") as file:
        found = re.search(rf'<meta name="{META}" content="([^"]+)">', file.read(8192))  # the head is far shorter
    try:
        return dict(json.loads(html.unescape(found[1]))) if found else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Verdict:
    """The verdict in a word, a symbol, a tone (for the colour) and a sentence."""

    word: str
    symbol: str
    tone: str
    sentence: str


def verdict_of(report: Report) -> Verdict:
    """Passed, Failed, Convention (nothing but conventions differ) or Undecided (nothing wrong, not all tested)."""
    cases = f"{report.cases} case{'' if report.cases == 1 else 's'}"
    if report.passed:
        return Verdict("Passed", "✔", "good", f"The value and every gradient agree in {cases}.")
    if not report.mismatches:
        untested = ", ".join(report.untested_arguments) or "anything"
        sentence = f"Nothing wrong was found in {cases}, and {untested} could not be tested."
        return Verdict("Undecided", "?", "warn", sentence)
    arguments = " and ".join(dict.fromkeys(m.argument for m in report.mismatches))
    where = len({m.case for m in report.mismatches})
    of = f"of {cases}"
    if any(
        m.index is None for m in report.mismatches
    ):  # some of them went so wrong that they are not counted as judged
        of = f"case{'' if where == 1 else 's'}; {cases} could be judged"
    if all(m.kind == "convention" for m in report.mismatches):
        sentence = f"{arguments}: another valid convention, not declared, in {where} {of}."
        return Verdict("Convention", "≠", "warn", sentence)
    return Verdict("Failed", "✘", "bad", f"{arguments}: not what is due in {where} {of}.")


def versions() -> dict[str, str]:
    """What the report was made with."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def _template() -> Template:
    try:
        import jinja2
    except ImportError:
        raise ImportError("the HTML page needs jinja2. Run: pip install 'manual-bp[report]'") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(files("manual_bp.oracle").joinpath("report.html.jinja").read_text("utf-8"))


def _clean(page: str) -> str:
    """The page without what UTF-8 cannot write: an exception's text may hold anything."""
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


def _arguments(report: Report) -> list[tuple[str, int, str, str, str, str]]:
    """Per argument: name, cases judged, largest errors, and the verdict as symbol and word."""
    rows = []
    for name, worst in report.worst.items():
        kinds = [m.kind for m in report.mismatches if m.argument == name]
        untested = name in report.untested_arguments
        symbol, word = ("?", "not tested") if untested else ("✔", "agrees") if worst.by_case else ("–", "not judged")
        if kinds:
            word = max(kinds, key=lambda kind: SERIOUS.get(kind, 1))
            symbol = "≠" if word == "convention" else "✘"
        ulps, ratio = (_number(worst.ulps), _number(worst.error_over_allowance)) if worst.by_case else ("–", "–")
        rows.append((name, len(worst.by_case), ulps, ratio, symbol, word))
    return rows


def _row(m: Mismatch) -> dict[str, str]:
    return {
        "kind": m.kind,
        "argument": m.argument,
        "case": m.case,
        "index": "" if m.index is None else str(list(m.index)),
        "expected": "" if m.expected is None else f"{m.expected:.9g}",
        "got": "" if m.got is None else f"{m.got:.9g}",
        "ulps": _number(m.ulps),
        "ratio": _number(m.error_over_allowance),
        "pattern": m.pattern,
        "detail": m.detail,
    }


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function).rstrip()
    except (OSError, TypeError):
        return f"# the source of {getattr(function, '__name__', function)} is not available"


def _reproduce(report: Report, rule: Rule, candidate: Vjp | None, options: dict[str, Any]) -> str:
    """A few lines of Python that judge again, and take out the worst case."""
    given = {"dtype": f"torch.{report.dtype}", "device": repr(report.device)}
    given |= {key: repr(value) for key, value in options.items() if key not in (*given, "cases")}
    given |= {"cases": "cases"} if options.get("cases") is not None else {}
    lines = ["import torch", "from manual_bp.oracle import compare"]
    name = "None" if candidate is None else "candidate"
    if (called := getattr(candidate, "__qualname__", "")).isidentifier():  # neither local, nor a lambda, nor a method
        name = called
        lines.append(f"from {candidate.__module__} import {name}")
    keywords = ", ".join(f"{key}={value}" for key, value in given.items())
    lines += ["", f'report = compare({name}, "{rule.name}", {keywords})', "print(report)"]
    worst = _chosen(report)[:1]
    if worst and "cases" not in given:
        lines += [
            "",
            "from manual_bp import RULES",
            "from manual_bp.oracle.cases import generated",
            f'found = generated(RULES["{rule.name}"], {given["dtype"]}, {given["device"]})',
            f"case = next(case for case in found if case.name == {worst[0].case!r})",
        ]
    return "\n".join(lines)


# The picture.


@dataclass(frozen=True)
class Picture:
    """One heat map: inline SVG, and a caption in words."""

    svg: Any
    caption: str
    label: str


def _chosen(report: Report) -> list[Mismatch]:
    """The mismatches about an element, the worst first; of those of one order of magnitude, the first case."""
    found = [m for m in report.mismatches if m.index is not None and m.error_over_allowance is not None]
    return sorted(found, key=lambda m: -_magnitude(_ratio(m)))


def _magnitude(ratio: float) -> float:
    return -math.inf if math.isnan(ratio) or ratio <= 0 else math.inf if ratio == math.inf else math.log10(ratio) // 1


def _ratio(m: Mismatch) -> float:
    return m.error_over_allowance if m.error_over_allowance is not None else 0.0


def _pictures(
    report: Report,
    rule: Rule,
    candidate: Vjp | None,
    evidences: Iterable[Evidence | str] | None,
    options: dict[str, Any],
) -> tuple[list[Picture], str]:
    """The heat map of the worst mismatch; a second one if that has but few elements; or why there is none."""
    ordered = _chosen(report)
    if not ordered:
        return [], "" if report.passed else "There is no picture: no mismatch is about an element."
    try:
        import matplotlib  # noqa: F401 (whether it is there)
    except ImportError:
        return [], "There is no picture: matplotlib is not installed. Run: pip install 'manual-bp[report]'"
    try:
        found = _evidences(report, rule, options) if evidences is None else evidences
        by_name: dict[str, Evidence] = {}
        for item in found:
            if isinstance(item, Evidence):
                by_name.setdefault(item.case.name, item)
        drawn = [_picture(m, *_judged_again(m, by_name, rule, candidate, report), k) for k, m in _two(ordered, by_name)]
    except LookupError as error:
        return [], f"There is no picture: judging the worst case again {error}"
    except (Exception, SystemExit) as error:  # whatever a candidate may do when it is called again
        return [], f"There is no picture: judging the worst case again raised {type(error).__name__}: {error}"
    return drawn, ""


def _two(ordered: list[Mismatch], by_name: Mapping[str, Evidence]) -> list[tuple[int, Mismatch]]:
    """The worst mismatch, and a larger tensor if that has too few elements for a pattern: one that still can be drawn
    cell by cell, of those that show another pattern if there are any."""
    few = 9

    def elements(m: Mismatch) -> int:
        return by_name[m.case].case.dy.numel() if m.case in by_name else 0

    def preference(m: Mismatch) -> tuple[bool, int]:
        drawn = elements(m) <= CELLS * CELLS
        return drawn and m.where != worst.where and not m.where.startswith(("scattered", "one")), elements(m) * drawn

    worst = ordered[0]
    other = max(ordered, key=preference)
    if other is worst or (elements(worst) >= few and not preference(other)[0]) or elements(other) < few:
        return [(0, worst)]
    return [(0, worst), (1, other)]


def _evidences(report: Report, rule: Rule, options: Mapping[str, Any]) -> Iterable[Evidence | str]:
    """What `compare` judged by."""
    dtype = getattr(torch, report.dtype)
    contract = options.get("contract") or contract_of(dtype)
    conventions = Conventions.declared(options.get("conventions"))
    if options.get("cases") is None:
        return generated_evidence(rule, dtype, report.device, contract, conventions)
    wrong = {m.case for m in report.mismatches}
    return [
        evidence(rule, _as_tensors(case, dtype, report.device), contract, conventions)
        for case in options["cases"]
        if case.name in wrong
    ]


def _as_tensors(case: Case, dtype: torch.dtype, device: str) -> Case:
    """A user's case, which may hold lists."""

    def tensor(x: Any) -> Tensor:
        if hasattr(x, "dtype"):
            return torch.as_tensor(x, device=device)
        found = torch.as_tensor(x, device=device)
        return found if found.dtype == torch.bool else torch.as_tensor(x, dtype=torch.float64, device=device).to(dtype)

    return replace(case, inputs=tuple(tensor(x) for x in case.inputs), dy=tensor(case.dy))


def _judged_again(
    m: Mismatch, by_name: Mapping[str, Evidence], rule: Rule, candidate: Vjp | None, report: Report
) -> tuple[Tensor, str]:
    """Error over allowance of a mismatch's argument at its case, and whence the expected values come."""
    other = variants(candidate).get(m.case)
    if m.case not in by_name and other is None:
        raise LookupError(f"found no case {m.case!r}")
    candidate, found = (other, next(iter(by_name.values()))) if other else (candidate, by_name[m.case])
    position = ("y", *(f"d{name}" for name in rule.inputs)).index(m.argument)
    expected, allowance = found.expected[position], found.allowance[position]
    got = _results(found.case, rule, candidate)[position]
    if expected is None or allowance is None or got is None:
        raise LookupError(f"found no {m.argument} at case {m.case!r}")
    dtype = getattr(torch, report.dtype)
    got = got if isinstance(got, Tensor) else torch.as_tensor(got, dtype=torch.float64).to(dtype)
    ratio, _ = errors(got, expected, allowance, dtype)
    if position and (like := found.case.inputs[position - 1].cpu()).is_floating_point():
        ratio = torch.where(like.isnan(), 0, ratio)  # the gradient at a NaN input is not judged
    return ratio.nan_to_num(nan=math.inf, posinf=math.inf), found.source


def _results(case: Case, rule: Rule, candidate: Vjp | None) -> tuple[Any, ...]:
    """y and the cotangents once more."""
    if candidate is None:
        return (case.y, *(case.grads or (None,) * len(rule.inputs)))
    called = call(candidate, rule, case)
    if called.results is None:
        raise LookupError(called.traps[0][1])
    return called.results


def flattened(ratio: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """A tensor of any rank as (all but the last axis) x last axis, reduced to at most 64 x 64 by the largest of each
    block; and the blocks' sizes."""
    plane = ratio.reshape(-1, ratio.shape[-1]) if ratio.ndim else ratio.reshape(1, 1)
    blocks = tuple(-(-length // CELLS) for length in plane.shape)
    rows, columns = (-(-length // block) for length, block in zip(plane.shape, blocks, strict=True))
    padded = plane.new_zeros(rows * blocks[0], columns * blocks[1])
    padded[: plane.shape[0], : plane.shape[1]] = plane
    reduced = padded.reshape(rows, blocks[0], columns, blocks[1]).amax((1, 3))
    return reduced, (blocks[0], blocks[1])


def _picture(m: Mismatch, ratio: Tensor, source: str, number: int) -> Picture:
    from markupsafe import Markup

    cells, blocks = flattened(ratio)
    count = int((ratio > 1).sum())
    caption = (
        f"{m.argument} in case {m.case!r}, shape {tuple(ratio.shape)}: {count} of {ratio.numel()} elements are beyond "
        f"their allowance (outlined): {m.pattern or 'scattered'}. Expected values: {source}."
    )
    if ratio.ndim > 2:
        caption += " Rows are all axes but the last, flattened."
    if blocks != (1, 1):
        caption += f" Each cell is the largest of a block of {blocks[0]} × {blocks[1]}."
    svg = draw(cells, blocks)
    # None of the picture's text is a candidate's, and matplotlib escapes.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>p{number}-", svg)  # two pictures on one page
    label = f"heat map of error over allowance of {m.argument}: {count} of {ratio.numel()} wrong; {m.pattern}"
    return Picture(Markup(svg), caption, label)


def draw(cells: Tensor, blocks: tuple[int, int]) -> str:
    """A heat map of error over allowance as SVG, its text in the colour of the surrounding page."""
    import matplotlib
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    rows, columns = cells.shape
    finite = cells[cells.isfinite()]
    top = max(float(finite.max()) if finite.numel() else 0.0, 10.0)
    colours = matplotlib.colormaps["cividis"].with_extremes(over="#d55e00")
    norm = LogNorm(FLOOR, top)
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "manual_bp", "font.size": 9}
    with matplotlib.rc_context(settings | dict.fromkeys(coloured, INK)):
        # Cells are square as far as the page has room, but few rows need no more than two lines of text each.
        height = max(min(5.2 * rows / columns, 0.45 * rows, 5.2), 0.4)
        figure = Figure(figsize=(6.4, height + 1.3), layout="constrained")
        axes = figure.add_subplot()
        shown = cells.clamp(min=FLOOR).nan_to_num(posinf=10 * top)
        image = axes.imshow(shown.numpy(), cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        for colour, width in (("white", 4.0), ("black", 1.6)):  # seen on light cells and on dark ones
            axes.add_collection(LineCollection(outline(cells > 1), colors=colour, linewidths=width, clip_on=False))
        _number_cells(axes, cells, norm)
        _ticks(axes.xaxis, columns, blocks[1])
        _ticks(axes.yaxis, rows, blocks[0])
        axes.set_xlabel("last axis")
        axes.set_ylabel("other axes" if rows > 1 else "")
        extend = "max" if not bool(cells.isfinite().all()) else "neither"
        bar = figure.colorbar(image, location="bottom", extend=extend, fraction=0.1, aspect=40, pad=0.03)
        bar.set_label("error over allowance: beyond 1 is wrong" + (" (orange: infinitely)" if extend == "max" else ""))
        bar.ax.axvline(1, color="white", linewidth=4)
        bar.ax.axvline(1, color="black", linewidth=1.6)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"^<svg[^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), svg)  # the viewBox stays


def outline(wrong: Tensor) -> list[list[tuple[float, float]]]:
    """The edges between cells that are wrong and cells that are not, in the picture's coordinates."""
    padded = torch.zeros(wrong.shape[0] + 2, wrong.shape[1] + 2, dtype=torch.bool)
    padded[1:-1, 1:-1] = wrong
    upright = (padded[1:-1, 1:] != padded[1:-1, :-1]).nonzero().tolist()
    level = (padded[1:, 1:-1] != padded[:-1, 1:-1]).nonzero().tolist()
    segments = [[(x - 0.5, y - 0.5), (x - 0.5, y + 0.5)] for y, x in upright]
    return segments + [[(x - 0.5, y - 0.5), (x + 0.5, y - 0.5)] for y, x in level]


def _number_cells(axes: Any, cells: Tensor, norm: Any) -> None:
    """Numbers in the cells of a small picture: colour alone says too little."""
    if cells.numel() > NUMBERED or cells.shape[1] > 8:  # wider than 8 the numbers touch
        return
    for (y, x), value in zip(torch.ones_like(cells).nonzero().tolist(), cells.reshape(-1).tolist(), strict=True):
        light = math.isfinite(value) and float(norm(max(value, FLOOR))) > 0.5
        axes.text(
            x, y, _number(value).replace("inf", "∞"), ha="center", va="center", color="black" if light else "white"
        )


def _ticks(axis: Any, cells: int, block: int) -> None:
    """Ticks at cells, called by the index of their first element; 8 of them at most."""
    step = -(-cells // 8)
    axis.set_ticks(range(0, cells, step), [str(k * block) for k in range(0, cells, step)])
