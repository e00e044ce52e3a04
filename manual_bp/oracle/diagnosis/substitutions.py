"""Substitutions: the right formula at other inputs, another cotangent or other hyperparameters; another formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manual_bp.hyperparameters import choices
from manual_bp.oracle.case import Case
from manual_bp.oracle.diagnosis.examination import Examination
from manual_bp.oracle.diagnosis.forms import Form
from manual_bp.oracle.diagnosis.hypothesis import Explanation, Prediction, wide
from manual_bp.registry import RULES

COTANGENTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "takes the cotangent for ones: it ignores dy": torch.ones_like,
    "takes |dy| for dy": torch.abs,
    "takes dy² for dy": torch.square,
    "takes the sign of dy for dy": torch.sign,
    "takes the sum of dy for each of its elements": lambda dy: dy.sum().expand_as(dy),
    "takes the mean of dy for each of its elements": lambda dy: dy.mean().expand_as(dy),
    "takes dy clipped to [-1, 1] for dy": lambda dy: dy.clamp(-1, 1),
    "takes the first row of dy for every row": lambda dy: dy[:1].expand_as(dy),
    "takes dy divided by its norm for dy": lambda dy: dy / dy.norm(),
    "takes dy in reversed order along its last axis": lambda dy: dy.flip(-1),
    "takes dy in reversed order along its first axis": lambda dy: dy.flip(0),
    "takes dy transposed and read in its own shape": lambda dy: dy if dy.ndim < 2 else dy.mT.reshape(dy.shape),
    "takes dy with its first two axes exchanged and read in its own shape": lambda dy: (
        dy if dy.ndim < 3 else dy.transpose(0, 1).reshape(dy.shape)
    ),
    "takes dy at an index that wraps around at 256, in 8 bits": lambda dy: (
        dy if not dy.ndim else dy[..., torch.arange(dy.shape[-1]) % 256]
    ),
}
"""What is taken for dy, in words that follow the name of a cotangent."""

INPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{0} is ignored: {{}} is that of {0} = 1": torch.ones_like,
    "{0} is ignored: {{}} is that of {0} = 0": torch.zeros_like,
    "{0} enters with the wrong sign: {{}} is that of -{0}": torch.neg,
    "{{}} is that of |{0}|": torch.abs,
    "{{}} is that of {0} less its mean": lambda x: x - x.mean(),
    "{{}} is that of {0}²": torch.square,
}
SELDOM: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{{}} is that of the sign of {0}": torch.sign,
    "{{}} is that of {0} rounded to integers": torch.round,
    "{{}} is that of twice {0}": lambda x: 2 * x,
    "{{}} is that of half {0}": lambda x: x / 2,
    "{{}} is that of {0} clipped to [-1, 1]": lambda x: x.clamp(-1, 1),
    "{{}} is that of {0} clipped to at least 0": lambda x: x.clamp(min=0),
    "{{}} is that of {0} clipped to at least 1": lambda x: x.clamp(min=1),
    "{{}} is that of √{0}": torch.sqrt,
    "{{}} is that of {0} flattened and read in reverse": lambda x: x.flatten().flip(0).reshape(x.shape),
    "{{}} is that of {0} transposed and read in its own shape": lambda x: x if x.ndim < 2 else x.mT.reshape(x.shape),
    "{{}} is that of {0} with its first column in every column": lambda x: x[..., :1].expand_as(x),
    "{{}} is that of {0} with its first row in every row": lambda x: x[:1].expand_as(x),
    "{{}} is that of {0} with the first element of each slice of axis 0 in the whole slice": lambda x: (
        x if x.ndim < 2 else x.flatten(1)[:, :1].expand(x.flatten(1).shape).reshape(x.shape)
    ),
    "{{}} is that of {0} with the largest number of each row in the whole row": lambda x: x.amax(
        -1, keepdim=True
    ).expand_as(x),
    "{{}} is that of {0} with the smallest number of each row in the whole row": lambda x: x.amin(
        -1, keepdim=True
    ).expand_as(x),
}
"""What an input was replaced by; {0} is its name.  The second are said if no formula is found."""

MASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{0} is ignored: {{}} is that of {0} = 1 everywhere": torch.ones_like,
    "{0} is inverted: {{}} is that of its complement": lambda m: (m == 0).to(m.dtype),
    "{{}} is that of {0} transposed and read in its own shape": lambda m: m if m.ndim < 2 else m.mT.reshape(m.shape),
    "{{}} is that of {0} with its first column in every column": lambda m: m[..., :1].expand_as(m),
    "{{}} is that of {0} with its first row in every row": lambda m: m[:1].expand_as(m),
    "{{}} is that of {0} in reversed order": lambda m: m.flatten().flip(0).reshape(m.shape),
}

INDICES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "{0} is ignored: {{}} is that of {0} = 0 everywhere": torch.zeros_like,
    "{{}} is that of {0} - 1: its positions begin at 1": lambda i: torch.where(i > 0, i - 1, i),
    "{{}} is that of {0} + 1: its positions begin at -1": lambda i: i + 1,
    "{{}} is that of {0} transposed and read in its own shape": lambda i: i if i.ndim < 2 else i.mT.reshape(i.shape),
    "{{}} is that of {0} with its first column in every column": lambda i: i[..., :1].expand_as(i),
    "{{}} is that of {0} in reversed order": lambda i: i.flatten().flip(0).reshape(i.shape),
    "{{}} is that of {0} sorted": lambda i: i.flatten().sort().values.reshape(i.shape),
}
"""Likewise of an index."""

HYPERPARAMETERS: Mapping[str, Callable[[float], float]] = {
    "{0} is truncated to an integer: {{}} is that of int({0})": int,
    "{0} is taken without its sign: {{}} is that of |{0}|": abs,
    "{0} is taken with the wrong sign: {{}} is that of -{0}": lambda h: -h,
    "{0} is cut off at 0: {{}} is that of max({0}, 0)": lambda h: max(h, 0),
    "{0} is ignored where it is negative: {{}} is that of {0}=1 there": lambda h: 1 if h < 0 else h,
    "{0} is cut off at 1: {{}} is that of min({0}, 1)": lambda h: min(h, 1),
    "{0} is squared: {{}} is that of {0}²": lambda h: h * h,
    "{0} is taken inversely: {{}} is that of 1/{0}": lambda h: 1 / h,
    "{0} is taken twice: {{}} is that of 2·{0}": lambda h: 2 * h,
    "{{}} is that of 1 - {0} in place of {0}": lambda h: 1 - h,
    "{0} is rounded to bfloat16: {{}} is that of a {0} of 8 bits": lambda h: _rounded(h, torch.bfloat16),
    "{0} is rounded to float16: {{}} is that of a {0} of 11 bits": lambda h: _rounded(h, torch.float16),
    "{0} is rounded to 8-bit floating point: {{}} is that of a {0} of 3 bits": lambda h: _rounded(h, torch.float8_e5m2),
    "{0} is rounded to 8-bit floating point: {{}} is that of a {0} of 4 bits": lambda h: _rounded(
        h, torch.float8_e4m3fn
    ),
}
"""What a hyperparameter was replaced by; {0} is its name."""


def _rounded(number: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(number, dtype=torch.float64).to(dtype))


# Where a hyperparameter is written as a number, these are the usual ones: slopes, decay rates, eps of the libraries.
USUAL = (0, -1, 2, 0.5, 0.1, 0.2, 0.25, 0.3, 0.01, 5e-3, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)


def cotangents(found: Examination) -> Iterator[Explanation]:
    """Something else taken for dy."""
    for words, change in COTANGENTS.items():

        def predict(case: Case, change: Callable[[Tensor], Tensor] = change) -> Prediction:
            values, tolerance = found.at(case, dy=found.rule.each_dy(case, change))
            return Prediction((None, *values[1:]), tolerance)

        yield from found.matched(predict, f"{{}} {words}")

    for name in found.rule.cotangents:

        def without(case: Case, name: str = name) -> Prediction:
            values, tolerance = found.at(case, dy=found.rule.without_dy(case, name))
            return Prediction((None, *values[1:]), tolerance)

        yield from found.matched(without, f"{name} is ignored: {{}} is that of {name} = 0")

    def times_y(case: Case) -> Prediction:
        return Prediction((None, *found.at(case, dy=wide(case.dy) * found.value(case)).values[1:]))

    yield from found.matched(times_y, "{} is multiplied by y: it is that of the cotangent dy·y")


def seldom(found: Examination) -> Iterator[Explanation]:
    """An input rounded, clipped, or read in another order."""
    for position, name in enumerate(found.rule.inputs):
        for words, change in SELDOM.items() if found.rule.is_number(name) else ():
            predict = partial(_replaced, found, position, position, change)
            yield from found.matched(predict, words.format(name))


def inputs(found: Examination) -> Iterator[Explanation]:
    """An input ignored, replaced, or confused with another."""
    for position, name in enumerate(found.rule.inputs):
        if not found.rule.is_number(name):
            yield from _no_number(found, position, name)
            continue
        for words, change in INPUTS.items():
            predict = partial(_replaced, found, position, position, change)
            yield from found.matched(predict, words.format(name))
        for other, other_name in enumerate(found.rule.inputs):
            if other != position and found.rule.is_number(other_name):
                predict = partial(_replaced, found, position, other, torch.clone)
                yield from found.matched(predict, f"{{}} is that of {other_name} in place of {name}")


def _no_number(found: Examination, position: int, name: str) -> Iterator[Explanation]:
    """A mask ignored, inverted or read in another order; an index likewise."""
    for words, change in (MASKS if found.rule.is_mask(name) else INDICES).items():
        predict = partial(_replaced, found, position, position, change)
        yield from found.matched(predict, words.format(name))


def _replaced(
    found: Examination, position: int, source: int, change: Callable[[Tensor], Tensor], case: Case
) -> Prediction:
    inputs = list(case.inputs)
    inputs[position] = change(case.inputs[source])
    return found.at(case, inputs=tuple(inputs))


def default_hyperparameters(found: Examination) -> Iterator[Explanation]:
    """A hyperparameter left at its default, at the page's ordinary value, at 1 or at another of its choices."""
    for name in found.rule.hyper:
        tried = [given[name] for given in (found.rule.defaults, found.rule.ordinary) if name in given]
        others = [1] if found.rule.is_numeric(name) else choices(found.rule.rule.annotations[name])
        yield from _hyperparameter(found, name, [*tried, *others])


