"""Candidates that draw their own mask: it is read off y, and judged as numbers and as chance."""

from manual_bp.oracle.own_masks.comparison import compare_own_mask, with_the_other

__all__ = ["compare_own_mask", "with_the_other"]
