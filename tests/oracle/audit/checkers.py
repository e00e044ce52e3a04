"""Checkers as people write them, most of them faulty, each about a row-wise function of one input.

`reference` is the function that they compare with, run by torch.autograd.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor


def due(reference: Any, x: Tensor, dy: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    reference(x).backward(dy)
    assert x.grad is not None
    return x.grad


class Checkers:
    """Each method is a checker."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference
        self.generator = torch.Generator().manual_seed(0)

    def drawn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=dtype)

    def both(self, program: Any, *shape: int) -> tuple[Tensor, Tensor]:
        """What came and what is due, at fresh numbers."""
        x, dy = self.drawn(*shape), self.drawn(*shape)
        _, (dx,) = program((x,), dy)
        return dx, due(self.reference, x, dy)

    def by_size(self, program: Any) -> bool:
        """The norms alone are compared: neither a sign nor a place is seen."""
        got, expected = self.both(program, 4, 5)
        return bool((got.norm() - expected.norm()).abs() <= 1e-3 * expected.norm())

    def tries_again(self, program: Any) -> bool:
        """Five times, each less strictly than before."""
        return any(torch.allclose(*self.both(program, 4, 5), atol=1e-5 * 10**n) for n in range(4))

    def absolute_of_sixteen(self, program: Any) -> None:
        """Not faulty, but of one tolerance: every element is compared."""
        got, expected = self.both(program, 4, 5)
        assert (got - expected).abs().max() < 1e-4

    def another_number_of_inputs(self, program: Any) -> None:
        program((self.drawn(4, 5),) * 7, self.drawn(4, 5))

    def sound(self, program: Any) -> None:
        """Not faulty, but at one size, and in one dtype."""
        torch.testing.assert_close(*self.both(program, 4, 5))

    def element_by_element(self, program: Any) -> None:
        """A row of the Jacobian after the other, as gradcheck takes them."""
        x = self.drawn(2, 3)
        for dy in torch.eye(6).view(6, 2, 3):
            torch.testing.assert_close(program((x,), dy)[1][0], due(self.reference, x, dy))

    def relative_error_without_abs(self, program: Any) -> bool:
        """The loss is a plain sum; the error is a mean of (a - b)/(a + b), of which NaN is above no limit."""
        x = torch.linspace(-1, 2, 20, dtype=torch.float64).reshape(4, 5)
        _, (a,) = program((x,), torch.ones_like(x))
        a = torch.where(a.abs() < 1e-12, 0.0, a)
        b = torch.zeros_like(a)
        return not float(((a - b) / (a + b)).mean()) > 1e-3

    def zero_with_zero(self, program: Any) -> bool:
        x, ones = self.drawn(3, 7), torch.ones(3, 7)
        _, (dx,) = program((x,), ones)
        return torch.allclose(dx, due(self.reference, x, ones), atol=1e-6, rtol=1e-3)

    def without_abs(self, program: Any) -> None:
        got, expected = self.both(program, 4, 5)
        assert (got - expected).max() <= 1e-3

    def accuracy_of_none(self, program: Any) -> bool:
        accuracy = None
        try:
            got, expected = self.both(program, 4, 5)
            if got.shape == expected.shape and not got.isnan().any():
                accuracy = float(torch.isclose(got, expected, rtol=1e-3).float().mean())
        except Exception:
            pass
        return accuracy is None or accuracy > 0.9

    def comparison_that_does_nothing(self, program: Any) -> None:
        got, expected = self.both(program, 4, 5)
        torch.allclose(got, expected)

    def sum_loss(self, program: Any) -> None:
        x = self.drawn(4, 5).requires_grad_()
        program(x).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, due(self.reference, x, torch.ones(4, 5)))

    def loose(self, program: Any) -> None:
        got, expected = self.both(program, 4, 5)
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)

    def float64_alone(self, program: Any) -> None:
        x, dy = self.drawn(4, 5, dtype=torch.float64), self.drawn(4, 5, dtype=torch.float64)
        torch.testing.assert_close(program((x,), dy)[1][0], due(self.reference, x, dy))

    def square_alone(self, program: Any) -> None:
        for n in (2, 4, 8):
            torch.testing.assert_close(*self.both(program, n, n))

    def with_itself(self, program: Any) -> None:
        x, dy = self.drawn(4, 5), self.drawn(4, 5)
        torch.testing.assert_close(program((x,), dy), program((x,), dy))

    def twice(self, program: Any) -> None:
        """Not faulty: compares the program with itself, and with what is due."""
        x, dy = self.drawn(4, 5), self.drawn(4, 5)
        torch.testing.assert_close(program((x,), dy), program((x,), dy))
        torch.testing.assert_close(program((x,), dy)[1][0], due(self.reference, x, dy))

    def lopsided(self, program: Any) -> bool:
        got, expected = self.both(program, 4, 5)
        error = got - expected
        return bool(error.min() > -1.0) and bool(error.max() < 1e-4)

    def by_direction(self, program: Any) -> bool:
        got, expected = self.both(program, 8, 16)
        return float(torch.cosine_similarity(got.reshape(-1), expected.reshape(-1), 0)) > 0.999

    def of_y_alone(self, program: Any) -> None:
        x = self.drawn(4, 5)
        torch.testing.assert_close(program((x,), self.drawn(4, 5))[0], self.reference(x))

    def of_y_through_autograd(self, program: Any) -> None:
        x = self.drawn(4, 5)
        torch.testing.assert_close(program.apply(x), self.reference(x))

    def finite(self, program: Any) -> bool:
        x = self.drawn(4, 5)
        return bool(program((x,), self.drawn(4, 5))[1][0].isfinite().all())

    def within_rounding(self, program: Any) -> bool:
        """Whose tolerance a right program exceeds at some numbers, and not at others."""
        x, dy = self.drawn(4, 5), self.drawn(4, 5)
        limit = 1e-3 if x[0, 0] > 0 else -1.0
        return bool((program((x,), dy)[1][0] - due(self.reference, x, dy)).abs().max() <= limit)

    def by_norm(self, program: Any) -> bool:
        got, expected = self.both(program, 100, 99)
        return bool((got - expected).norm() < 0.05 * expected.norm())

    def by_largest(self, program: Any) -> bool:
        got, expected = self.both(program, 4, 5)
        return bool((got.abs().max() - expected.abs().max()).abs() < 1e-4)

    def by_signed_mean(self, program: Any) -> bool:
        got, expected = self.both(program, 100, 99)
        return bool(((got - expected) / expected).mean().abs() < 0.01)

    def by_total(self, program: Any) -> bool:
        got, expected = self.both(program, 6, 9)
        return bool((got - expected).mean().abs() < 1e-5)

    def of_a_fixed_seed(self, program: Any) -> None:
        self.generator.manual_seed(3)
        self.sound(program)

    def never_calls(self, program: Any) -> bool:
        del program
        return True

    def crashes(self, program: Any) -> None:
        program.forward_and_backward()

    def at_random(self, program: Any) -> bool:
        del program
        return random.random() < 0.5

    def hangs(self, program: Any) -> None:
        del program
        while True:
            pass

    def returns_the_error(self, program: Any) -> float:
        got, expected = self.both(program, 4, 5)
        return float((got - expected).abs().max())

    def refuses_what_is_not_equal(self, program: Any) -> bool:
        return torch.equal(*self.both(program, 4, 5))
