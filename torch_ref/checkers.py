"""Ready-made checkers: what people test a backward with today, each as a function of a program.

`checkers(rule, dtype)` are those that `manual_bp.oracle.audit` knows by name.  A program is called as a Vjp or through
its `apply` (see `manual_bp.oracle.audit.handed`); every checker looks at one ordinary case.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from manual_bp.inputs import Edge
from manual_bp.oracle.case import Case, in_dtype
from manual_bp.oracle.cases.drawing import draw
from manual_bp.outputs import parts
from manual_bp.rule import Rule

Checker = Callable[[Any], bool]

LOOSE = 1e-2
"""The tolerance that is typed in most often."""


def checkers(rule: Rule, dtype: torch.dtype, reference: Any) -> dict[str, Checker]:
    """By name: gradcheck (in float64, as it asks), its fast mode, assert_close at its defaults and at 1e-2 in `dtype`
    against a reference, and JAX's check_grads where jax is installed.

    reference: the Vjp that results are compared with; of a page without backward, a function of the inputs that gives
        values, as its programs are, of which only the two that compare have a meaning.
    """
    wide, case = ordinary(rule, torch.float64), ordinary(rule, dtype)
    found = {
        "assert_close": assert_close(rule, case, reference),
        "assert_close 1e-2": assert_close(rule, case, reference, rtol=LOOSE, atol=LOOSE),
    }
    if not rule.has_backward:
        return found
    found |= {"gradcheck": gradcheck(rule, wide), "gradcheck fast": gradcheck(rule, wide, fast=True)}
    if importlib.util.find_spec("jax") is not None:
        found["check_grads"] = check_grads(rule, case)
    return found


def ordinary(rule: Rule, dtype: torch.dtype) -> Case:
    """An ordinary case with small, distinct sizes, the same every time."""
    inputs, dy, hyper = draw(rule, Edge("ordinary"), torch.Generator().manual_seed(0))
    return in_dtype(Case(inputs, dy, hyper), dtype, "cpu")


def gradcheck(rule: Rule, case: Case, fast: bool = False) -> Checker:
    """torch.autograd.gradcheck with its defaults."""

    def checker(program: Any) -> bool:
        inputs = [
            None if x is None else x.detach().clone().requires_grad_(spec.cotangent)
            for x, spec in zip(case.inputs, rule.inputs.values(), strict=True)
        ]

        def function(*given: Tensor | None) -> Any:
            return program.apply(*given, **case.hyper)

        return torch.autograd.gradcheck(function, inputs, fast_mode=fast, raise_exception=False)  # type: ignore[arg-type]

    return checker


def assert_close(rule: Rule, case: Case, reference: Any, **tolerances: Any) -> Checker:
    """torch.testing.assert_close of every cotangent, or value of a page without backward, with the reference's in the
    same dtype; with the dtype's defaults if no tolerances are given."""
    given = (case.inputs, case.dy) if rule.has_backward else (case.inputs,)
    results = reference(*given, **case.hyper)
    due = results[1] if rule.has_backward else results

    def checker(program: Any) -> bool:
        try:
            for got, expected in pairs(rule, case, program, due):
                torch.testing.assert_close(got, expected, **tolerances)
        except AssertionError:
            return False
        return True

    return checker


def pairs(rule: Rule, case: Case, program: Any, due: Any) -> Iterator[tuple[Any, Tensor]]:
    """Each cotangent that a program gives, or value of a page without backward, with what is due."""
    if not rule.has_backward:
        values = zip(parts(program(case.inputs, **case.hyper)), parts(due), strict=True)
        yield from ((got, expected) for got, expected in values if expected is not None)
        return
    _, grads = program(case.inputs, case.dy, **case.hyper)
    for x, got, expected, spec in zip(case.inputs, grads, due, rule.inputs.values(), strict=True):
        if x is not None and spec.cotangent:
            yield got, torch.zeros_like(x) if expected is None else expected


def check_grads(rule: Rule, case: Case) -> Checker:
    """jax.test_util.check_grads with its defaults, in reverse mode and of the first order; in float32 unless jax has
    been told otherwise."""
    import jax
    import numpy as np
    from jax.test_util import check_grads as check

    differentiated = [
        i
        for i, (x, spec) in enumerate(zip(case.inputs, rule.inputs.values(), strict=True))
        if x is not None and spec.cotangent
    ]

    def with_inputs(arrays: Any) -> tuple[Tensor | None, ...]:
        inputs = list(case.inputs)
        for i, array in zip(differentiated, arrays, strict=True):
            inputs[i] = torch.from_numpy(np.array(array)).to(case.inputs[i].dtype)
        return tuple(inputs)

    def checker(program: Any) -> bool:
        arrays = [jax.numpy.asarray(case.inputs[i].float().numpy()) for i in differentiated]
        shapes = [jax.ShapeDtypeStruct(tuple(d.shape), np.float32) for d in parts(case.dy)]
        like = [jax.ShapeDtypeStruct(a.shape, np.float32) for a in arrays]

        def value(*given: Any) -> Any:
            y = rule.forward(*with_inputs(given), **case.hyper)[0]
            return [part.float().numpy() for part in parts(y)]

        def cotangents(given: Any, dys: Any) -> Any:
            tensors = [torch.from_numpy(np.array(d)).to(own.dtype) for d, own in zip(dys, parts(case.dy), strict=True)]
            dy = tuple(tensors) if isinstance(case.dy, tuple) else tensors[0]
            _, grads = program(with_inputs(given), dy, **case.hyper)
            return [grads[i].float().numpy() for i in differentiated]

        @jax.custom_vjp  # type: ignore[untyped-decorator]
        def function(*given: Any) -> Any:
            return jax.pure_callback(value, shapes, *given)

        def forward(*given: Any) -> Any:
            return function(*given), given

        def backward(given: Any, dys: Any) -> Any:
            return tuple(jax.pure_callback(cotangents, like, given, list(dys)))

        function.defvjp(forward, backward)
        try:
            check(function, arrays, order=1, modes=["rev"])
        except AssertionError:
            return False
        return True

    return checker
