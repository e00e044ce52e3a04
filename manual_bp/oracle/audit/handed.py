"""What a checker is handed: one program, in whichever form the checker calls it, watched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manual_bp.oracle.audit.programs import Answer, Program, Results, by_argument, returned
from manual_bp.oracle.audit.remembered import OVERWRITES
from manual_bp.oracle.audit.seen import Seen
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.calling.time_limit import Limit
from manual_bp.oracle.case import Case
from manual_bp.outputs import whole
from manual_bp.rule import Rule

# A difference of so many units roundoff of the largest number is none: two right programs differ by as much.
ROUNDINGS = 64
# The largest factor by which a program's results are multiplied (`sizes.SIZES`), and more.
MULTIPLES = 128.0


class TookTooLong(BaseException):
    """A checker did not come to a verdict in time.  No Exception, so that it does not take this for a wrong program."""


class Handed:
    """A program as a checker meets it.

    `program(inputs, dy, **hyper)` is a Vjp; `program.apply(*inputs, **hyper)`, or `program(x, ...)` with a tensor in
    place of the tuple, is the same program as an autograd function.  Of a page without backward `program(inputs,
    **hyper)` is y.

    calls: how often it was called.  shown: the largest error that its results had, as a fraction of the largest number
    that was due; 0 if they were right.
    """

    def __init__(
        self, rule: Rule, program: Program, seen: Seen | None = None, noise: Mapping[str, float] | None = None
    ) -> None:
        """seen: takes in what it is called with.  noise: of an argument that is 0 up to rounding, how large that is."""
        self._rule = rule
        self._answer: Answer = program.begin()
        self._of_values = program.argument in rule.arguments[: len(rule.outputs)]
        self._overwrites = program.kind == OVERWRITES
        self._seen = seen
        self._noise = noise or {}
        self._before: list[tuple[Tensor, Tensor]] = []
        self._function: Callable[..., Any] | None = None
        self.limit: Limit | None = None
        self.calls = 0
        self.shown = 0.0
        self.__name__ = self.__qualname__ = rule.name
        self.__doc__ = f"{rule.name}, as a Vjp and as an autograd function."

    def __call__(self, inputs: Any, *rest: Any, **named: Any) -> Any:
        if isinstance(inputs, Tensor):
            return self.apply(inputs, *rest, **named)
        if self._seen is not None:
            self._seen.directly = True
        return self.vjp(tuple(inputs), *rest, **named)

    def vjp(self, inputs: tuple[Any, ...], dy: Any = None, **hyper: Any) -> Any:
        """(y, grads), or of a page without backward y.  Raises ValueError for what does not fit the rule."""
        self._in_time()
        own, all_hyper = self._fitting(inputs, hyper)
        case = Case(own, tuple(dy) if isinstance(dy, tuple | list) else dy, all_hyper)
        y, grads = self._rule.vjp(case.inputs, case.dy, **case.hyper)
        right = by_argument(self._rule, y, grads)
        self.calls += 1
        if self._seen is not None:
            self._seen.note(case)
        got = self._got(case, right)
        result = returned(self._rule, got, like=y)
        return result if self._rule.has_backward else result[0]

    def value(self, inputs: Sequence[Any], hyper: dict[str, Any]) -> Any:
        """y alone, as the forward of an autograd function gives it."""
        self._in_time()
        if self._seen is not None:
            self._seen.values = True
        own, all_hyper = self._fitting(inputs, hyper)
        y, _ = self._rule.forward(*own, **all_hyper)
        if not self._of_values:
            return y
        absent: tuple[None, ...] = (None,) * len(self._rule.inputs)
        right = by_argument(self._rule, y, absent)
        got = self._got(Case(own, None, all_hyper), right)
        return whole([got[name] for name in self._rule.arguments[: len(self._rule.outputs)]], like=y)

    def _fitting(self, inputs: Sequence[Any], hyper: dict[str, Any]) -> Any:
        try:
            return self._rule.sorted_inputs(tuple(inputs), hyper)
        except Exception:
            if self._seen is not None:
                self._seen.refused = True
            raise

    def apply(self, *given: Any, **hyper: Any) -> Any:
        """As `apply` of an autograd.Function: inputs, then hyperparameters, by position or by name."""
        number = len(self._rule.inputs)
        named = {**dict(zip(self._rule.hyper, given[number:], strict=False)), **hyper}
        if self._function is None:
            self._function = candidate("torch").function(self.value, self.vjp)  # type: ignore[attr-defined]
        return self._function(given[:number], named)

    def restore(self) -> None:
        """Put back what the program overwrote: a checker may use the same tensors for the next program."""
        with torch.no_grad():
            for x, before in reversed(self._before):
                once = tuple(slice(1 if stride == 0 else None) for stride in x.stride())  # an expanded axis is one row
                x.detach()[once].copy_(before[once])

    def _in_time(self) -> None:
        if self.limit is not None and self.limit.left() < 0:
            raise TookTooLong

    def _got(self, case: Case, right: Results) -> Results:
        """What the program returns; how far off that is has been noted."""
        if self._overwrites:
            self._before += [(x, x.detach().clone()) for x in case.tensors]
        try:
            got = self._answer(case, right)
        except Exception:
            self.shown = float("inf")
            raise
        self.shown = max([self.shown, *(difference(right[a], got[a], self._noise.get(a)) for a in right)])
        if self._overwrites:
            self.shown = float("inf")
        return got


def difference(right: Any, got: Any, noise: float | None = None) -> float:
    """How far off a result is, as a fraction of the largest number that is due; infinite where no number of the right
    kind came, and 0 where it is right up to rounding.

    noise: how large a result is that is 0 up to rounding; what differs from it by no more than a few of these shows
    nothing, and the error is then told as it is.
    """
    if right is None or got is right:
        return 0.0
    if not isinstance(got, Tensor) or got.shape != right.shape or got.dtype != right.dtype:
        return float("inf")
    if not right.numel() or not right.is_floating_point():
        return 0.0 if torch.equal(got, right) else 1.0
    with torch.no_grad():
        off = (got.detach().double() - right.double()).abs()
        off = torch.where((got == right) | (got.isnan() & right.isnan()), 0.0, off).nan_to_num(
            nan=torch.inf, posinf=torch.inf
        )
        if noise is not None:
            return error if (error := float(off.max())) > MULTIPLES * noise else 0.0
        largest = float(right[right.isfinite()].abs().max()) if bool(right.isfinite().any()) else 0.0
        error = float(off.max()) / (largest or 1.0)
    return error if error > ROUNDINGS * torch.finfo(right.dtype).eps / 2 else 0.0


def is_wrong_at(rule: Rule, answer: Answer, case: Case, right: Results) -> bool:
    """Whether an answer differs from what is right at a case, or changes what it was given."""
    copy = case.with_tensors(x.clone() if x.is_contiguous() else x for x in case.tensors)
    try:
        got = answer(copy, right)
    except Exception:
        return True
    given = zip(case.tensors, copy.tensors, strict=True)
    return any(difference(right[a], got[a]) > 0 for a in right) or any(
        not torch.equal(a, b) for a, b in given if not bool(a.isnan().any()) and a.is_floating_point()
    )
