"""Windows that move along axes of space: convolution, pooling, resampling."""
