"""Comparison in tests: no tolerance is typed in; the running-error bound of the computation says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from manual_bp.arithmetic.bounded import Bounded, contract_of, enter


def assert_agrees(
    run: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], expected: Sequence[Tensor], name: str = ""
) -> None:
    """`run(*tensors)` is `expected`, up to what rounding may do on either side."""
    got = run(*tensors)
    bounded = run(*(enter(t, contract_of(t.dtype)) for t in tensors))
    assert len(got) == len(bounded) == len(expected)
    for position, (ours, width, theirs) in enumerate(zip(got, bounded, expected, strict=True)):
        assert isinstance(width, Bounded)
        assert ours.shape == theirs.shape
        beyond = (ours - theirs).abs() > 2 * width.error
        assert not beyond.any(), f"{name} result {position}: {ours[beyond]} is not {theirs[beyond]}"
