"""One step of training beside the gradient: what becomes of parameters, statistics and scales."""