def usual_hyperparameters(found: Examination) -> Iterator[Explanation]:
    """A hyperparameter that is written as a number."""
    for name in filter(found.rule.is_numeric, found.rule.hyper):
        yield from _hyperparameter(found, name, USUAL)


def _hyperparameter(found: Examination, name: str, values: Any) -> Iterator[Explanation]:
    for value in dict.fromkeys(values):

        def predict(case: Case, value: Any = value) -> Prediction:
            return found.at(case, hyper={**case.hyper, name: value})

        said = "is ignored" if not found.failing else "is ignored in some cases"
        written = f"{value:g}" if type(value) in (int, float) else repr(value)
        yield from found.matched(predict, f"{name} {said}: {{}} is that of {name}={written}")


def changed_hyperparameters(found: Examination) -> Iterator[Explanation]:
    """A hyperparameter truncated, without its sign, cut off, inverted."""
    for name in filter(found.rule.is_numeric, found.rule.hyper):
        for words, change in HYPERPARAMETERS.items():

            def predict(case: Case, name: str = name, change: Callable[[float], float] = change) -> Prediction:
                given = {**found.rule.defaults, **case.hyper}
                return found.at(case, hyper={**case.hyper, name: change(given[name])})

            yield from found.matched(predict, words.format(name))


# --------------------------------------------------------------------------------------------------- other formulas


