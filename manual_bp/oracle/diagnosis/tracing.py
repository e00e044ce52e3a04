"""How a page, or torch's derivative of it, becomes a program: it is run at a case while each operation is recorded."""

from __future__ import annotations

import linecache
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.case import Case
from manual_bp.oracle.cases.variation import wide
from manual_bp.oracle.diagnosis.program import PAGE, TORCH, Called, Site, Traced, by_name
from manual_bp.outputs import parts, whole
from manual_bp.program import Line, Node, Program, Ref, UntraceableError
from manual_bp.program.program import PLAYED
from manual_bp.program.recording import OURS, Recording
from manual_bp.rule import Rule

__all__ = ["UNTRACEABLE", "UntraceableError", "called", "traced"]

UNTRACEABLE = (RuntimeError, TypeError, ValueError, AttributeError)
"""What is raised where no program can be made of a page, an UntraceableError among them: pages are anybody's."""

APART = tuple(str(Path(torch.__file__).parent / name) for name in ("_decomp", "_refs", "_prims_common"))
"""Where torch takes operations apart."""
_RUNNING = ("program/program.py", "oracle/functions", "arithmetic")
INTERPRETED = tuple(str(Path(__file__).parents[2] / name) for name in _RUNNING)
"""What runs programs that were recorded."""
HERE = (*OURS, str(Path(__file__).parent))
"""Folders of which no line is a page's."""


class _Sited(Recording):
    """A recording that notes the site of each operation, and by which variable of the page each tensor is known."""

    def __init__(self, inputs: Sequence[Tensor], elementary: Callable[[Any], bool]) -> None:
        self.sites: dict[int, Site] = {}
        self.named: dict[int, str] = {}
        self.parts: dict[Ref, str] = {}  # of what gives several, such as the parts of a packed axis
        self._calls: tuple[Any, ...] = ()
        self._derived: dict[int, int] = {}
        super().__init__(inputs, elementary)

    def _append(self, node: Node, moving: bool) -> Ref:
        ref = super()._append(node, moving)
        self.sites[ref.position] = Site(self.stage, self._calls, node.name)
        return ref

    def _line(self) -> Line | None:
        """The innermost line of the page's own file or, of a page made of a recorded program, the line recorded."""
        frame: FrameType | None = sys._getframe(1)
        calls: list[Any] = []
        if (node := torch._C._current_autograd_node()) is not None:
            number = self._derived.setdefault(node._sequence_nr(), len(self._derived))
            calls.append((node.name(), number))
            self.stage = "backward"
        found: Line | None = None
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(INTERPRETED):  # one line of these stands for every operation
                calls.append(len(self.nodes))
            elif not code.co_filename.startswith(HERE):
                calls.append((code.co_name, frame.f_lasti))
                if found is None or (found.file != self.page and code.co_filename == self.page):
                    found = _line_of(code.co_filename, frame.f_lineno)
                self._note_names(frame)
            elif code.co_filename.startswith(APART):
                calls.append((code.co_name, frame.f_lasti))
            elif code.co_filename == __file__ and code is traced.__code__:
                break
            frame = frame.f_back
        self._calls = tuple(calls)
        return PLAYED[-1] if PLAYED else found

    page = ""
    """The page's file."""

    def _note_names(self, frame: FrameType) -> None:
        """Variables of the page's own functions; what a helper calls its arguments says nothing of what they are."""
        code = frame.f_code
        if code.co_filename != self.page:
            return
        arguments = code.co_varnames[: code.co_argcount] if code.co_name not in ("forward", "backward") else ()
        for name, x in frame.f_locals.items():
            if name in arguments or not isinstance(x, Tensor):
                continue
            if (known := self._own.get(id(x))) is not None:
                if known.ref.item is None:
                    self.named.setdefault(known.ref.position, name)
                else:
                    self.parts.setdefault(known.ref, name)

    def _refuse_what_no_program_tells(self, func: Any, args: Any, moving: bool, line: Line | None) -> None:
        """A program is made for every case anew, so that what depends on numbers of one is as it should be there."""
        if torch.Tag.nondeterministic_seeded in func.tags:
            super()._refuse_what_no_program_tells(func, args, moving, line)


@cache
def _line_of(file: str, number: int) -> Line:
    return Line(file, number, linecache.getline(file, number).strip())


