"""Comparison in tests: no tolerance is typed in; the running-error bound of the computation says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, contract_of, enter
from manual_bp.arithmetic.bounded_table import gamma, precision

MOST_ROWS = 100
"""More than any batch of these tests."""


def assert_agrees(
    run: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], expected: Sequence[Tensor], name: str = ""
) -> None:
    """`run(*tensors)` is `expected`, up to what rounding may do on either side."""
    got = run(*tensors)
    bounded = run(*(enter(t, contract_of(t.dtype)) for t in tensors))
    assert len(got) == len(bounded) == len(expected)
    for position, (ours, width, theirs) in enumerate(zip(got, bounded, expected, strict=True)):
        assert ours.shape == theirs.shape
        # What depends on none of the tensors (the slope of a linear cost) adds up the same numbers in another order.
        error = (
            width.error if isinstance(width, Bounded) else gamma(MOST_ROWS, precision(ours.dtype).u) * ours.abs().max()
        )
        beyond = (ours - theirs).abs() > 2 * error
        assert not beyond.any(), f"{name} result {position}: {ours[beyond]} is not {theirs[beyond]}"
