"""Programs that are right for small sizes and ordinary numbers, and wrong beyond: each is rejected by one check.

Every program is a rule with a defect that its annotations allow; no rule is named.
"""

from __future__ import annotations


from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import manual_bp as bp
from manual_bp import axes
from manual_bp.arithmetic.bounded import contract_of
from manual_bp.oracle.cases import Sized
from manual_bp.oracle.comparison import _Comparison
from manual_bp.oracle.conventions import Conventions
from manual_bp.oracle.evidence import generated_evidence

# What adds up in float32 and stores in 16 bits has the widest allowance.
DTYPE = torch.bfloat16
LIMITS = (1024, 4096, 65_536)
BLOCKS = (8, 32, 1024)


def noticed(candidate, rule, dtype=DTYPE, shows=lambda case: True) -> bool:
    """Whether a check rejects a candidate.  shows: at which cases it may; at all others it is right."""
    comparison = _Comparison(candidate, rule, dtype, "cpu", contract_of(dtype), Conventions(), strict=True, kinds=False)
    evidence = generated_evidence(rule, dtype, "cpu", contract_of(dtype))
    for position, case in enumerate(evidence.cases):
        if shows(case):
            comparison.judge_case(evidence.at(position))
        if comparison.report.mismatches:
            return True
    return False


def dims(rule, name: str, tensor: Tensor) -> dict[str, int]:
    """The dimension that an axis is of an argument, by name; a list of axes only if it is one."""
    tokens = axes.tokens(rule.y_annotation if name == "y" else rule.annotations[name])
    several = tensor.ndim - len(tokens) + 1
    found, position = {}, 0
    for token in tokens:
        length = several if token.startswith("*") else 1
        if length == 1 and len(axes.factors(token)) == 1:
            found[axes.factors(token)[0]] = position
        position += length
    return found


def results(rule, inputs, dy, hyper):
    """What a rule returns, by name."""
    y, grads = rule.vjp(inputs, dy, **hyper)
    return dict(zip(("y", *rule.inputs), (y, *grads), strict=True))


def vjp_of(rule, change: Callable[..., dict[str, Tensor | None]]):
    """The rule, with its results changed."""

    def candidate(inputs, dy, **hyper):
        found = change(results(rule, inputs, dy, hyper), inputs, dy, hyper)
        y, *grads = found.values()
        return y, tuple(grads)

    return candidate


def length_of(rule, axis, inputs, dy):
    named = zip((*rule.inputs, "y"), (*inputs, dy), strict=True)
    return next((x.shape[at[axis]] for name, x in named if axis in (at := dims(rule, name, x))), 0)


def summed_over(rule, axis: str) -> list[str]:
    """The results that lack an axis, and so are sums or the like over it."""
    wanted = ["y", *(name for name, spec in rule.inputs.items() if spec.cotangent)]
    annotations = {"y": rule.y_annotation, **rule.annotations}
    lacking = [n for n in wanted if axis not in {f for t in axes.tokens(annotations[n]) for f in axes.factors(t)}]
    return lacking if any(n != "y" for n in lacking) or rule.y_annotation.dim_str == "" else []


def shortened(rule, axis: str, too_long: Callable[[int], int]):
    """What is added up over an axis is added up over the beginning of it alone."""

    def change(found, inputs, dy, hyper):
        length = length_of(rule, axis, inputs, dy)
        kept = too_long(length)
        if kept == length:
            return found

        def cut(name, x):
            at = dims(rule, name, x)
            return x.narrow(at[axis], 0, kept) if axis in at else x

        part = results(rule, tuple(cut(n, x) for n, x in zip(rule.inputs, inputs, strict=True)), cut("y", dy), hyper)
        return {n: part[n] if n in summed_over(rule, axis) else x for n, x in found.items()}

    return vjp_of(rule, change)


def unfinished(rule, axis: str, too_long: Callable[[int], int]):
    """What runs along an axis is 0 at its end."""

    def change(found, inputs, dy, hyper):
        length = length_of(rule, axis, inputs, dy)
        kept = too_long(length)

        def end(name, x):
            at = dims(rule, name, x) if x is not None else {}
            if axis in at and kept < length:
                x = x.clone()
                x.narrow(at[axis], kept, length - kept).zero_()
            return x

        return {n: end(n, x) for n, x in found.items()}

    return vjp_of(rule, change)


def limit(at: int) -> Callable[[int], int]:
    return lambda length: min(length, at)


def remainder(block: int, rest: int) -> Callable[[int], int]:
    """One number is lost where so much is left beyond the last block."""
    return lambda length: length - 1 if length % block == rest and length >= block - 1 else length


TOO_LONG = {
    **{f"beyond {at}": limit(at) for at in LIMITS},
    **{f"n % {k} = {r % k}": remainder(k, r % k) for k in BLOCKS for r in (0, 1, -1)},
}
AXES = [(name, axis) for name, rule in bp.RULES.items() for axis in rule.axis_names]


@pytest.mark.parametrize(("name", "axis"), AXES)
def test_sums_and_loops_that_stop_early(name, axis):
    rule = bp.RULES[name]
    passed = []
    for words, too_long in TOO_LONG.items():
        for make in (shortened, unfinished):

            def shows(case, too_long=too_long):
                length = length_of(rule, axis, case.inputs, case.dy)
                return isinstance(case, Sized) and too_long(length) < length

            if make is shortened and not summed_over(rule, axis):
                continue
            if not noticed(make(rule, axis, too_long), rule, shows=shows):
                passed.append(f"{make.__name__} {words}")
    assert not passed
