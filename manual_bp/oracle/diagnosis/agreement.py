"""Agreement: whether a predicted tensor is what a candidate returned, and whether it is visibly not the right one."""

from __future__ import annotations

import torch
from torch import Tensor

from manual_bp.oracle.diagnosis.hypothesis import Sample

# A prediction is told from the right answer where they are so many tolerances apart.
APART = 4
# At moderate numbers a wrong hypothesis is mostly off by more than this share of its largest number, a right one never.
FAR = 0.1
# And nothing that is smaller overflows: the square of it is a number of float16.
NO_OVERFLOW = 255.0


def is_far(sample: Sample | None, value: Tensor | None, slack: float) -> bool:
    """Whether they differ by more than any rounding, at moderate numbers; most hypotheses do.

    slack: what roundings may add, relative to the largest number, to a hypothesis that is no other than what is right.
    """
    if sample is None or value is None or sample.got.shape != value.shape or not value.numel():
        return sample is not None and value is not None and sample.got.shape != value.shape
    if sample.judged.shape != value.shape:
        return False
    value = value.double()
    largest = value.abs().nan_to_num(0, 0, 0).max()
    judged = sample.judged & value.isfinite()
    error = (value - sample.got).abs()
    off = error > FAR * largest + APART**2 * sample.allowance
    off |= ~sample.got.isfinite() & (value.abs() < NO_OVERFLOW)
    if bool((off & judged).any()):
        return True
    is_right = bool(((value - sample.expected).abs() <= sample.allowance)[judged].all())
    return is_right and bool((error > APART**2 * (sample.allowance + slack * largest))[judged].any())


def is_settled(sample: Sample | None, value: Tensor | None) -> bool:
    """Whether a prediction is what was returned, and what is right, so closely that its tolerance does not matter: that
    takes longest to find."""
    if sample is None or value is None:
        return sample is None or sample.error <= 1
    if not value.shape == sample.got.shape == sample.expected.shape:
        return False
    close = (value - sample.got).abs().maximum((value - sample.expected).abs()) <= sample.allowance
    return bool((close | ~sample.judged).all())


def agrees(
    sample: Sample, value: Tensor, tolerance: Tensor | None, slack: float, loosely: bool, dtype: torch.dtype
) -> tuple[bool, bool]:
    """Whether the candidate returned this value, and whether it is visibly not the right one.

    A value that is not finite never counts as a match.  slack: what roundings may add, relative to the largest number;
    loosely: to a tolerance that was derived, too.
    """
    value = value.double()
    loose = slack * value.abs().nan_to_num(0, 0, 0).max() if value.numel() else 0
    if value.shape != sample.expected.shape:
        same = value.shape == sample.got.shape and bool(value.isfinite().all())
        return same and bool(((value - sample.got).abs() <= loose).all()), bool(value.numel())
    if tolerance is None or tolerance.shape != value.shape:
        tolerance = 4 * sample.allowance + loose
    elif loosely:
        tolerance = tolerance + loose
    judged = sample.judged & value.to(dtype).isfinite() & tolerance.isfinite()
    visible = ((value - sample.expected).abs() > APART * (tolerance + sample.allowance))[judged]
    if sample.got.shape != value.shape:
        return False, bool(visible.any())
    close = (value - sample.got).abs() <= tolerance + 2 * torch.finfo(dtype).eps * value.abs()
    return bool(close[judged].all()), bool(visible.any())
