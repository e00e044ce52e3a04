"""Affine maps: every output a weighted sum of all inputs, and where the chain rule begins.

A network is a composition of operations, and its cost J a function of the output of each.  For an operation y = f(x)
write dy = ∂J/∂y for the cotangent of y: how the cost changes with each number of y.  Back-propagation asks for dx, and
the chain rule answers, since x_i reaches J through every y_o that depends on it:

    dx_i = Σ_o dy_o ∂y_o/∂x_i

Every page of this book is this sum, worked out for one operation.  Forward keeps what the derivatives need
(Residuals); backward takes it, and dy, and gives one cotangent for each input.  No page knows what stands before or
behind it: the dx of one layer is the dy of the layer before, and that is all of back-propagation through a chain.

For an affine map the derivatives are the weights themselves, so that the sum is a product with the transposed matrix.
In the letters of the course notes

    z(l+1) = W(l) a(l) + b(l)
    δ(l) = (W(l)ᵀ δ(l+1)) ⊙ σ'(z(l))
    ∂J/∂W(l) = δ(l+1) a(l)ᵀ
    ∂J/∂b(l) = δ(l+1)

the affine map of this chapter gives all but the factor σ'(z(l)), which belongs to the next one.
"""

AFTER = ""