def called(rule: Rule, case: Case) -> Called:
    """The page as it is called at a case, in float64."""
    inputs = tuple(None if x is None else wide(x).clone() for x in case.inputs)
    dy = None
    if rule.has_backward:
        dy = _complete(case.dy, lambda: rule.pure(*inputs, **{**rule.defaults, **case.hyper})[0])
    return Called(rule, case, inputs, dy)


def traced(rule: Rule, case: Case, by: str = PAGE) -> Traced:
    """The page at a case, in float64, or torch's derivative of the same function (by=TORCH).  Raises UntraceableError
    where no program can be made of it."""
    page = called(rule, case)
    inputs, dy, hyper = page.inputs, page.dy, page.hyper
    tensors = replace(case, inputs=inputs, dy=dy).named(rule)
    twin = candidate("torch")(rule.name) if by == TORCH else None
    if by == TORCH and (twin is None or not rule.has_backward):
        raise UntraceableError("torch has no derivative of this")
    with _Sited(list(tensors.values()), _is_elementary) as recording:
        recording.page = str(getattr(rule.page, "__file__", ""))
        if twin is not None:
            residuals = None
            y, grads = twin(inputs, dy, **hyper)
        else:
            y, residuals = rule.pure(*inputs, **hyper)
            recording.stage = "residuals"
            residuals = _copied(recording, residuals, "") if rule.has_backward else None
            recording.stage = "backward"
            grads = rule.page.backward(residuals, dy) if rule.has_backward else ()
        recording.stage = "results"
        copies = {name: _copy(recording, x, name) for name, x in by_name(rule, y, grads).items() if x is not None}
    results = {name: recording.refs(x).position for name, x in copies.items()}
    program = Program(tuple(recording.nodes), recording.inputs, ())
    _, values = program.run(list(tensors.values()))
    sites = [Site("inputs", (name,), "input") for name in tensors]
    sites += [recording.sites[p] for p in range(len(tensors), len(program.nodes))]
    if hasattr(rule.page, "FUNCTION"):
        sites = _of_lines(program.nodes, sites)
    names = {**recording.named, **dict(enumerate(tensors)), **{p: name for name, p in results.items()}}
    return Traced(rule, case, inputs, dy, by, program.nodes, values, sites, names, recording.parts, results, residuals)


def _of_lines(nodes: Sequence[Node], sites: Sequence[Site]) -> list[Site]:
    """Of a recorded function an operation is known by the line that was recorded, and as which of how many alike."""
    keys = [(site.stage, node.line, site.op) for node, site in zip(nodes, sites, strict=True)]
    count, seen = Counter(keys), Counter[Any]()
    found = []
    for key, site in zip(keys, sites, strict=True):
        seen[key] += 1
        is_run = site.stage in ("forward", "backward")
        found.append(Site(site.stage, (key[1], seen[key], count[key]), site.op) if is_run else site)
    return found


def _is_elementary(op: Any) -> bool:
    """Torch's derivatives are taken apart where they can be."""
    return "_backward" not in str(op._schema.name) or op not in _apart()


@cache
def _apart() -> Any:
    from torch._decomp import decomposition_table

    return decomposition_table


def _complete(dy: Any, value: Callable[[], Any]) -> Any:
    """dy in float64, with 0 for what is absent."""
    if isinstance(dy, Tensor):
        return wide(dy).clone()
    y = value()
    found = [
        (torch.zeros_like(part) if part.is_floating_point() else None) if d is None else wide(d).clone()
        for d, part in zip(parts(dy), parts(y), strict=True)
    ]
    return whole(found, like=y)


def _copy(recording: _Sited, x: Tensor, name: str) -> Tensor:
    copy = x.clone()
    known = recording.refs(copy)
    among = sum(site.stage == recording.stage for site in recording.sites.values())
    recording.sites[known.position] = Site(recording.stage, (name, among), "clone")
    if name:
        recording.named.setdefault(known.position, name)
    return copy


def _copied(recording: _Sited, structure: Any, name: str) -> Any:
    """Residuals with a copy of each tensor, known by the name of its field."""
    if isinstance(structure, Tensor):
        return _copy(recording, structure, name)
    if isinstance(structure, Mapping):
        return {key: _copied(recording, x, str(key)) for key, x in structure.items()}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        pairs = zip(structure._fields, structure, strict=True)
        return type(structure)(*(_copied(recording, x, field) for field, x in pairs))
    if isinstance(structure, tuple | list):
        return type(structure)(_copied(recording, x, "") for x in structure)
    return structure
