"""Judging: what another engine shows of a training step, held against the step that is made by hand.

`judge` compares whole steps from the same state, tensor by tensor, and judges each hand-derived layer by itself, so
that it is known which side is wrong; `alone` judges what the other engine shows by what is due of its own tensors, and
asks `manual_bp.training.causes` why it is wrong.  What both speak of stands in `compared`, and what they note in
`disagreement`.
"""
