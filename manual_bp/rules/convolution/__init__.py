"""Windows that move along axes of space: convolution, pooling, resampling.

At each position l a window covers a few elements of x, and y_l is a function of these alone, the same for each
position.  With taps k, a stride and a dilation, position l and tap k meet the element

    i = stride l + dilation k − padding

and every page of this chapter is a sum, a mean or a largest over pairs (l, k).  Backward needs the same pairs from the
other side: which positions, and with which tap, has x_i reached?  Where the stride is 1 that is a window again, turned
round; otherwise some of the pairs do not exist, and the mistakes of this chapter are mostly about which.

Weights.  A weight of a tap is used at each position, so that its cotangent is a sum over all of them: a convolution of
x with dy.

Overlaps.  Where windows overlap an element is reached several times and gets a sum; assigned instead of added it is
right only where the stride is as large as the window.  Padding is constant and gets nothing, whatever value it has.

Sizes.  How many positions fit is a division that rounds down.  Several lengths of x have one number of positions, so
that the length of dx cannot be read off dy, and what lies beyond the last window gets 0.
"""

AFTER = "attention"
