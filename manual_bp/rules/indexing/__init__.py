"""Indexing: elements that are looked up by their position.

An operation that copies numbers has derivatives that are 0 and 1.  Written with an Iverson bracket, which is 1 where
it holds, y_b = x_{i_b} has

    ∂y_b/∂x_e = [i_b = e]
    dx_e = Σ_b [i_b = e] dy_b

Forward gathers, backward scatters and adds: a number that is looked up several times gets the sum of all that comes
back, one that is never looked up gets 0.  That is all there is to derive, and it goes wrong in two ways: by assigning
where it should add, which is right as long as no index is repeated, and so passes tests with few of them; and by
mixing up the two directions in which an index leads.

An index is no number and has no cotangent.  What it may be (negative, beyond the end, one that is ignored) differs
between libraries and is said on each page.
"""

AFTER = "regularization"
