"""Regularization: what keeps a network from fitting noise.

A network with more weights than examples can learn all of them by heart.  The course notes name four remedies that
show in the gradient; two more, early stopping and data augmentation, are a matter of training and have no page.

Penalties.  A term that grows with the weights is added to the cost.  Its gradient does not come through the network:
it is added to the weights' own.  With J₀ the cost of the examples

    J = J₀ + λ/(2n) Σ W²
    ∂J/∂W = ∂J₀/∂W + (λ/n) W

The factor is the trap: λ or λ/n, with ½ or without, are one function of another λ; to penalise the biases as well, or
to divide by the batch rather than by all examples, is another function.

Noise.  Dropout multiplies by a random mask.  The mask is an input here, so that the operation is a function that can
be differentiated and repeated; backward must use the mask of forward, and its scale.

Limits.  A constraint is a projection after each update, and where the network itself uses the projected weights it is
differentiated like any operation.
"""

AFTER = "normalization"
