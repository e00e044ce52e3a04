"""The labels of the checkers are true, and what must be refused is what it says."""

import copy

import pytest
import torch
from torch import Tensor

from tests.oracle.function_bank.checkers import CHECKERS, EVERY_KIND, Checker
from tests.oracle.function_bank.entry import Function, as_if_contiguous
from tests.oracle.function_bank.refused import REFUSED, Refused
from tests.oracle.function_bank.test_labels import drawn


def by_autograd(function: Function):
    """A right Vjp of the function."""

    @torch.enable_grad()
    def vjp(inputs, dy, **hyper):
        leaves = [x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x for x in inputs]
        y = function.forward(*leaves, **hyper)
        wanted = [x for x in leaves if isinstance(x, Tensor)]
        grads = iter(torch.autograd.grad(y, wanted, dy))
        return y.detach(), tuple(next(grads) if isinstance(x, Tensor) else None for x in leaves)

    return vjp


def changed(change):
    """A kind of mistake: every cotangent changed."""
    return lambda vjp: (
        lambda inputs, dy, **hyper: (lambda y, grads: (y, tuple(g if g is None else change(g.clone()) for g in grads)))(
            *vjp(inputs, dy, **hyper)
        )
    )


def one_element(grad: Tensor) -> Tensor:
    grad.view(-1)[-1] *= 1.5
    return grad


def past_1024_rows(grad: Tensor) -> Tensor:
    grad[1024:] = 0
    return grad


def stale(vjp):
    """From the second call on, the gradients of the calls before are added."""
    totals: list = []

    def program(inputs, dy, **hyper):
        y, grads = vjp(inputs, dy, **hyper)
        if totals and all(g is None or g.shape == t.shape for g, t in zip(grads, totals, strict=True)):
            grads = tuple(g if g is None else g + t for g, t in zip(grads, totals, strict=True))
        totals[:] = grads
        return y, copy.copy(grads)

    return program


def remembered(vjp):
    """The first answer for each set of shapes is given to every later question."""
    answers: dict = {}

    def program(inputs, dy, **hyper):
        shapes = tuple(x.shape for x in inputs if x is not None)
        if shapes not in answers:
            answers[shapes] = vjp(inputs, dy, **hyper)
        return answers[shapes]

    return program


def sixteen_bits(vjp):
    def program(inputs, dy, **hyper):
        low = tuple(x if x is None else x.bfloat16() for x in inputs)
        y, _ = vjp(inputs, dy, **hyper)
        _, grads = vjp(low, dy.bfloat16(), **hyper)
        return y, tuple(g if g is None else g.to(dy.dtype) for g in grads)

    return program


WRONG = {
    "zero": changed(lambda g: g * 0),
    "factor 1.001": changed(lambda g: g * 1.001),
    "factor 100": changed(lambda g: g * 100),
    "sign": changed(lambda g: -g),
    "too large": changed(lambda g: g + 1),
    "too small": changed(lambda g: g - 1),
    "nan": changed(lambda g: g * torch.nan),
    "missing dy": lambda vjp: lambda inputs, dy, **hyper: vjp(inputs, torch.ones_like(dy), **hyper),
    "one element": changed(one_element),
    "permuted": changed(lambda g: g.flip(-1)),
    "strided dy": lambda vjp: lambda inputs, dy, **hyper: vjp(inputs, as_if_contiguous(dy), **hyper),
    "stale": stale,
    "remembered": remembered,
    "past 1024 rows": changed(past_1024_rows),
    "sixteen bits": sixteen_bits,
}


def accepts(checker: Checker, vjp) -> bool:
    class Program(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return checker.against.forward(*inputs)

        @staticmethod
        def backward(ctx, dy):
            grads = vjp(ctx.saved_tensors, dy)[1]
            return grads if len(grads) > 1 else grads[0]

    try:
        verdict = checker.check(vjp if checker.takes == "vjp" else Program)
    except AssertionError:
        return False
    return verdict is None or bool(verdict)


def named(one: Checker | Refused) -> str:
    return one.name


@pytest.mark.parametrize("checker", CHECKERS, ids=named)
def test_a_checker_lets_pass_what_its_label_says(checker: Checker) -> None:
    right = by_autograd(checker.against)
    assert accepts(checker, right)
    passed = {kind for kind in WRONG if accepts(checker, WRONG[kind](right))}
    assert set(checker.lets_pass) <= passed, set(checker.lets_pass) - passed
    assert not set(checker.catches) & passed, set(checker.catches) & passed
    assert checker.cannot_fail == (passed >= set(EVERY_KIND))


def test_four_checkers_cannot_fail_and_one_refuses_right_programs() -> None:
    assert sum(checker.cannot_fail for checker in CHECKERS) == 4

    def softmax_another_order(inputs, dy):
        p = torch.exp(inputs[0] - inputs[0].logsumexp(-1, keepdim=True))
        return p, (p * dy - p * (p.flip(-1) * dy.flip(-1)).sum(-1, keepdim=True),)

    (strict,) = [checker for checker in CHECKERS if checker.refuses_right]
    assert not accepts(strict, softmax_another_order)


@pytest.mark.parametrize("refused", REFUSED, ids=named)
def test_what_must_be_refused_runs_as_plain_torch(refused: Refused) -> None:
    inputs = drawn(Function(refused.forward, refused.inputs), {}, torch.float32, 0)
    y = refused.forward(*inputs)
    assert isinstance(y, Tensor)
    assert y.isfinite().all()
