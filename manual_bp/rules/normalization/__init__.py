"""Normalization: by statistics of the batch, or of each row.

Numbers are brought to mean 0 and spread 1, then scaled and shifted by parameters.  The statistics are functions of the
numbers that they normalise, and that is what these pages are about: x_i reaches its own x̂_i, and through μ and s
every other one of its group.

    x̂_i = (x_i − μ) s
    dx = s (g − mean(g) − x̂ mean(g x̂))
            own  mean    projection

The first term is what is left when the statistics are taken for constants.  The two others take away from g its mean,
and its part along x̂: a group whose numbers are all shifted, or all scaled, has the same x̂, so no gradient may point
in these two directions.  Whatever forgets a term violates one of them, which can be checked without a reference: the
sum of dx over a group, and of dx x̂, is 0 (but for ε).

The pages differ in what a group is: the values of a channel, or of a row; in which statistics are taken; and in
whether they are taken at all, since in inference running averages are used, which are constants.  Weights and biases
belong to an axis and are summed over all others, which is the other half of the mistakes.

Digits.  A variance as a difference of means has no digits left where the mean is large against the spread; the pages
take the deviations first.
"""

AFTER = "loss"
