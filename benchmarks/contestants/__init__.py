"""Whoever takes part: the hand-derived programs, and what a user would pick instead."""