def at_the_output(found: Examination) -> Iterator[Explanation]:
    """An element-wise derivative taken at y."""
    if found.rule.elementwise:

        def predict(case: Case) -> Prediction:
            return Prediction((None, *found.at(case, inputs=(found.value(case), *case.inputs[1:])).values[1:]))

        yield from found.matched(predict, "{} is the derivative taken at y and not at x")


def neighbours(found: Examination) -> Iterator[Explanation]:
    """Another rule's formula; of rules with modes, that of the other mode."""
    for other in RULES.values():
        if other.chapter != found.rule.chapter or other.name == found.rule.name:
            continue
        form = Form(other, found.rule.inputs)
        if set(other.inputs) - other.absentable <= form.inputs.keys() and other.defaults.keys() >= set(other.hyper):
            yield from found.matched(partial(_neighbour, found, form), f"{{}} is the formula of {other.name}")


def _neighbour(found: Examination, other: Form, case: Case) -> Prediction:
    named = dict(zip(found.rule.inputs, case.inputs, strict=True))
    hyper = {n: v for n, v in case.hyper.items() if n in other.hyper}
    _, *grads = found.at(case, other, inputs=tuple(named[n] for n in other.inputs), hyper=hyper).values
    by_name = dict(zip(other.inputs, grads, strict=True))
    return Prediction((None, *(by_name.get(n) for n in found.rule.inputs)))
