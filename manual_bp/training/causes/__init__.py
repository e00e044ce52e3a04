"""Causes: why a training step of somebody's is not what is due, as one change of the step that is made by hand.

Most wrong loops are the right loop with one change, and the right one is at hand.  What a step began with, what is due
of it and what was shown is a `moment`; each wrong step that people make (`hypotheses`, from the files wrong_*.py, and
`variants` of layers) is made once more from the same beginning, in float64, with the words for it.  It is the cause if
all that was shown lies within its rounding errors and is visibly not what is due (`explaining`); the first that is so
is said, so the likeliest and simplest come first.  A number that nobody declared is not guessed but read off what was
shown (`nearest`).

A wrong update is seldom told by one step: it is followed through every step that was seen (`following`), by the
moments that it leaves itself or by those that it was given, and has to explain them all (`seeking`).

Where nothing explains what was shown nothing is said: the verdict does not depend on the cause.
"""
