"""Functions applied to each element, or along an axis: maxout, softmax."""
