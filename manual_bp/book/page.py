"""One page with all that it says of itself, read once: for the terminal and for the book."""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import dropwhile, takewhile
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any, Literal, get_args, get_origin

from manual_bp.book.docstring import Text, read
from manual_bp.hyperparameters import kinds
from manual_bp.inputs import Edge, Index, Mistake, Value
from manual_bp.registry import RULES
from manual_bp.rule import Rule

LONG = 72
"""Characters of an edge's values; the rest is in the page."""


@dataclass(frozen=True)
class Argument:
    """An input, output or hyperparameter; axes: of a tensor as annotated; about: what else is said of it."""

    name: str
    role: str
    kind: str
    axes: str
    about: str


class Page:
    """A rule's page as it is read."""

    def __init__(self, rule: Rule) -> None:
        """Raises PageError if its docstring cannot be read."""
        self.rule = rule
        self.text = text_of(rule)

    @property
    def name(self) -> str:
        return self.rule.name

    @property
    def summary(self) -> str:
        return self.text.summary

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        return self.rule.mistakes

    @property
    def wrong(self) -> tuple[Mistake | Value, ...]:
        """The mistakes, and the formulas for y that lose digits."""
        return (*self.rule.mistakes, *self.rule.values)

    @cached_property
    def code(self) -> str:
        """Residuals, forward, backward and their helpers: what stands before INPUTS; or what of it can be had."""
        source = _source(self.rule)
        if not source:
            parts = [part for part in ("forward", "backward") if hasattr(self.rule.page, part)]
            return "\n\n\n".join(inspect.getsource(getattr(self.rule.page, part)).rstrip() for part in parts)
        nodes = list(takewhile(lambda node: not _is_inputs(node), ast.parse(source).body))
        found = [_lines(n) for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign)]
        lines = source.split("\n")
        return "\n".join(lines[found[0][0] - 1 : found[-1][1]]) if found else ""

    @cached_property
    def parts_of_wrong(self) -> str:
        """What the wrong formulas are made of: what has a name behind INPUTS, or in a helper of the chapter, and is not
        among the code."""
        page, source = self.rule.page, _source(self.rule)
        lines = source.split("\n")
        nodes = dropwhile(lambda node: not _is_inputs(node), ast.parse(source).body if source else ())
        own = {name: "\n".join(lines[first - 1 : last]) for node in nodes for name, (first, last) in _named_at(node)}
        shown = set(re.findall(r"\w+", self.code))
        found: dict[str, str] = {}
        words = re.findall(r"\w+", " ".join(self.formulas.values()))
        while words:  # what they use themselves, too
            name = words.pop(0)
            if name in found or (name in shown and name not in own):
                continue
            made: Any = getattr(page, name, None)
            if name in own or _is_of_chapter(made, page):
                found[name] = own[name] if name in own else inspect.getsource(made).rstrip()
                words += re.findall(r"\w+", found[name])
        return "\n\n\n".join(found.values())

    @cached_property
    def arguments(self) -> list[Argument]:
        """The signature as a table."""
        rule = self.rule
        found = [
            Argument(name, "input", *self._tensor(rule.annotations[name]), self._input(name)) for name in rule.inputs
        ]
        for name in rule.hyper:
            about = f"default {rule.defaults[name]!r}" if name in rule.defaults else "must be given"
            found.append(Argument(name, "hyperparameter", spelt(rule.annotations[name]), "", about))
        for name, annotation in rule.output_annotations.items():
            found.append(Argument(name, "output", *self._tensor(annotation), ""))
        return found

    def _input(self, name: str) -> str:
        spec = self.rule.inputs[name]
        said = []
        if isinstance(spec, Index):
            said.append(f"positions on {spec.axis}")
            said += [f"or {spec.unless}"] if spec.unless else []
        elif self.rule.has_backward and not spec.cotangent:
            said.append("no cotangent")
        if spec.optional:
            said.append("its cotangent may be left out")
        if name in self.rule.absentable:
            said.append("may be absent")
        return ", ".join(said)

    @staticmethod
    def _tensor(annotation: Any) -> tuple[str, str]:
        words = str(annotation.dim_str).split()
        return annotation.dtype.__name__, f"({', '.join(words)}{',' if len(words) == 1 and words[0][0] != '*' else ''})"

    @cached_property
    def conventions(self) -> list[tuple[str, str, str]]:
        """Name, choice and what it means; the page's own choice of a name first."""
        return [
            (name, choice, convention.meaning)
            for name, options in self.rule.conventions.items()
            for choice, convention in options.items()
        ]

    @property
    def promises(self) -> list[tuple[str, str]]:
        """Results of which 5 ulp are out of reach, and why."""
        return [(name, promise.why) for name, promise in self.rule.promises.items()]

    @cached_property
    def computed_axes(self) -> dict[str, str]:
        """The axes of y that are computed, and from what."""
        functions: Mapping[str, Callable[..., Any]] = getattr(self.rule.page, "AXES", {})
        return {name: f"from {', '.join(inspect.signature(f).parameters)}" for name, f in functions.items()}

    @cached_property
    def edges(self) -> list[tuple[str, str, str]]:
        """Of each edge its name, what it sets, and the error that it must raise."""
        return [(edge.name, _given(edge), edge.raises.__name__ if edge.raises else "") for edge in self.rule.edges]

    @cached_property
    def formulas(self) -> dict[str, str]:
        """The wrong formulas of mistakes and values, as written on the page or in a helper of its chapter, by their
        names."""
        names = {wrong.name for wrong in self.wrong}
        found = {}
        for source in (
            *(inspect.getsource(sys.modules[name]) for name in sorted(_helpers(self.rule))),
            _source(self.rule),
        ):
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Mistake", "Value") and len(node.args) > 1:
                    name = node.args[0]
                    if isinstance(name, ast.Constant) and name.value in names:
                        text = ast.get_source_segment(source, node.args[1], padded=True) or ""
                        found[str(name.value)] = inspect.cleandoc("\n" + text)
        return found

    @cached_property
    def related(self) -> list[str]:
        """The rules that its docstring names in backticks, whose docstrings name it, or that share a helper with it."""
        named, helpers = _named(self.rule), _helpers(self.rule)
        return [
            name
            for name, other in RULES.items()
            if name != self.name and (name in named or self.name in _named(other) or helpers & _helpers(other))
        ]


