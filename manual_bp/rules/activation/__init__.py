"""Functions applied to each element, and maxout."""
