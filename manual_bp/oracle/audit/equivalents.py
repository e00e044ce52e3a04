"""Right programs: the rule written in another way, torch's own, and results that are as far off as they may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.arithmetic.bounded import contract_of, widths
from manual_bp.dispatch import Mode
from manual_bp.oracle.audit.programs import Answer, Program, Results, by_argument, judged, steady
from manual_bp.oracle.calling.candidates import candidate
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.layouts import lay_out
from manual_bp.rule import Grads, Rule, Vjp, as_vjp

aten = torch.ops.aten

RIGHT = "right"
# Longer sums are left to torch, from the last to the first as well: one by one they would take seconds.
ONE_BY_ONE = 4096
# Of the allowance so much is used: with the page's own rounding errors it stays within it.
PART = 0.5


def equivalents(rule: Rule, case: Case) -> Iterator[Program]:
    """Right programs of several kinds.  case: an ordinary one, at which torch's is seen to take the same arguments."""
    yield steady(RIGHT, "the rule itself", lambda _, right: right, is_right=True)
    if (answer := _torchs(rule, case)) is not None:
        yield steady(RIGHT, "torch.autograd", answer, is_right=True)
    for program in REWRITTEN if rule.has_backward else ():
        with program() as mode:
            rule.vjp(case.inputs, case.dy, **case.hyper)
        if mode.count > 0:
            words = (program.__doc__ or "").partition(".")[0].lower()
            yield steady(RIGHT, words, _answer(rule, rewritten(rule, program)), is_right=True)
    yield steady(RIGHT, "computed in float64, rounded once", _in_float64(rule), is_right=True)
    yield steady(RIGHT, f"off by {PART:g} of what rounding allows", _allowed(rule), is_right=True)
    yield steady(RIGHT, "results that are not contiguous", _laid_out(judged(rule)), is_right=True)
    optional = [f"d{name}" for name, spec in rule.inputs.items() if spec.optional]
    if optional and rule.has_backward:
        words = f"None for {' and '.join(optional)}, which nobody has to return"
        yield steady(RIGHT, words, lambda _, right: {**right, **dict.fromkeys(optional)}, is_right=True)


def _answer(rule: Rule, vjp: Vjp) -> Answer:
    return lambda case, _: by_argument(rule, *vjp(case.inputs, case.dy, **case.hyper))


def _torchs(rule: Rule, case: Case) -> Answer | None:
    """torch's own function, or its derivative of the page's forward; None if it takes other arguments."""
    torch_ = candidate("torch")
    own = torch_(rule.name)
    if own is None and rule.has_backward and hasattr(torch_, "autograd"):
        own = torch_.autograd(lambda *inputs, **hyper: rule.pure(*inputs, **hyper)[0])
    if own is None:
        return None
    found = as_vjp(rule, own)

    def answer(case: Case, right: Results) -> Results:
        y, grads = found(case.inputs, case.dy, **case.hyper)
        got = by_argument(rule, y, grads)
        return {a: None if right[a] is None else torch.zeros_like(right[a]) if x is None else x for a, x in got.items()}

    try:
        answer(case, by_argument(rule, *rule.vjp(case.inputs, case.dy, **case.hyper)))
    except (RuntimeError, TypeError, ValueError):
        return None
    return answer


def _in_float64(rule: Rule) -> Answer:
    def answer(case: Case, right: Results) -> Results:
        wide = in_dtype(case, torch.float64, str(case.tensors[0].device))
        exact = by_argument(rule, *rule.vjp(wide.inputs, wide.dy, **wide.hyper))
        return {a: None if right[a] is None else x.to(right[a].dtype) for a, x in exact.items()}

    return answer


def _allowed(rule: Rule) -> Answer:
    """Every result off by a part of what the rounding of a right program may do, up and down by turns."""
    in_float64 = _in_float64(rule)

    def answer(case: Case, right: Results) -> Results:
        dtype = next(x.dtype for x in case.tensors if x.is_floating_point())
        width = widths(rule, case.inputs, case.dy, contract_of(dtype), **case.hyper)
        allowed = dict(zip(rule.arguments, (*width.outputs, *width.grads), strict=True))
        return {a: x if x is None else _off(x, allowed[a]) for a, x in in_float64(case, right).items()}

    return answer


