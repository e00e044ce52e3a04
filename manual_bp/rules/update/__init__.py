"""One step of training beside the gradient: what becomes of parameters, statistics and scales.

Back-propagation ends with ∂J/∂W.  What is done with it is no derivative and has no backward: these pages are functions
from parameters, gradients and whatever is remembered from step to step, to the next parameters and what is remembered
next.  They are judged by their values alone.

The simplest is the course notes' step against the gradient,

    W ← W − lr ∂J/∂W

and the others remember something: a mean of past gradients, which carries on through noise (momentum), a mean of their
squares, by whose root each parameter's step is divided, or both.

    m ← β m + (1 − β) g
    m = (1 − β) Σ_i β^(t−i) g_i

Such a mean starts at 0 and is too small at first; whether and how that is corrected is one of the details in which
programs of one name differ.  So are where ε stands, whether a decay of the weights goes through the gradient or past
it, and what a step counts from.  Each page names its own choice and says who has another.

Statistics.  Running means and variances of normalization are remembered in the same way, though nothing descends.

Scales.  In 16 bits gradients are scaled up before backward and down before the step, and long ones are cut; a step
with a number that is not finite is left out.
"""

AFTER = "recurrent"