def names_of(rule: Rule) -> frozenset[str]:
    """The names of several letters that are mathematics on a page."""
    residuals = rule.page.Residuals._fields if rule.has_backward else ()
    axes = {name for name in (*rule.axis_names, *getattr(rule.page, "AXES", {})) if len(name) > len("out")}
    return frozenset({*rule.inputs, *rule.hyper, *rule.outputs, *residuals, *axes})


def text_of(rule: Rule) -> Text:
    """The docstring of a rule's page.  Raises PageError if it cannot be read."""
    source = _source(rule)
    first = ast.parse(source).body[0].lineno if source else 1
    return read(rule.page.__doc__ or "", names_of(rule), _place(rule), first)


def spelt(annotation: Any) -> str:
    """A hyperparameter's kind, as it is written."""
    found = []
    for kind in kinds(annotation):
        if get_origin(kind) is Literal:
            found += [f'"{choice}"' for choice in get_args(kind)]
        else:
            found.append("None" if kind is NoneType else str(getattr(kind, "__name__", kind)))
    return " | ".join(found)


def _is_inputs(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign | ast.AnnAssign) and "INPUTS" in ast.unparse(node).partition("=")[0]


def _is_of_chapter(made: Any, page: ModuleType) -> bool:
    """Whether a function or class stands in a helper of the page's chapter."""
    is_made = inspect.isfunction(made) or inspect.isclass(made)
    return is_made and str(made.__module__).startswith(f"{page.__name__.rpartition('.')[0]}._")


def _named_at(node: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """The name that a statement gives to a function, a class or a value, and its lines; none of a page's own parts."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name, _lines(node)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and not node.targets[0].id.isupper():
        yield node.targets[0].id, _lines(node)


def _lines(node: Any) -> tuple[int, int]:
    """The first and the last line of a statement, decorators included."""
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    return first, node.end_lineno or first


@cache
def _named(rule: Rule) -> frozenset[str]:
    """What a page's docstring has between backticks."""
    return frozenset(re.findall(r"`([^`]+)`", rule.page.__doc__ or ""))


@cache
def _helpers(rule: Rule) -> frozenset[str]:
    """The modules of its chapter that a page imports."""
    chapter = f"{rule.page.__name__.rpartition('.')[0]}._"
    nodes = ast.walk(ast.parse(_source(rule)))
    imports = (node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module)
    return frozenset(module for module in imports if module.startswith(chapter))


@cache
def _source(rule: Rule) -> str:
    """The text of its file; "" of a page that has none."""
    path = getattr(rule.page, "__file__", None)
    return Path(path).read_text("utf-8") if path else ""


def _place(rule: Rule) -> str:
    path = getattr(rule.page, "__file__", None)
    if not path:
        return rule.page.__name__
    depth = rule.page.__name__.count(".") + 1
    return "/".join(Path(path).parts[-depth:])


def _given(edge: Edge) -> str:
    """What an edge sets, in a few characters."""
    parts = [f"{name} = {_short(value)}" for name, value in edge.given.items()]
    parts += [f"{name}: {_short(length)}" for name, length in edge.sizes.items()]
    text = ", ".join(parts)
    return text if len(text) <= LONG else text[: LONG - 2].rstrip(" ,[") + " …"


def _short(value: Any) -> str:
    if callable(value):
        return "drawn"
    if isinstance(value, list | tuple):
        inside = ", ".join(map(_short, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' if len(value) == 1 else ''})"
    if isinstance(value, float):
        if not math.isfinite(value):
            return {math.inf: "∞", -math.inf: "−∞"}.get(value, "NaN")
        return f"{value:.6g}".replace("-", "−") if value or math.copysign(1, value) > 0 else "−0"
    return "absent" if value is None else repr(value) if isinstance(value, str) else str(value).replace("-", "−")
