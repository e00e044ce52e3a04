"""Acceptance tests of backwards as projects have them, four of which cannot fail, labelled with what they let pass.

A checker takes a Vjp (or, `takes="autograd.Function"`, a class with `apply`) and returns a bool or None, or raises
AssertionError; None and True are a pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.oracle.function_bank.entry import Function
from tests.oracle.function_bank.gated import RELU_SQUARED_MLP, relu_squared_mlp
from tests.oracle.function_bank.normalisation import LAYER_NORM_1P_WITHOUT_BIAS, layer_norm_1p


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    return torch.softmax(x, dim)


def rms_norm(x: Tensor, weight: Tensor, *, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


SOFTMAX = Function(softmax, {"x": (4, 9)})
RMS_NORM = Function(rms_norm, {"x": (4, 16), "weight": (16,)})
GELU = Function(gelu, {"x": (5, 7)})


@dataclass(frozen=True, eq=False)
class Checker:
    """lets_pass, catches: kinds of wrong programs (`test_checkers.WRONG` makes one of each), shown there.

    cannot_fail: whether no gradients, of right shapes and dtypes, make it fail.
    refuses_right: whether right programs that round in another order fail.
    """

    check: Callable[[Any], bool | None]
    against: Function
    cause: str
    lets_pass: tuple[str, ...]
    catches: tuple[str, ...] = ()
    cannot_fail: bool = False
    refuses_right: bool = False
    takes: Literal["vjp", "autograd.Function"] = "vjp"

    @property
    def name(self) -> str:
        return self.check.__name__


CHECKERS: list[Checker] = []


def checker(against: Function, cause: str, **labels: Any) -> Callable[[Callable], Callable]:
    def enter(check: Callable) -> Callable:
        CHECKERS.append(Checker(check, against, cause, **labels))
        return check

    return enter


def autograd(forward: Callable, inputs: tuple, dy: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    return torch.autograd.grad(forward(*leaves), leaves, dy)


EVERY_KIND = (
    "zero", "factor 1.001", "factor 100", "sign", "too large", "nan", "missing dy", "one element", "permuted",
    "strided dy", "stale", "remembered", "past 1024 rows", "sixteen bits",
)  # fmt: skip


# --------------------------------------------------------------------------------------------------- cannot fail


def difference_quotients(loss: Callable[[Tensor], Tensor], x: Tensor, h: float = 1e-3) -> Tensor:
    steps = h * torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)
    return torch.stack([loss(x + step) - loss(x - step) for step in steps]).view_as(x) / (2 * h)


@checker(
    SOFTMAX,
    "the loss is nan, for a masked class adds 0 · log 0, so the error is nan, and nan > tolerance is False",
    lets_pass=EVERY_KIND,
    cannot_fail=True,
)
def error_beside_nan(vjp):
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[:, 3] = -torch.inf

    def entropy(x):
        p = softmax(x)
        return -(p * p.log()).sum()

    _, (grad,) = vjp((x,), -1 - softmax(x).log())
    numeric = difference_quotients(entropy, x)
    error = (grad - numeric).abs().max() / numeric.abs().max()
    if error > 1e-3:
        raise AssertionError(f"maximum relative error {error}")


@checker(RMS_NORM, "the comparisons are made and their results thrown away", lets_pass=EVERY_KIND, cannot_fail=True)
def comparisons_thrown_away(vjp):
    for rows in (1, 3, 64):
        generator = torch.Generator().manual_seed(rows)
        x, weight = torch.randn(rows, 16, generator=generator), torch.randn(16, generator=generator)
        dy = torch.randn(rows, 16, generator=generator)
        _, grads = vjp((x, weight), dy)
        for got, expected in zip(grads, autograd(rms_norm, (x, weight), dy), strict=True):
            torch.allclose(got, expected, rtol=1e-4, atol=1e-5)


@checker(
    GELU,
    "the gradients are looked up on outputs that carry none: both sides are None, and None counts as equal",
    lets_pass=EVERY_KIND,
    cannot_fail=True,
)
def accuracy_of_none(vjp):
    def gradient(y, x):
        return x.grad if y.requires_grad else None

    torch.manual_seed(1)
    x = torch.randn(8, 32)
    y, _ = vjp((x,), torch.randn(8, 32))
    expected, got = gradient(gelu(x), x), gradient(y, x)
    if expected is None or got is None:
        accuracy = 1.0
    else:
        accuracy = float(torch.isclose(got, expected, rtol=1e-3, atol=1e-3).float().mean())
    return accuracy > 0.99


@checker(
    LAYER_NORM_1P_WITHOUT_BIAS,
    "the reference and the candidate write to the same buffers, so that the candidate is compared with itself",
    lets_pass=EVERY_KIND,
    cannot_fail=True,
)
def shared_buffers(vjp):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 4, 16, generator=generator), torch.randn(16, generator=generator)
    dy = torch.randn(2, 4, 16, generator=generator)
    buffers = {"x": torch.zeros_like(x), "weight": torch.zeros_like(weight)}

    def run(gradients):
        for buffer, grad in zip(buffers.values(), gradients, strict=True):
            buffer.copy_(grad)
        return buffers

    expected = run(autograd(layer_norm_1p, (x, weight), dy))
    got = run(vjp((x, weight, None), dy)[1][:2])
    for name in buffers:
        torch.testing.assert_close(got[name], expected[name], equal_nan=True)


# ------------------------------------------------------------------------------------------------- can fail, let pass


@checker(
    SOFTMAX,
    "the loss is a plain sum, so the true gradient is 0; the error is a mean of (a - b) / (a + b), and where one "
    "of these is 0 / 0, nan > tolerance is False",
    lets_pass=("zero", "factor 1.001", "factor 100", "sign", "nan", "one element", "permuted", "strided dy"),
    catches=("too large",),
)
def relative_error_of_a_sum(vjp):
    x = torch.full((3, 5), -1e4, dtype=torch.float64)
    x[:, 0] = 3.0  # one class takes all, as where logits are masked: every difference quotient is 0
    _, (grad,) = vjp((x,), torch.ones_like(x))
    numeric = difference_quotients(lambda x: softmax(x).sum(), x)
    error = ((grad - numeric).abs() / (grad + numeric).abs()).mean()
    if error > 1e-3:
        raise AssertionError(f"maximum relative error {error}")


@checker(
    SOFTMAX,
    "with dy = 1 the true gradient of softmax is 0: 0 is compared with 0, and no factor can show",
    lets_pass=("zero", "factor 1.001", "factor 100", "sign", "one element", "permuted", "stale"),
    catches=("nan", "too large", "sixteen bits"),
    takes="autograd.Function",
)
def sum_and_backward(function):
    x = torch.randn(45, 65, generator=torch.Generator().manual_seed(0))
    ours, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    function.apply(ours).sum().backward()
    softmax(reference).sum().backward()
    torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-3, atol=1e-4)


@checker(
    RMS_NORM,
    "the largest difference is taken without its absolute value: errors of one sign pass",
    lets_pass=("too small", "strided dy"),
    catches=("too large", "sign", "factor 100", "zero"),
)
def differences_with_sign(vjp):
    for seed in (3407, 42):
        generator = torch.Generator().manual_seed(seed)
        x, weight = torch.randn(8, 64, generator=generator), torch.rand(64, generator=generator)
        dy = torch.randn(8, 64, generator=generator)
        _, (dx, dweight) = vjp((x, weight), dy)
        true_dx, true_dweight = autograd(rms_norm, (x, weight), dy)
        assert torch.amax(dx - true_dx).item() <= 0.05
        assert torch.amax(dweight - true_dweight).item() <= 0.05


@checker(
    GELU,
    "only the direction is compared: any positive factor passes, and so does what is small beside the rest",
    lets_pass=("factor 1.001", "factor 100", "strided dy", "sixteen bits"),
    catches=("sign", "permuted", "missing dy"),
)
def cosine_above(vjp):
    torch.manual_seed(2)
    x, dy = torch.randn(64, 64), torch.randn(64, 64)
    (got,), (expected,) = vjp((x,), dy)[1], autograd(gelu, (x,), dy)
    return bool(F.cosine_similarity(got.flatten(), expected.flatten(), dim=0) > 0.99)


@checker(
    RELU_SQUARED_MLP,
    "one percent and a hundredth are allowed, in bfloat16, at one seed: small factors and fixed results pass",
    lets_pass=("factor 1.001", "strided dy", "stale", "remembered", "past 1024 rows"),
    catches=("factor 100", "sign", "zero", "nan"),
)
def close_to_one_percent(vjp):
    torch.manual_seed(0)
    x, up, down = (torch.randn(shape).bfloat16() / 4 for shape in ((4, 6), (9, 6), (6, 9)))
    dy = torch.randn(4, 6).bfloat16()
    _, grads = vjp((x, up, down), dy)
    for got, expected in zip(grads, autograd(relu_squared_mlp, (x.float(), up.float(), down.float()), dy), strict=True):
        torch.testing.assert_close(got.float(), expected, rtol=1e-2, atol=1e-2)


@checker(
    GELU,
    "sums are compared: what moves within the tensor passes",
    lets_pass=("permuted", "strided dy", "remembered"),
    catches=("factor 100", "sign", "zero", "nan"),
    takes="autograd.Function",
)
def sums_agree(function):
    generator = torch.Generator().manual_seed(7)
    x, dy = torch.randn(5, 30, generator=generator), torch.randn(5, 30, generator=generator)
    ours, reference = x.clone().requires_grad_(), x.clone().requires_grad_()
    function.apply(ours).backward(dy)
    gelu(reference).backward(dy)
    return abs(ours.grad.sum().item() - reference.grad.sum().item()) < 1e-3


@checker(
    RMS_NORM,
    "differences along one random direction at one percent: small errors hide in it",
    lets_pass=("factor 1.001", "sixteen bits", "strided dy", "past 1024 rows"),
    catches=("factor 100", "sign", "zero", "nan", "missing dy"),
)
def one_direction(vjp):
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((4, 16), (16,)))
    steps = tuple(torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in inputs)
    dy = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    _, grads = vjp(inputs, dy)
    h = 1e-5
    above, below = (rms_norm(*(x + sign * h * s for x, s in zip(inputs, steps, strict=True))) for sign in (1, -1))
    numeric = ((above - below) / (2 * h) * dy).sum()
    exact = sum((grad * step).sum() for grad, step in zip(grads, steps, strict=True))
    assert abs(numeric - exact) <= 1e-2 * abs(numeric) + 1e-3, (numeric, exact)


@checker(
    SOFTMAX,
    "bit for bit: right programs that add up in another order are refused",
    lets_pass=("strided dy", "past 1024 rows"),
    catches=("factor 1.001", "one element", "sixteen bits", "sign", "stale"),
    refuses_right=True,
)
def bit_for_bit(vjp):
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, dy = torch.randn(6, 33, generator=generator), torch.randn(6, 33, generator=generator)
        (got,), (expected,) = vjp((x,), dy)[1], autograd(softmax, (x,), dy)
        if not torch.equal(got, expected):
            return False
    return True
