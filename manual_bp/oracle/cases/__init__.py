"""Cases: the points at which a candidate is compared."""
