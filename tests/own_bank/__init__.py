"""Whole programs that people write around a backward, labelled before anything judged them: engines, dropouts that draw
their own masks, rules for stopping, and augmentation.

Each is right, or wrong with words of which the first sentence about it must hold one of each group.
"""
