"""Attention: rows that are averaged by how well their keys fit, and positions as rotations.

Every position asks with a query q_i, is found by a key k_j, and gives a value v_j.  What position i gets is an average
of the values, whose weights are a softmax of how well query and keys fit:

    s_ij = scale q_i · k_j
    p_ij = e^s_ij / Σ_m e^s_im
    y_i  = Σ_j p_ij v_j

Nothing here is new: two products of matrices, a scale, a softmax along a row, and perhaps a mask.  The derivative is
the product of theirs.  What comes back to p is dp_ij = dy_i · v_j; the softmax takes away its average under p,

    ds_ij = p_ij (dp_ij − Σ_m p_im dp_im)
                  direct   projection

and the sum can be had without the matrix p, as dy_i · y_i, which is what makes a backward possible that never stores
it.  From ds the two products give dq and dk, with the scale once in each.

Masks.  A position that may not be seen has s_ij = −∞, so that p_ij = 0 and nothing comes back; a row in which nothing
may be seen has no average, and what stands there is a convention.

Positions.  Attention does not know the order of its rows.  Rotations tell it: q and k are turned by an angle that
grows with the position, and only the difference of two angles is left in their product.  The derivative of a rotation
is the rotation back.
"""

AFTER = "indexing"