def _off(x: Tensor, allowed: Tensor | None) -> Tensor:
    if allowed is None or not x.is_floating_point():
        return x
    turns = 1 - 2 * (torch.arange(x.numel(), device=x.device) % 2).reshape(x.shape)
    part = (PART * allowed).nan_to_num(nan=0.0, posinf=0.0).to(x.device)
    moved = (x.double() + turns * part).to(x.dtype)
    return torch.where(moved.isfinite(), moved, x)


def _laid_out(arguments: list[str]) -> Answer:
    def answer(_: Case, right: Results) -> Results:
        return {a: x if x is None or a not in arguments else lay_out(x, "sliced") for a, x in right.items()}

    return answer


# --------------------------------------------------------------------------------------------- written in another way


class Rewritten(Mode):
    """Runs a page's text with some of its operations computed otherwise; `count` says how many."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.rewrite(func, args, kwargs or {})
        self.count += result is not None
        return func(*args, **(kwargs or {})) if result is None else result

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        raise NotImplementedError


class LastFirst(Rewritten):
    """Every sum, mean and matrix product summed one by one, from the last to the first."""

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if func is aten.mm.default:
            a, b = args
            return one_by_one(a[:, :, None] * b[None], [1], keepdim=False)
        if func in SUMS:
            x, over, keepdim, *_ = (*args, None, None)[:3]
            axes = [axis % x.ndim for axis in over] if over else list(range(x.ndim))
            total = one_by_one(x, axes, bool(keepdim))
            is_mean = func in MEANS and x.numel() > 0
            return total / float(math.prod(x.shape[a] for a in axes)) if is_mean else total
        return None


SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim)
MEANS = SUMS[2:]


def one_by_one(x: Tensor, axes: list[int], keepdim: bool) -> Tensor:
    """A sum in which each term is added by itself, from the last to the first."""
    if not x.numel() or not x.is_floating_point():
        return x.sum(axes, keepdim=keepdim)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    columns = x.permute([*kept, *axes]).reshape(*(x.shape[axis] for axis in kept), -1)
    total = torch.zeros_like(columns[..., 0])
    if columns.shape[-1] > ONE_BY_ONE:
        total = columns.flip(-1).sum(-1)
    else:
        for column in columns.flip(-1).unbind(-1):
            total = total + column
    return total.reshape([1 if axis in axes else x.shape[axis] for axis in range(x.ndim)]) if keepdim else total


class Reciprocals(Rewritten):
    """Every division as a product with the rounded reciprocal."""

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if func is not aten.div.Tensor:
            return None
        quotient: Tensor = args[0] * torch.as_tensor(args[1], dtype=args[0].dtype).reciprocal()
        return quotient


class Fused(Rewritten):
    """In float32, every sum of a product rounded once; the product is exact in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[int, tuple[Tensor, Tensor]] = {}  # by id; the product itself is kept, so that the id is

    def rewrite(self, func: Any, args: Any, kwargs: Any) -> Tensor | None:
        if not all(isinstance(x, Tensor) and x.dtype == torch.float32 for x in args):
            return None
        if func is aten.mul.Tensor:
            product: Tensor = args[0] * args[1]
            self.products[id(product)] = product, args[0].double() * args[1].double()
            self.count -= 1  # nothing has been fused yet
            return product
        fused = next((i for i, x in enumerate(args) if id(x) in self.products), None)
        if func not in (aten.add.Tensor, aten.sub.Tensor) or fused is None:
            return None
        wide = [self.products[id(x)][1] if i == fused else x.double() for i, x in enumerate(args)]
        once: Tensor = func(*wide, **kwargs).float()
        return once


REWRITTEN = (LastFirst, Reciprocals, Fused)
"""Other programs of the same function."""


def rewritten(rule: Rule, program: type[Rewritten]) -> Vjp:
    """The rule as another program."""

    def candidate(inputs: tuple[Tensor | None, ...], dy: Any, **hyper: Any) -> tuple[Any, Grads]:
        with program():
            return rule.vjp(inputs, dy, **hyper)

    return candidate
