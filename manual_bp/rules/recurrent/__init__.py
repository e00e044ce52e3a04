"""Recurrence: layers that go through a sequence step by step, and carry a state from one step to the next.

The step t reads x_t and the state that the step before it left, by weights that are the same at every step:

    h_t = f(x_t, h_(t−1), W)

Written out, a sequence is a network with a layer for each step, all of them with one W, and back-propagation through
time is what it is in any network, from the last step to the first:

    dh_(t−1) = dy_(t−1) + (∂f_t/∂h)ᵀ dh_t
    dW = Σ_t (∂f_t/∂W)ᵀ dh_t

Two sums are what is forgotten: every h_t is an output and goes on besides, so that two cotangents meet in it; and every
step reads W.

On its way from the last step to the first a gradient meets T factors ∂f_t/∂h.  Where these shrink, it vanishes, and
where they stretch, it explodes.  A gate makes the factor along one path a number between 0 and 1, which the network
itself chooses.
"""

AFTER = "convolution"
