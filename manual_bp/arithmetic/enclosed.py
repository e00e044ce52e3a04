"""Real numbers, each enclosed in a ball, in the shape of a tensor; and how far a floating-point number is from one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manual_bp.arithmetic.jets import arb
from manual_bp.signature import DTYPES

from flint import ctx  # isort: skip  (after jets, whose message says how to install it)

GOOD_BITS = 100
"""A ball is narrow whose radius is below 2^−100 of its number."""

NEGLIGIBLE = arb(2) ** (-1074 - GOOD_BITS)
"""And so is one that lies, radius and all, that far below the smallest subnormal of float64."""


@dataclass(frozen=True)
class Balls:
    """Real numbers in the shape of a tensor, each enclosed in a ball; None where there is no number.

    That is: where no derivative exists (a kink or tie, a pole), where none can be certified (two branches that meet
    smoothly, but whose slopes agree only up to rounding), or where forward itself is undefined (0/0).
    """

    shape: torch.Size
    balls: tuple[arb | None, ...]
    bits: int
    """The precision in which they were found."""

    def midpoint(self) -> Tensor:
        """The numbers rounded to float64; nan where there is none."""
        return self._tensor(lambda ball: float(ball.mid()))

    def radius(self) -> Tensor:
        """The radius of each ball, rounded up to float64; nan where there is none."""
        return self._tensor(lambda ball: math.nextafter(float(ball.rad()), math.inf) if ball.rad() > 0 else 0.0)

    def ulps(self, got: Tensor) -> Tensor:
        """The error of `got` (float64, float32, float16 or bfloat16, of this shape) in units in its last place at the
        true value.

        That unit is 2^(floor(log2 |truth|) − p + 1) with p bits of precision, and never below the smallest subnormal.
        float64 of this shape; inf where `got` is inf or nan, nan where there is no number.  Raises ValueError for
        another shape or dtype.
        """
        check_candidate("got", got, self.shape)
        with ctx.workprec(self.bits + 64):
            errors = [
                math.nan if ball is None else _ulps(ball, value, got.dtype)
                for ball, value in zip(self.balls, got.flatten().tolist(), strict=True)
            ]
        return torch.tensor(errors, dtype=torch.float64).reshape(self.shape)

    def errors(self, got: Tensor) -> Tensor:
        """How far `got` (as for `ulps`) is from the numbers, absolutely, rounded up; nan where there is none."""
        check_candidate("got", got, self.shape)
        with ctx.workprec(self.bits + 64):
            errors = [
                math.nan if ball is None or not math.isfinite(value) else float(abs(arb(value) - ball).upper())
                for ball, value in zip(self.balls, got.flatten().tolist(), strict=True)
            ]
        return torch.tensor(errors, dtype=torch.float64).reshape(self.shape)

    def _tensor(self, number: Callable[[arb], float]) -> Tensor:
        numbers = [math.nan if ball is None else number(ball) for ball in self.balls]
        return torch.tensor(numbers, dtype=torch.float64).reshape(self.shape)


def check_candidate(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != tuple(shape):
        came = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a tensor of shape {tuple(shape)}; came {came}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} must be float64, float32, bfloat16 or float16; came {tensor.dtype}")


def unit(number: arb, dtype: torch.dtype) -> arb:
    """The unit in the last place of `dtype` at a number."""
    info = torch.finfo(dtype)
    smallest_normal, last_place = round(math.log2(info.smallest_normal)), round(math.log2(info.eps))
    mantissa, exponent = (int(part) for part in number.mid().man_exp()) if number.is_finite() else (0, 0)
    leading = exponent + mantissa.bit_length() - 1 if mantissa else smallest_normal
    return arb(2) ** (max(leading, smallest_normal) + last_place)


def _ulps(truth: arb, got: float, dtype: torch.dtype) -> float:
    if not math.isfinite(got):
        return math.inf
    return float(abs(arb(got) - truth).upper() / unit(truth, dtype))


def number(ball: arb) -> arb | None:
    return ball if ball.is_finite() else None


def is_narrow(ball: arb | None) -> bool:
    return ball is None or ball.rel_accuracy_bits() >= GOOD_BITS or abs(ball) < NEGLIGIBLE
