"""Practices around training, judged as operations are: when to stop, whether a run over-fits, changed images."""

from manual_bp.oracle.practice.comparison import PRACTICES, compare_practice, is_practice

__all__ = ["PRACTICES", "compare_practice", "is_practice"]
