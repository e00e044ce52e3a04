"""What a checker does with a right program: the calls that it makes, and what could be seen in them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.oracle.case import Case
from manual_bp.outputs import parts
from manual_bp.rule import Rule

# So many small calls are looked at closely; a bound on their rounding errors takes a few milliseconds each.
KEPT, SMALL = 12, 2**16


@dataclass(frozen=True)
class Condition:
    """A property of a call.

    kind: the row of the table.  name: what holds, in words.  unmet: what a checker does that makes no such call.
    """

    kind: str
    name: str
    holds: Callable[[Case], bool]
    unmet: Callable[[Seen], str]


class Seen:
    """The calls that a checker made to right programs, run by run.

    held: the names of the conditions that held in some call.  digests: of the numbers of each call.
    """

    def __init__(self, rule: Rule, conditions: Sequence[Condition]) -> None:
        self.rule = rule
        self.conditions = conditions
        self.runs = self.calls = self.calls_each = 0
        self.held: set[str] = set()
        self.digests: set[bytes] = set()
        self.dtypes: set[torch.dtype] = set()
        self.hyper: dict[str, list[Any]] = {name: [] for name in rule.hyper}
        self.constants: set[float] = set()
        """The values of cotangents that are one number everywhere."""
        self.values = False
        """Whether y alone was asked for, as forward of an autograd function is."""
        self.directly = False
        """Whether gradients were asked for as a Vjp gives them, and not of torch.autograd."""
        self.refused = False
        """Whether a call did not fit the rule's inputs."""
        self.of_losses = True
        """Whether every cotangent is a single number."""
        self.largest: tuple[str, tuple[int, ...]] | None = None
        """The name and shape of the largest tensor."""
        self.furthest = 0.0
        """The largest absolute value of an input."""
        self.kept: list[Case] = []
        self._in_run = 0
        self._visible: list[dict[str, Visible]] | None = None

    def begin(self) -> None:
        """One more run of the checker."""
        self.runs += 1
        self._in_run = 0

    def note(self, case: Case) -> None:
        """One more call."""
        self.calls += 1
        self._in_run += 1
        self.calls_each = max(self.calls_each, self._in_run)
        self.held |= {c.name for c in self.conditions if c.name not in self.held and c.holds(case)}
        self.digests.add(digest(case))
        for name, x in case.named(self.rule).items():
            if self.largest is None or x.numel() > math.prod(self.largest[1]):
                self.largest = (name, tuple(x.shape))
            if not x.is_floating_point():
                continue
            self.dtypes.add(x.dtype)
            if name in self.rule.inputs and x.numel():
                finite = x.detach()[x.detach().isfinite()]
                self.furthest = max(self.furthest, float(finite.abs().max()) if finite.numel() else 0.0)
        for d in parts(case.dy):
            self.of_losses &= d is None or d.ndim == 0
            if d is not None and d.numel() and bool((d == d.reshape(-1)[0]).all()):
                self.constants.add(float(d.reshape(-1)[0]))
        for name, value in case.hyper.items():
            if name in self.hyper and value not in self.hyper[name]:
                self.hyper[name].append(value)
        if len(self.kept) < KEPT and case.elements <= SMALL:
            self.kept.append(case.with_tensors(x.detach().clone() for x in case.tensors))
            self._visible = None

    @property
    def visible(self) -> list[dict[str, Visible]]:
        """At each call that was kept, by argument, what could be seen."""
        if self._visible is None:
            self._visible = [visible_at(self.rule, case) for case in self.kept]
        return self._visible

    def is_zero(self, argument: str) -> bool:
        """Whether what is due is 0, up to rounding, in every call that was kept: then no factor changes anything."""
        return bool(self.kept) and all(v[argument].relative >= 1 for v in self.visible if argument in v)

    @property
    def noise(self) -> dict[str, float]:
        """Of each argument that is 0 up to rounding in every call, how large such a 0 may be."""
        zero = [argument for argument in self.rule.arguments if self.is_zero(argument)]
        return {a: max((v[a].allowance for v in self.visible if a in v), default=0.0) for a in zero}


@dataclass(frozen=True)
class Visible:
    """What can be seen of an argument at a call.

    relative: the smallest relative error of some element that is beyond what rounding allows; infinite where all are 0.
    allowance: the largest error that rounding allows.
    """

    relative: float
    allowance: float


def visible_at(rule: Rule, case: Case) -> dict[str, Visible]:
    """By argument, what can be seen at a case; of an argument of which nothing is known, nothing."""
    dtype = next((x.dtype for x in case.tensors if x.is_floating_point()), torch.float32)
    y, grads = rule.vjp(case.inputs, case.dy, **case.hyper)
    try:
        width = widths(rule, case.inputs, case.dy, contract_of(dtype), **case.hyper)
    except (RuntimeError, ValueError, ArithmeticError):  # a case for which there is no bound
        return {}
    found = {}
    for argument, due, allowed in zip(rule.arguments, (*parts(y), *grads), (*width.outputs, *width.grads), strict=True):
        if due is None or allowed is None or not due.numel():
            continue
        share = allowed / due.double().cpu().abs()
        finite, bounded = share[share.isfinite()], allowed[allowed.isfinite()]
        found[argument] = Visible(
            float(finite.min()) if finite.numel() else math.inf, float(bounded.max()) if bounded.numel() else 0.0
        )
    return found


def digest(case: Case) -> bytes:
    """What tells the numbers of one call from those of another."""
    summed = hashlib.blake2b(repr(sorted(case.hyper.items())).encode(), digest_size=16)
    for x in case.tensors:
        summed.update(f"{tuple(x.shape)} {x.dtype}".encode())
        summed.update(_bytes(x))
    return summed.digest()


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""
