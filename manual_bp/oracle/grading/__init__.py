"""Grading: programs that nobody trusts, called in a process apart and judged where they cannot reach."""
