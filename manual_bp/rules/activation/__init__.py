"""Activations: functions applied to each element, or along an axis.

Without them a chain of affine maps is one affine map.  An element-wise activation y = σ(x) has the simplest derivative
there is: y_i depends on x_i alone, so that the sum of the chain rule has one term,

    dx = dy ⊙ σ'(x)

and all that can go wrong is σ' itself.  Three things do.

Saturation.  Where σ is flat its derivative is small, and formulas read off the output, such as y (1 − y), are
differences of nearly equal numbers: right on paper, and without a single digit in floating point.  The pages write the
derivative so that no such difference is formed.  That it is small is the vanishing gradient, which is true and stays.

Kinks.  At the corner of a rectifier there is no derivative but an interval of slopes, any of which is right.  Each
page says which it takes; the oracle lets others be declared.

Branches.  Which branch x was on must be known in backward, and cannot always be seen from y.

Where numbers are coupled along an axis (maxout, softmax and its logarithm) there is no σ' for each element: a gradient
is routed to the winner, or every output takes part in every cotangent, and a projection appears that returns in the
chapter on normalization.
"""

AFTER = "linear"
