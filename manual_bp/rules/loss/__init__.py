"""Costs: one number for a batch, at which back-propagation begins.

A cost turns what a network gives, and what it should give, into one number.  Its own cotangent dy is a number too, 1
where nothing follows; what comes out is the first δ of the network, in the course notes

    δ(L) = (a(L) − y) ⊙ σ'(z(L))

for the squared error behind an activation σ.

Means.  A cost over n examples is a sum or a mean of n costs.  The factor 1/n enters here, once, and with the first δ
it is in every cotangent further down: whoever divides by n again, at the gradient of a weight, divides twice.  What n
is differs from cost to cost (the batch, the elements, the rows that count, their weights), and with it the mistakes.

Fusion.  A cost of log-probabilities and the softmax or sigmoid before it are written as one operation.  Their
derivatives cancel to a difference between what was predicted and what was due, which is simpler than either; and where
the prediction is nearly certain, which is where training ends, the two apart have lost the digits that the fused form
keeps.

Targets, masks and class weights are constants on most pages and have no cotangent; where a target has one, it is that
of a number like any other.
"""

AFTER = "activation"
